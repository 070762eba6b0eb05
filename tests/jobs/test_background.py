"""Work beside the network: in order, bounded, and with errors where they belong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from processes import photographs

from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.estimation.background import WORKERS, BackgroundWork, prefetch
from segment.files.runs.manifest import MANIFEST
from segment.files.writing import write_npz
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import Network


class Counted:
    """Work that counts how much of it is made and not yet used."""

    def __init__(self) -> None:
        self.made, self.most, self.lock = 0, 0, threading.Lock()

    def __call__(self, item: int) -> int:
        with self.lock:
            self.made += 1
            self.most = max(self.most, self.made)
        return item

    def used(self) -> None:
        with self.lock:
            self.made -= 1


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_and_no_more_are_made_ahead_than_asked_for(workers: int) -> None:
    work, results = Counted(), []
    for result in prefetch(range(20), work, workers=workers):
        time.sleep(0.005)  # long enough for the threads to run ahead as far as they may
        results.append(result)
        work.used()
    assert results == list(range(20))
    assert work.most == workers + 1


def test_items_that_do_not_fit_beside_each_other_are_made_one_at_a_time() -> None:
    work = Counted()
    for _ in prefetch([60, 60, 10, 10, 200], work, workers=4, waiting_pixels=100, pixels=lambda item: item):
        time.sleep(0.005)
        work.used()
    assert work.most == 3  # 60 and 10 and 10


def test_an_error_ahead_is_raised_in_its_turn() -> None:
    results = prefetch([1, 2, 0, 4], lambda item: 1 // item, workers=2)
    assert [next(results), next(results)] == [1, 0]
    with pytest.raises(ZeroDivisionError):
        next(results)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_taken_in_the_order_of_the_work_however_long_each_takes(workers: int) -> None:
    taken: list[int] = []
    with BackgroundWork(taken.append, workers=workers) as behind:
        for number in range(12):
            behind.add(_later(number, seconds=0.01 if number % 3 == 0 else 0.0))
    assert taken == list(range(12))


def _later(number: int, *, seconds: float) -> Callable[[], int]:
    def work() -> int:
        time.sleep(seconds)
        return number

    return work


def test_the_caller_waits_while_more_pixels_wait_than_there_is_room_for() -> None:
    open_gate, taken = threading.Event(), list[int]()

    def gated() -> int:
        assert open_gate.wait(10)
        return 0

    with BackgroundWork(taken.append, workers=1, waiting_pixels=100) as behind:
        behind.add(gated, 60)
        assert not taken
        threading.Timer(0.05, open_gate.set).start()
        behind.add(lambda: 1, 60)  # does not fit beside the first
        assert taken[0] == 0


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_is_whole_is_taken_behind_work_that_failed_and_after_an_interrupt(interrupted: bool) -> None:  # noqa: FBT001
    taken: list[int] = []

    def broken() -> int:
        raise OSError("no space left")

    def run() -> None:
        with BackgroundWork(taken.append, workers=2) as behind:
            behind.add(_later(0, seconds=0.05))
            behind.add(broken)
            behind.add(_later(2, seconds=0))
            if interrupted:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt if interrupted else OSError):
        run()
    assert taken == [0, 2]


def test_a_run_is_the_same_whatever_the_number_of_workers(small_and_bank: tuple[Network, Bank], tmp_path: Path) -> None:
    network, bank = small_and_bank
    images = photographs(tmp_path / "images", 5, 32, 40)
    (images / "002.png").write_bytes(b"no image")
    found: dict[int, dict[str, bytes]] = {}
    for workers in (0, 1, 4):
        run = tmp_path / f"run{workers}"
        summary = predict(network, str(images), bank, run, PredictPlan(workers=workers, memory="16GiB"))
        assert (summary.done, list(summary.failed)) == (4, ["002"])
        lines = [json.loads(line) for line in (run / MANIFEST).read_text().splitlines()]
        assert [line["id"] for line in lines] == ["000", "001", "002", "003", "004"]
        timings = json.loads((run / "run.json").read_text())["timings"]
        assert timings["workers"] == workers
        assert timings["network"] > 0
        parts = timings["network"] + timings["waiting_for_images"] + timings["waiting_for_files"]
        assert 0.9 * timings["seconds"] <= parts <= timings["seconds"] + 0.01
        found[workers] = {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*.*") if file.is_file()}
        for name in ("run.json", MANIFEST):  # they hold times
            del found[workers][name]
    assert found[0] == found[1] == found[4]


def test_a_disk_that_fills_up_ends_the_run_with_the_lines_of_what_is_whole(
    small_and_bank: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, bank = small_and_bank
    images = photographs(tmp_path / "images", 8, 32, 40)
    written, lock = [], threading.Lock()

    def full(path: Path, values: Any) -> None:
        with lock:
            written.append(path.parent.name)
            if len(written) > 3:
                raise WrongUse("Cannot write: no space left.")
        write_npz(path, values)

    monkeypatch.setattr("segment.report.run_files.image_files.write_npz", full)
    with pytest.raises(WrongUse, match="no space left"):
        predict(network, str(images), bank, tmp_path / "run", PredictPlan(workers=3, formats=("npz",)))
    lines = [json.loads(line) for line in (tmp_path / "run" / MANIFEST).read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(written[:3])
    assert {line["status"] for line in lines} == {"done"}
    monkeypatch.undo()
    again = predict(network, str(images), bank, tmp_path / "run", PredictPlan(workers=3, formats=("npz",)), resume=True)
    assert (again.done, again.failed) == (8, {})


def test_a_negative_number_of_workers_is_refused() -> None:
    with pytest.raises(WrongUse, match="--workers -1"):
        PredictPlan(workers=-1)


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_the_command_line_has_the_same_default(command: str) -> None:
    module = import_module(f"segment.cli.commands.{command}")
    assert signature(getattr(module, command)).parameters["workers"].default == WORKERS
