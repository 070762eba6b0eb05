"""What a system may refuse a run: one line, an exit code, and a run that goes on to the same bytes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from console import Ended, fitted, photographs, segment, training

from benchmarks.kills import contents

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits of the system")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As the commands in processes of their own, whose plans are compared with those of this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Two images, a bank, and an undisturbed run."""
    folder = tmp_path_factory.mktemp("files")
    fitted(folder / "bank.safetensors", training(folder / "train"))
    photographs(folder / "photos", 2, (32, 48))
    assert predicted(folder, folder / "run").code == 0
    return folder


def words(files: Path, run: Path, *more: object) -> list[str]:
    given = ("predict", "scenes", files / "photos", "--bank", files / "bank.safetensors", "--draws", 2)
    return [str(word) for word in (*given, "--precision", "fp32", "-o", run, *more)]


def predicted(files: Path, run: Path, *more: object) -> Ended:
    return segment(*words(files, run, *more))


def goes_on_to_the_same_bytes(files: Path, run: Path) -> None:
    assert predicted(files, run, *(["--resume"] if run.exists() else [])).code == 0
    assert contents(run) == contents(files / "run")
    assert not list(run.rglob(".*.part*"))


class Disk:
    """Its nth write, counted where bytes are put on it, ends with an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes, self.fails_at, self.number = 0, 0, errno.ENOSPC
        self._sync = os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, handle: Any) -> None:
        self.writes += 1
        if self.writes == self.fails_at:
            raise OSError(self.number, os.strerror(self.number))
        self._sync(handle)


def test_a_disk_that_is_full_or_broken_at_any_write_is_one_line_and_the_run_goes_on(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, plain = Disk(monkeypatch), ("--format", "npz")
    assert predicted(files, tmp_path / "whole", *plain).code == 0
    whole, writes = contents(tmp_path / "whole"), disk.writes
    assert writes > 10
    for at in range(1, writes + 1):
        disk.writes, disk.fails_at = 0, at
        disk.number = errno.ENOSPC if at % 2 else errno.EIO
        run = tmp_path / f"run{at}"
        ended = predicted(files, run, *plain)
        disk.fails_at = 0
        if ended.code != 0:  # else it was a folder's own sync, which some file systems refuse
            assert ended.code == 2
            assert "Cannot write" in ended.error
            assert os.strerror(disk.number) in ended.error
            assert predicted(files, run, *plain, "--resume").code == 0
        assert contents(run) == whole
        assert not list(run.rglob(".*.part*"))


def test_a_read_only_folder_is_one_line_and_leaves_nothing(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def read_only(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if mode not in ("r", "rb"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, mode, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", read_only)
        ended = predicted(files, tmp_path / "run")
        assert ended.code == 2
        assert "Read-only file system" in ended.error
        fit = segment(
            "fit", "scenes", "--images", files / "train", "--draws", 2, "--batch", 2, "-o", tmp_path / "b.safetensors"
        )
        assert fit.code == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
    goes_on_to_the_same_bytes(files, tmp_path / "run")


def test_a_file_that_ends_too_early_is_not_taken_for_an_interruption(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(*_: object, **__: object) -> Any:
        raise EOFError("No data left in file")

    monkeypatch.setattr("segment.jobs.decisions.select.select", ends)
    monkeypatch.setattr("segment.experiments.reproduction.report", ends)
    for command in (("select", files / "run"), ("experiment", "report", files / "run", "-o", files / "page.md")):
        ended = segment(*command)
        assert ended.code == 2
        assert "No data left in file" in ended.error


def test_a_clock_that_goes_backwards_changes_no_result(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards() -> Iterator[float]:
        now = 2e9
        while True:
            now -= 3600
            yield now

    clock = backwards()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: next(clock))
        assert predicted(files, tmp_path / "run").code == 0
    for path in (files / "photos").iterdir():
        os.utime(path, (time.time() + 10**6, time.time() + 10**6))  # images of the future
    goes_on_to_the_same_bytes(files, tmp_path / "run")


def test_a_user_without_home_cache_or_temporary_folder_fits_and_predicts(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> Any:
        raise RuntimeError("Could not determine home directory.")

    def no_folder() -> Any:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", no_folder)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "file").touch()
    for cache in ("", str(tmp_path / "file" / "below")):
        monkeypatch.setenv("SEGMENT_CACHE", cache)
        bank = tmp_path / f"bank{len(cache)}.safetensors"
        ended = segment("fit", "scenes", "--images", files / "train", "--batch", 2, "--draws", 2, "-o", bank)
        assert ended.code == 0, ended.err
    goes_on_to_the_same_bytes(files, tmp_path / "run")


def limited(files: Path, run: Path, limits: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, whose system limits are set first."""
    code = f"import resource as r; {limits}; from segment.cli import main; main()"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": "/nowhere", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *words(files, run)]
    return subprocess.run(command, env=environment, text=True, stderr=subprocess.PIPE, check=False, **options)


@LINUX
def test_64_files_1_gib_of_data_and_no_output_are_enough(tmp_path: Path, files: Path) -> None:
    limits = "r.setrlimit(r.RLIMIT_NOFILE, (64, 64)); r.setrlimit(r.RLIMIT_DATA, (2**30, 2**30))"
    ended = limited(files, tmp_path / "run", limits, preexec_fn=lambda: os.close(1))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert contents(tmp_path / "run") == contents(files / "run")


@LINUX
def test_a_reader_that_goes_away_stops_no_run(tmp_path: Path, files: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = limited(files, tmp_path / "run", "pass", stdout=writing)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert contents(tmp_path / "run") == contents(files / "run")


@LINUX
def test_too_little_memory_for_torch_itself_is_one_line(tmp_path: Path, files: Path) -> None:
    limits = "r.setrlimit(r.RLIMIT_AS, (2**28, 2**28))"
    ended = limited(files, tmp_path / "run", limits)
    assert ended.returncode == 4
    assert ended.stderr.startswith("Error: Out of memory")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    goes_on_to_the_same_bytes(files, tmp_path / "run")
