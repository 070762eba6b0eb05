"""Memory, open files and speed of `segment predict` over many small images: nothing may grow with their number.

    python -m benchmarks.endurance [--images 10000] [--draws 2] [--size 32] [--workers 1]

Images of noise go through the embedded network, and every default file of each is written. The slope of the resident
memory is that of a straight line through one sample each hundred images, from the second thousand on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.memory import make_bank
from segment.estimation.memory_budget import keep_freed_pages, resident
from segment.estimation.overlap import WORKERS
from segment.files.banks import load_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network

EACH = 100
"""Images between two samples."""
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


@dataclass
class Samples:
    """The process after every EACH images: images, seconds, seconds of the processor, bytes in memory, open files."""

    rows: list[tuple[int, float, float, int, int]] = field(default_factory=list)

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None:
        if done % EACH == 0:
            files = len(list(Path("/proc/self/fd").iterdir()))
            self.rows.append((done, time.perf_counter(), time.process_time(), resident(), files))

    def rate(self, start: int, stop: int, clock: int) -> float:
        """Images a second between two counts of images. clock: 1: wall time, 2: processor time."""
        by_count = {row[0]: row[clock] for row in self.rows}
        return (stop - start) / (by_count[stop] - by_count[start])

    def summary(self, part: int) -> dict[str, float | int | list[int]]:
        """part: images of the first and the last part whose speed is compared."""
        settled = [row for row in self.rows if row[0] >= part]
        last, first = self.rows[-1][0], part
        counts, memory = (np.array([row[column] for row in settled], float) for column in (0, 3))
        first_wall, last_wall = self.rate(first, first + part, 1), self.rate(last - part, last, 1)
        first_processor, last_processor = self.rate(first, first + part, 2), self.rate(last - part, last, 2)
        return {
            "images": last,
            "rss_mib": [round(row[3] / MIB, 1) for row in self.rows if row[0] % part == 0],  # type: ignore[misc]
            "rss_mib_per_1000_images": float(np.polyfit(counts, memory, 1)[0]) * 1000 / MIB,
            "open_files_least": min(row[4] for row in settled),
            "open_files_most": max(row[4] for row in settled),
            "images_per_second_first": first_wall,
            "images_per_second_last": last_wall,
            "images_per_second_last_over_first": last_wall / first_wall,
            "images_per_processor_second_last_over_first": last_processor / first_processor,
        }


def endure(
    folder: Path, images: int, draws: int, size: int, part: int, workers: int = WORKERS
) -> dict[str, float | int | list[int]]:
    keep_freed_pages()  # as the command line does
    torch.set_num_threads(1)
    network, bank = load_network("scenes"), load_bank(make_bank(folder, "scenes", draws))
    samples = Samples()
    begun = time.perf_counter()
    predict(
        network,
        str(noise(folder / "images", images, size)),
        bank,
        folder / "run",
        PredictPlan(workers=workers),
        progress=samples,
    )
    seconds = time.perf_counter() - begun
    timings = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))["timings"]
    return {**samples.summary(part), "seconds_before_and_after": round(seconds - timings["seconds"], 2), **timings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--workers", type=int, default=WORKERS)
    arguments = parser.parse_args()
    part = max(EACH, min(1000, arguments.images // 4 // EACH * EACH))
    with tempfile.TemporaryDirectory() as folder:
        result = endure(Path(folder), arguments.images, arguments.draws, arguments.size, part, arguments.workers)
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
