"""What a run, a tuned setting or an experiment left is damaged, or half-written by a process that was killed."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from console import segment

from segment.errors import WrongUse
from segment.files.reading import json_values, read_json
from segment.files.runs.lock import LOCK, lock_folder, sole_writer
from segment.files.runs.manifest import MANIFEST, Entry, Lines, read_entries, read_manifest
from segment.files.runs.places import RECORD
from segment.files.runs.run import Run
from segment.files.writing import discard, write_npz
from segment.report.run_files.saved_maps import Maps

DEEP = b"[" * 100_000
PIPES = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are of POSIX")


def a_run(folder: Path) -> Path:
    with Run.create(folder, {"draws": 8}) as run:
        write_npz(run.path("a", "maps.npz"), {"variance": np.full((8, 8), 0.5, np.float32)})
        run.add(Entry(id="a", source="a.png", files=("a/maps.npz",), measures={"variance": {"mean": 0.5, "p95": 0.5}}))
    return folder


@pytest.mark.parametrize("data", [b"", b"{", b'{"a": NaN}', DEEP, b"1" * 5000, b"\xff\xfe"])
def test_json_that_python_does_not_hold_is_one_refusal(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_values(data)
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(WrongUse, match="is damaged or of another version") as refusal:
        read_json(tmp_path / "a.json", dict, advice="Remove it.")
    assert "\n" not in str(refusal.value)


@PIPES
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    for name in (MANIFEST, RECORD, "a/maps.npz"):
        (run / name).unlink()
        os.mkfifo(run / name)
    with pytest.raises(WrongUse, match="not a regular file"):
        read_entries(run / MANIFEST)
    with pytest.raises(WrongUse, match="not a regular file"):
        read_json(run / RECORD, dict, advice="")
    with pytest.raises(WrongUse, match="no archive of maps"):
        len(Maps(run / "a", ("maps.npz",)))


@pytest.mark.parametrize(
    "line",
    [
        "null",
        "[]",
        "{}",
        DEEP.decode(),
        '{"id": "a"}',
        '{"variance": 5}',
        '{"variance": {"mean": "x"}}',
        '{"files": 1}',
    ],
)
def test_a_line_that_no_run_writes_is_refused_by_its_number_by_every_reader(tmp_path: Path, line: str) -> None:
    run = a_run(tmp_path / "run")
    whole = json.loads((run / MANIFEST).read_text())
    if line.startswith('{"v') or line.startswith('{"f'):
        line = json.dumps(whole | json.loads(line))
    (run / MANIFEST).write_text(json.dumps(whole) + "\n" + line + "\n")
    for words in (("select", run), ("report", run, "-o", tmp_path / "r.html"), ("compare", run, run)):
        ended = segment(*words)
        assert ended.code == 2
        assert "line 2" in ended.error
    with pytest.raises(WrongUse, match="line 2"):
        Run.create(run, {"draws": 8}, resume=True)


def test_half_a_last_line_of_a_run_in_progress_is_left_to_its_process(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    data = (run / MANIFEST).read_bytes()
    (run / MANIFEST).write_bytes(data + data[:20])
    assert list(read_entries(run / MANIFEST)) == ["a"]
    assert (run / MANIFEST).read_bytes() == data + data[:20]


@pytest.mark.parametrize("record", [b"{half", b"[]", DEEP, b'{"settings": 1}'])
def test_a_damaged_record_is_refused_by_every_reader(tmp_path: Path, record: bytes) -> None:
    run = a_run(tmp_path / "run")
    (run / RECORD).write_bytes(record)
    for words in (("select", run), ("compare", run, run)):
        ended = segment(*words)
        assert ended.code == 2
        assert RECORD in ended.error


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[: len(data) // 2], lambda data: b"x" * len(data), lambda data: DEEP]
)
def test_damaged_maps_are_named_with_the_way_out(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run = a_run(tmp_path / "run")
    path = run / "a" / "maps.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WrongUse, match=r"maps\.npz.*Remove it, and --resume makes its image again"):
        dict(Maps(run / "a", ("maps.npz",)))


def test_a_link_to_itself_in_the_place_of_a_file_is_taken_away(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    path = run / "a" / "maps.npz"
    path.unlink()
    path.symlink_to(path)
    discard([path], run)
    assert not (run / "a").exists()


def test_who_has_a_folder_alone_clears_what_was_half_written_but_not_below_another_lock(tmp_path: Path) -> None:
    other = tmp_path / "out" / "other"
    for folder in (tmp_path / "out", tmp_path / "out" / "below", other):
        folder.mkdir()
        (folder / ".page.md.1-2.part").touch()
        (folder / ".group.1-2.part").mkdir()
        (folder / ".group.1-2.part" / "zarr.json").touch()
        (folder / "kept.part").touch()
        (folder / ".mine.part").touch()  # of another program
    lock = lock_folder(other)
    with sole_writer(tmp_path / "out"), pytest.raises(WrongUse, match="Another process"), sole_writer(tmp_path / "out"):
        pass
    lock.release()
    left = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")}
    assert {name for name in left if not name.startswith("other")} == {
        LOCK,
        *("kept.part", ".mine.part", "below", "below/kept.part", "below/.mine.part"),
    }
    assert "other/.page.md.1-2.part" in left
    assert "other/.group.1-2.part/zarr.json" in left


def _entry(id: str) -> Entry:
    return Entry(id=id, source=id, status="failed", error="none")


def test_a_line_is_counted_before_anybody_sees_it_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(tmp_path / MANIFEST)
    lines.add(_entry("a"))

    class Stream(io.BufferedWriter):
        def flush(self) -> None:
            super().flush()
            if self.tell() > end:  # whoever sees the line ends the run
                raise KeyboardInterrupt

    end = (tmp_path / MANIFEST).stat().st_size
    monkeypatch.setattr(Path, "open", lambda path, _, buffering: Stream(io.FileIO(path, "a"), buffering))
    with pytest.raises(KeyboardInterrupt):
        lines.add(_entry("b"))
    monkeypatch.undo()
    assert {id: line["id"] for id, line in lines.items()} == {"a": "a", "b": "b"}
    assert list(read_manifest(tmp_path / MANIFEST)) == ["a", "b"]


def test_a_line_that_the_disk_does_not_take_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Lines(tmp_path / MANIFEST)
    lines.add_lines([])
    lines.add(_entry("a"))
    before = lines["a"]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    for id in ("a", "b"):
        with pytest.raises(WrongUse, match="full"):
            lines.add(_entry(id))
    assert dict(lines) == {"a": before}
