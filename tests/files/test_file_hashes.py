"""A file's hash is that of its bytes, read anew unless nothing about the file has changed since."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

import segment.files.file_hashes as file_hashes
from segment.files.file_hashes import sha256_of_files
from segment.images.contents.states import FileState


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "hashes.json"


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose times lie so far back that its hash is kept."""
    monkeypatch.setattr(file_hashes, "SETTLED", -(10**12))
    path = tmp_path / "image.png"
    path.write_bytes(b"one")
    return path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_paths(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    real = file_hashes._hashed

    def watched(path: Path) -> tuple[str, FileState | None]:
        read.append(path)
        return real(path)

    monkeypatch.setattr(file_hashes, "_hashed", watched)
    return read


def test_an_unchanged_file_is_read_once(settled: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = read_paths(monkeypatch)
    assert [sha256_of_files([settled], memory) for _ in range(3)] == [[sha256(b"one")]] * 3
    assert read == [settled]


def test_each_thing_that_changes_a_file_makes_it_read_anew(
    settled: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256_of_files([settled], memory)
    status = settled.stat()
    settled.write_bytes(b"two")  # the same size, and the time of before: ctime alone tells
    os.utime(settled, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert sha256_of_files([settled], memory) == [sha256(b"two")]
    read = read_paths(monkeypatch)
    for change in range(4):  # size, mtime, ctime, inode, each alone
        kept = json.loads(memory.read_text())
        kept[str(settled)][0][change] += 1
        memory.write_text(json.dumps(kept))
        sha256_of_files([settled], memory)
    assert len(read) == 4
    other = settled.rename(settled.with_name("other.png"))
    assert sha256_of_files([other], memory) == [sha256(b"two")]
    assert len(read) == 5


def test_a_file_written_a_moment_ago_is_read_again(tmp_path: Path, memory: Path) -> None:
    """Two writes within one tick of the file system's clock leave the times as they are."""
    path = tmp_path / "image.png"
    path.write_bytes(b"one")
    assert sha256_of_files([path], memory) == [sha256(b"one")]
    assert not memory.exists()


def test_a_file_that_cannot_be_read_has_a_hash_of_its_own(tmp_path: Path, memory: Path) -> None:
    missing = sha256_of_files([tmp_path / "a.png", tmp_path / "b.png"], memory)
    assert len(set(missing)) == 2
    (tmp_path / "a.png").write_bytes(b"one")
    assert sha256_of_files([tmp_path / "a.png"], memory) == [sha256(b"one")]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 3}', b'{"a": [[1], "b"]}', b"[" * 10**5, b"\xff"])
def test_a_damaged_memory_costs_nothing_but_time(settled: Path, memory: Path, content: bytes) -> None:
    memory.parent.mkdir()
    memory.write_bytes(content)
    assert sha256_of_files([settled], memory) == [sha256(b"one")]


def test_a_memory_that_cannot_be_written_costs_nothing_but_time(settled: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert sha256_of_files([settled], tmp_path / "taken" / "hashes.json") == [sha256(b"one")]


def test_a_name_that_is_no_utf8_is_remembered(settled: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = settled.rename(Path(os.fsdecode(os.fsencode(settled.parent) + b"/caf\xe9.png")))
    sha256_of_files([odd], memory)
    read = read_paths(monkeypatch)
    assert sha256_of_files([odd], memory) == [sha256(b"one")]
    assert not read


def test_the_memory_holds_so_many_files(
    tmp_path: Path, memory: Path, settled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_hashes, "MOST", 2)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        path.write_bytes(b"x")
    sha256_of_files([settled, *paths], memory)
    assert list(json.loads(memory.read_text())) == [str(path) for path in paths[1:]]
