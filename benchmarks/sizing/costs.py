"""What decoding, the network, writing and the head take for an image: the figures that `benchmarks.sizing` starts from.

    python -m benchmarks.sizing.costs MODEL --bank BANK --images LIST [--count 14] [--few 100] [--many 400]

An image's seconds are those of one processor, with one thread and all in turn, without the first two images. The
head's are the command's own on Ray: what it takes for an image more, and what it takes all the time, as three runs over
tiny images tell, of which one has more images and one more draws.
Must not know what is made of them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.endurance import noise
from benchmarks.memory import make_bank
from segment.files.banks.bank_file import load_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.images import ImagePredictor
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network
from segment.runners.on_ray import RayRunner

SETTINGS = {
    "T = 16, all default files": (16, ("png", "npz")),
    "K = 8, all default files": (8, ("png", "npz")),
    "K = 8, maps.npz alone": (8, ("npz",)),
    "K = 8, pictures alone": (8, ("png",)),
}
FIRST = 2
"""Images that are not counted: the network is traced, and its fast passes are compared with plain ones."""

SLOW = 64
"""Draws of a run that lasts longer over as many images."""

STAGES = {"read": "decode", "estimate": "network", "write": "write"}


class Clock:
    """Seconds of the processor and of the wall in which a call is made."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def __call__(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            processor, wall = time.process_time(), time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name].append((time.process_time() - processor, time.perf_counter() - wall))

        return timed


def stages(model: str, bank: Path, sources: Sequence[Path], folder: Path, draws: int, formats: Any) -> dict[str, Any]:
    """The figures of `model.Image`."""
    network, clock = load_network(model), Clock()
    listed = folder.with_suffix(".txt")
    listed.write_text("".join(f"{source}\n" for source in sources), encoding="utf-8")
    plan = PredictPlan(draws=draws, formats=formats, workers=0)
    with (
        patch.object(ImagePredictor, "read", clock("read", ImagePredictor.read)),
        patch.object(ImagePredictor, "estimate", clock("estimate", ImagePredictor.estimate)),
        patch.object(ImagePredictor, "write", clock("write", ImagePredictor.write)),
    ):
        predict(network, str(listed), load_bank(bank), folder, plan)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    files = [(folder / name).stat().st_size for line in lines for name in line["files"]]
    result: dict[str, Any] = {"passes": draws, "images": len(sources) - FIRST}
    for call, stage in STAGES.items():
        processor, wall = (sum(column) / result["images"] for column in zip(*clock.seconds[call][FIRST:], strict=True))
        result |= {stage: processor, f"{stage}_wall": wall}
    return result | {
        "read": sum(source.stat().st_size for source in sources) / len(sources),
        "written": sum(files) / len(lines),
        "writes": len(files) / len(lines),
    }


def head(folder: Path, few: int, many: int) -> dict[str, float]:
    """Processor seconds of the command's own process.

    image: of an image while others work; serial: before and after. polling: of a second in which others work
    """
    network, bank = load_network("scenes"), load_bank(make_bank(folder, "scenes", SLOW))
    spent = []
    with RayRunner(actors=1) as runner:
        for number, (count, draws) in enumerate(((FIRST, 1), (few, 1), (few, SLOW), (many, 1))):  # the first imports
            clock, plan = Clock(), PredictPlan(draws=draws)
            images = noise(folder / f"images_{number}", count, 32)
            begun = time.process_time()
            with patch.object(RayRunner, "__call__", clock("units", RayRunner.__call__)):
                predict(network, str(images), bank, folder / f"run_{number}", plan, runner=runner)
            spent.append((*clock.seconds["units"][0], time.process_time() - begun))
    _, start, slow, last = spent
    polling = (slow[0] - start[0]) / (slow[1] - start[1])
    image = (last[0] - start[0] - polling * (last[1] - start[1])) / (many - few)
    serial = (last[2] - last[0] - start[2] + start[0]) / (many - few)
    return {"image": image, "serial": serial, "polling": polling, "few": few, "many": many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--bank", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="a list: an image, and more, a line")
    parser.add_argument("--count", type=int, default=14)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lines = [line.split() for line in arguments.images.read_text(encoding="utf-8").splitlines() if line.strip()]
    sources = [(arguments.images.parent / line[0]).resolve() for line in lines[: arguments.count]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {
            words: stages(arguments.model, arguments.bank, sources, folder / f"{number}", *setting)
            for number, (words, setting) in enumerate(SETTINGS.items())
        }
        result = {"settings": settings, "head": head(folder, arguments.few, arguments.many)}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
