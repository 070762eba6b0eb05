"""Predict and evaluate here and on Ray: whether the files are the same, and what Ray costs.

    python -m benchmarks.runners MODEL --bank BANK --images LIST [--count 40] [--actors 2]

LIST names an image and its label a line. Each command is a process of its own with one thread; the seconds are those of
processors, of it and of all processes that it starts, which other load on the machine changes little. A run of few
images is taken off, so that an image's cost stands apart from that of starting. Wall seconds compare Ray's actors with
as many commands side by side, each on its part of the list. Must not know how a runner works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.kills import TIMES

STARTING = 2
"""Images of the run that is taken off."""

EVERY = 0.1
"""Seconds between two looks at the processes."""

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class Processes:
    """Commands that run at the same time, and the processor seconds of all that they start."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands, self._spent = commands, dict[int, float]()

    def __call__(self) -> tuple[float, float]:
        """Processor and wall seconds. Errors: RuntimeError where a command fails."""
        begun = time.perf_counter()
        running = [
            subprocess.Popen([sys.executable, "-m", "segment", *command], env=os.environ | ONE_THREAD)
            for command in self._commands
        ]
        while any(process.poll() is None for process in running):
            for process in running:
                self._look(process.pid)
            time.sleep(EVERY)
        if codes := [process.returncode for process in running if process.returncode]:
            raise RuntimeError(f"A command ended with {codes[0]}: {self._commands}")
        return sum(self._spent.values()), time.perf_counter() - begun

    def _look(self, number: int) -> None:
        try:
            root = psutil.Process(number)
            for process in (root, *root.children(recursive=True)):
                times = process.cpu_times()
                self._spent[process.pid] = max(self._spent.get(process.pid, 0.0), times.user + times.system)
        except psutil.Error:
            return  # it has ended


def part(lines: Sequence[str], path: Path) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def differing(one: Path, other: Path) -> list[str]:
    """Files of images, and the sheet, that are not the same in two runs."""
    names = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}
    kept = [name for name in sorted(names) if name.name not in ("manifest.jsonl", "run.json", ".lock")]
    return [str(name) for name in kept if _bytes(one / name) != _bytes(other / name)]


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def same_counts(one: Path, other: Path) -> dict[str, bool]:
    """Whether two evaluations have the same counts, bit for bit, and the same scores."""
    with np.load(one / "state.npz") as mine, np.load(other / "state.npz") as theirs:
        names = [name for name in mine.files if name != "progress"]
        counts = all(np.array_equal(mine[name], theirs[name]) for name in names)
    scores = [_scores(folder) for folder in (one, other)]
    return {"counts": counts, "scores": scores[0] == scores[1]}


def _scores(folder: Path) -> Any:
    content = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return {name: {key: of[key] for key in of if key not in TIMES} for name, of in content["methods"].items()}


def compared(model: str, bank: str, lines: Sequence[str], actors: int, folder: Path, scored: int) -> dict[str, Any]:
    predict = ["predict", model, "--bank", bank, "--quiet"]
    evaluate = ["evaluate", model, "--bank", bank, "--quiet", "--methods", "mcbn,deterministic", "--draws", "4"]
    on_ray = ["--runner", "ray", "--actors", str(actors)]
    few, every = part(lines[:STARTING], folder / "few.txt"), part(lines, folder / "all.txt")
    result: dict[str, Any] = {"images": len(lines), "actors": actors}
    for name, more in (("here", []), ("ray", on_ray)):
        begun = Processes([[*predict, few, "-o", str(folder / f"{name}_few"), *more]])()
        whole = Processes([[*predict, every, "-o", str(folder / name), *more]])()
        result[name] = {
            "processor_seconds": whole[0],
            "wall_seconds": whole[1],
            "processor_seconds_an_image": (whole[0] - begun[0]) / (len(lines) - STARTING),
            "processor_seconds_to_start": begun[0],
        }
    beside = [
        [*predict, part(lines[number::actors], folder / f"part_{number}.txt"), "-o", str(folder / f"part_{number}")]
        for number in range(actors)
    ]
    result["side_by_side"] = dict(zip(("processor_seconds", "wall_seconds"), Processes(beside)(), strict=True))
    result["differing_files"] = differing(folder / "here", folder / "ray")
    result["overhead_an_image"] = (
        result["ray"]["processor_seconds_an_image"] / result["here"]["processor_seconds_an_image"] - 1
    )
    some = part(lines[:scored], folder / "scored.txt")
    for name, more in (("scores_here", []), ("scores_ray", on_ray)):
        Processes([[*evaluate, "--images", some, "-o", str(folder / name), *more]])()
    result["evaluate"] = {"images": scored, **same_counts(folder / "scores_here", folder / "scores_ray")}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--bank", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--scored", type=int, default=16)
    parser.add_argument("--actors", type=int, default=2)
    arguments = parser.parse_args()
    lines = [line for line in arguments.images.read_text(encoding="utf-8").splitlines() if line.strip()]
    root = arguments.images.parent.resolve()
    whole = ["\t".join(str((root / name).resolve()) for name in line.split()) for line in lines[: arguments.count]]
    with tempfile.TemporaryDirectory() as folder:
        result = compared(
            arguments.model, arguments.bank, whole, arguments.actors, Path(folder), min(arguments.scored, len(whole))
        )
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
