"""Memory, open files and speed of `segment predict` over many small images: nothing may grow with their number.

    python -m benchmarks.endurance [--images 10000] [--draws 2] [--size 32] [--workers 1]

Images of noise go through the embedded network, and every default file of each is written. The slope of the resident
memory is that of a straight line through one sample each hundred images, from the second thousand on. The speed of a
machine with other tenants changes by a fifth from one thousand images to the next, so the run's speed is given beside
that of new runs, which another process makes between its images.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.memory import make_bank
from segment.draws.bank import Bank
from segment.estimation.background import WORKERS
from segment.estimation.memory_budget import keep_freed_pages, resident
from segment.files.banks.bank_file import load_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import Network, load_network

EACH = 100
"""Images between two samples."""

BETWEEN = 250
"""Images between two new runs."""
STARTING, NEW = 20, 60
"""Images of a new run that are not timed, and all."""
MIB = 2**20


def noise(folder: Path, count: int, size: int) -> Path:
    """Images of noise, 100 in a folder; the folder of all."""
    generator = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 100:03}" / f"{number:05}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (size, size, 3), dtype=np.uint8)
        place.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return folder


class NewRuns:
    """Runs of NEW images in a process of its own, one for each call: seconds of an image, of clock and processor."""

    def __init__(self, bank: Path, size: int, workers: int) -> None:
        words = [str(noise(bank.parent / "images", NEW, size)), str(bank), str(workers)]
        command = [sys.executable, "-m", "benchmarks.endurance", "--new-runs", *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> tuple[float, float]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wall, processor = self._process.stdout.readline().split()
        return float(wall), float(processor)

    def end(self) -> None:
        self._process.communicate()


def new_runs(images: Path, bank: Path, workers: int) -> None:
    """After each line on stdin one run; its numbers go to stdout."""
    network, loaded, plan = _settings(bank, workers)
    for _ in sys.stdin:
        ticks: dict[int, tuple[float, float]] = {}

        def tick(stage: str, done: int, total: int, draws: int = 0, ticks: Any = ticks) -> None:
            ticks[done] = (time.perf_counter(), time.process_time())

        with tempfile.TemporaryDirectory() as folder:
            predict(network, str(images), loaded, Path(folder) / "run", plan, progress=tick)
        seconds = ((end - start) / (NEW - STARTING) for start, end in zip(ticks[STARTING], ticks[NEW], strict=True))
        sys.stdout.write(" ".join(map(str, seconds)) + "\n")
        sys.stdout.flush()


def _settings(bank: Path, workers: int) -> tuple[Network, Bank, PredictPlan]:
    keep_freed_pages()  # as the command line does
    torch.set_num_threads(1)
    return load_network("scenes"), load_bank(bank), PredictPlan(workers=workers)


@dataclass
class Samples:
    """The process after every EACH images: images, seconds, seconds of the processor, bytes in memory, open files.

    pairs: seconds of an image, of clock and processor, over those of new runs before and after; one each BETWEEN images
    """

    new_run: NewRuns
    rows: list[tuple[int, float, float, int, int]] = field(default_factory=list)
    pairs: list[tuple[float, float]] = field(default_factory=list)
    _paused: list[float] = field(default_factory=lambda: [0.0, 0.0])
    _before: tuple[tuple[float, float], tuple[float, float]] | None = None

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None:
        begun = time.perf_counter(), time.process_time()
        now = tuple(at - paused for at, paused in zip(begun, self._paused, strict=True))
        if done % EACH == 0:
            files = len(list(Path("/proc/self/fd").iterdir()))
            self.rows.append((done, now[0], now[1], resident(), files))
        if done % BETWEEN == 0:
            new = self.new_run()
            if self._before is not None:
                then, new_then = self._before
                spent = [(at - before) / BETWEEN for at, before in zip(now, then, strict=True)]
                wall, processor = (2 * own / sum(both) for own, *both in zip(spent, new, new_then, strict=True))
                self.pairs.append((wall, processor))
            self._before = (now[0], now[1]), new
            ended = time.perf_counter(), time.process_time()
            self._paused = [p + end - begin for p, end, begin in zip(self._paused, ended, begun, strict=True)]

    def rate(self, start: int, stop: int, clock: int) -> float:
        """Images a second between two counts of images. clock: 1: wall time, 2: processor time."""
        by_count = {row[0]: row[clock] for row in self.rows}
        return (stop - start) / (by_count[stop] - by_count[start])

    def summary(self, part: int) -> dict[str, Any]:
        """part: images of the first and the last part whose speed is compared."""
        settled = [row for row in self.rows if row[0] >= part]
        last = self.rows[-1][0]
        counts, memory = (np.array([row[column] for row in settled], float) for column in (0, 3))
        starts = range(part, last, part)
        walls, processors = ([self.rate(at, at + part, clock) for at in starts] for clock in (1, 2))
        return {
            "images": last,
            "rss_mib": [round(row[3] / MIB, 1) for row in self.rows if row[0] % part == 0],
            "rss_mib_per_1000_images": float(np.polyfit(counts, memory, 1)[0]) * 1000 / MIB,
            "open_files_least": min(row[4] for row in settled),
            "open_files_most": max(row[4] for row in settled),
            "images_per_second": [round(rate, 3) for rate in walls],
            "images_per_processor_second": [round(rate, 3) for rate in processors],
            "images_per_second_last_over_first": walls[-1] / walls[0],
            "images_per_processor_second_last_over_first": processors[-1] / processors[0],
            "new_runs": len(self.pairs) + 1,
            "beside_new_runs": {
                name: _growth([pair[clock] for pair in self.pairs]) for clock, name in enumerate(("clock", "processor"))
            },
        }


def _growth(seconds: Sequence[float]) -> dict[str, Any]:
    """How the seconds of an image change over a run, each over those of a new run: speed at its end over at its start.

    By a straight line through the logarithms; low and high: two standard errors of it.
    """
    place = np.linspace(-0.5, 0.5, len(seconds))
    logs = np.log(seconds)
    slope = float(place @ logs / (place @ place))
    left = logs - logs.mean() - slope * place
    error = float(np.sqrt(left @ left / (len(seconds) - 2) / (place @ place)))
    low, middle, high = (math.exp(-slope + by * error) for by in (-2, 0, 2))
    return {
        "seconds_over_new": [round(value, 4) for value in seconds],
        "last_over_first": middle,
        "low": low,
        "high": high,
    }


def endure(folder: Path, images: int, draws: int, size: int, part: int, workers: int = WORKERS) -> dict[str, Any]:
    place = make_bank(folder, "scenes", draws)
    network, bank, plan = _settings(place, workers)
    new = NewRuns(place, size, workers)
    samples = Samples(new)
    source = str(noise(folder / "many", images, size))
    predict(network, source, bank, folder / "run", plan, progress=samples)
    new.end()
    return samples.summary(part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--new-runs", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.new_runs:
        photos, bank, workers = arguments.new_runs
        new_runs(Path(photos), Path(bank), int(workers))
        return
    part = max(EACH, min(1000, arguments.images // 4 // EACH * EACH))
    with tempfile.TemporaryDirectory() as folder:
        result = endure(Path(folder), arguments.images, arguments.draws, arguments.size, part, arguments.workers)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
