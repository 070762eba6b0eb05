"""Every unit is done once and counted, whatever ends the processes that do them; what refuses one refuses here."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from counting import Counting, Unit

import segment
from segment.errors import MissingExtra, OutOfMemory, WrongUse
from segment.runners.on_ray import RayRunner, RowOutcome
from segment.runners.process import ProcessSettings, memory_for, torch_threads
from segment.runners.runner import LOCAL, Runner


def names(count: int) -> list[Unit]:
    return [("", f"{number:03}") for number in range(count)]


def counted(runner: Runner, units: list[Unit], folder: Path, together: int = 1) -> Counting:
    worker = Counting(folder, together)
    runner(worker, units)
    return worker


@pytest.fixture(scope="module")
def runner(ray: Any) -> Any:
    with RayRunner(actors=2) as opened:
        yield opened
    assert ray.is_initialized()  # it was not started by the runner


def test_the_local_runner_does_all_units_here(tmp_path: Path) -> None:
    worker = counted(LOCAL, names(5), tmp_path)
    assert dict(worker.counts.units) == dict.fromkeys((name for _, name in names(5)), 1)
    assert worker.counts.processes == {os.getpid()}


def test_units_are_done_once_by_several_processes_and_their_counts_merge_in_a_tree(
    runner: Runner, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    units = [("meet 2" if number % 40 == 0 else "", f"{number:04}") for number in range(1200)] + [("warn", "last")]
    caplog.set_level(logging.WARNING, "segment")
    worker = counted(runner, units, tmp_path, together=4)
    assert dict(worker.counts.units) == dict.fromkeys((name for _, name in units), 1)
    assert len(worker.counts.processes) == 2
    assert not worker.counts.processes & {os.getpid()}
    assert worker.counts.arenas == {"1"}  # so that the pages of a pass are kept for the next
    assert worker.failed == {}
    assert [record.getMessage() for record in caplog.records] == ["last is odd"]
    assert [record.args for record in caplog.records] == [("last",)], (
        "with its arguments, so that what is alike is seen"
    )


def test_a_process_that_ends_loses_no_unit_and_one_that_always_ends_it_is_recorded(
    runner: Runner, tmp_path: Path
) -> None:
    units = [*names(20), ("end once", "kills its first process"), ("end", "kills every process"), *names(41)[21:]]
    worker = counted(runner, units, tmp_path)
    others = [name for kind, name in units if kind != "end"]
    assert {name for name in others if worker.counts.units[name] == 1} == set(others)
    assert list(worker.failed) == ["kills every process"]
    assert "each time" in worker.failed["kills every process"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [("refuse", OutOfMemory), ("mistake", AttributeError), ("own", RuntimeError), ("held", RuntimeError)],
)
def test_what_ends_the_work_elsewhere_ends_it_here(
    kind: str, error: type[Exception], runner: Runner, tmp_path: Path
) -> None:
    with pytest.raises(error, match="014"):
        counted(runner, [*names(14), (kind, "014"), *names(30)[15:]], tmp_path)


def test_no_unit_starts_no_process(runner: Runner, tmp_path: Path) -> None:
    assert counted(runner, [], tmp_path).counts.processes == set()


def test_a_worker_that_cannot_be_sent_is_refused(runner: Runner, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as stream:
        worker = Counting(tmp_path)
        worker.factory = lambda units: lambda: stream  # type: ignore[assignment, return-value]
        with pytest.raises(WrongUse, match="cannot be sent to another process"):
            runner(worker, names(1))


def test_actors_and_their_threads_fill_the_cores(ray: Any, tmp_path: Path) -> None:
    with torch_threads(1), RayRunner() as runner:
        assert runner.processes == 2, "also before threads are asked for"
        assert memory_for(runner, None, torch.device("cpu")) is not None
    with RayRunner() as runner:
        assert (runner.threads(1), runner.processes) == (1, 2)
        assert (runner.threads(2), runner.processes) == (2, 1)
        assert (runner.threads(8), runner.processes) == (2, 1)
    with RayRunner(actors=2) as runner:
        assert (runner.threads(2), runner.processes) == (1, 2)
    with RayRunner(actors=3) as runner:  # more than there are cores
        assert (runner.threads(2), runner.processes) == (1, 3)
        assert len(counted(runner, [("meet 3", name) for _, name in names(30)], tmp_path).counts.processes) == 3
    with pytest.raises(WrongUse, match="number of processes from 1 up"):
        RayRunner(actors=0)
    with pytest.raises(WrongUse, match="take --device cpu"), RayRunner(device="cuda"):
        pass


def test_a_ray_that_is_not_there_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = import_module("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and listens to nobody
        address = f"127.0.0.1:{bound.getsockname()[1]}"
        begun = time.monotonic()
        for asked in (address, f"ray://{address}"):
            with (
                pytest.raises(WrongUse, match=r"No Ray answers at .*refused.*ray start --head"),
                RayRunner(address=asked),
            ):
                pass
        assert time.monotonic() - begun < 60


def test_a_ray_that_was_started_here_ends_where_it_has_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    ray: Any = import_module("ray")
    ended = list[bool]()
    monkeypatch.setattr(RayRunner, "_connect", lambda self: setattr(self, "_started", True))
    for name, value in {"is_initialized": False, "cluster_resources": {"CPU": 2.0}, "nodes": []}.items():
        monkeypatch.setattr(ray, name, lambda value=value: value)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(WrongUse, match="take --device cpu"), RayRunner(device="cuda"):
        pass
    assert ended == [True]


def test_ray_is_imported_by_one_module_alone() -> None:
    sources = {path: path.read_text() for path in (Path(segment.__file__).parent).rglob("*.py")}
    importing = re.compile(r"^\s*(import|from) ray\b|imported\(.ray\b", re.MULTILINE)
    assert [path.name for path, text in sources.items() if importing.search(text)] == ["on_ray.py"]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mcbn-segment\[ray\]'"), RayRunner():
        pass


def test_rows_that_come_back_beside_one_that_was_counted_are_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Part(list[int]):
        def merge(self, other: list[int]) -> None:
            self.extend(other)

    class Merging:
        counted: ClassVar[list[int]] = []

        def merge(self, part: Part) -> None:
            self.counted.extend(part)

    runner = RayRunner.__new__(RayRunner)
    twice = RowOutcome([3], Part([3]))
    twice.merge(RowOutcome([3, 4], Part([3, 4])))  # in a process that merges some before they come back
    outcomes = [RowOutcome([0], Part([0])), RowOutcome([0, 1], Part([0, 1])), RowOutcome([2], Part([2])), twice]
    monkeypatch.setattr(RayRunner, "_outcomes", lambda *_: iter(outcomes))
    worker: Any = Merging()
    assert runner._missing(worker, [[0], [1], [2], [3], [4]], None) == [[1], [4]]
    assert worker.counted == [0, 2, 3]


def test_a_worker_of_other_versions_says_so(caplog: pytest.LogCaptureFixture) -> None:
    settings = ProcessSettings.here(torch.get_num_threads(), [])
    settings.apply()
    assert caplog.records == []
    replace(settings, versions={**settings.versions, "torch": "1.0"}).apply()
    assert "has other versions than the command: torch 1.0 (there " in caplog.text
