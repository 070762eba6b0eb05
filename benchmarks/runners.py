"""Predict and evaluate here and on Ray: whether the files are the same, and what Ray costs.

    python -m benchmarks.runners MODEL --bank BANK --images LIST [--count 40] [--actors 2] [--pairs 5]

LIST names an image and its label a line. Each command is a process of its own with one thread; the seconds are those of
processors, of it and of all processes that it starts: those that do the work, and on Ray those of Ray itself, which go
on whether there is work or not. A run of few images is taken off, so that an image's cost stands apart from that of
starting. Ray's actors are compared with as many commands side by side, each on its part of the list, which share the
caches of the machine as they do. --pairs: that comparison alone, on one part of the list after the other, the two in
turn, because the speed of a machine with other tenants changes by more than they differ. Must not know how a runner
works.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
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

ACTOR = "RowActor"
"""In the name of a process of Ray that does work."""

ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}


class Processes:
    """Commands that run at the same time, and the processor seconds of all that they start."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        self._commands, self._spent, self._own = commands, dict[int, float](), set[int]()

    def __call__(self) -> dict[str, float]:
        """`work`, `ray` and `others`, processor seconds; and `wall`. Errors: RuntimeError where a command fails.

        `others` are those of all other programs of the machine.
        """
        begun, before = time.perf_counter(), _all_seconds()
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
        of_ray = sum(spent for number, spent in self._spent.items() if number in self._own)
        return {
            "work": sum(self._spent.values()) - of_ray,
            "ray": of_ray,
            "others": max(0.0, _all_seconds() - before - sum(self._spent.values())),
            "wall": time.perf_counter() - begun,
        }

    def _look(self, number: int) -> None:
        """Ray's own processes are all below the command but actors, which have that in their names."""
        try:
            root = psutil.Process(number)
            for process in (root, *root.children(recursive=True)):
                times, name = process.cpu_times(), " ".join(process.cmdline())
                self._spent[process.pid] = max(self._spent.get(process.pid, 0.0), times.user + times.system)
                if process.pid != number and ACTOR not in name:
                    self._own.add(process.pid)
                else:
                    self._own.discard(process.pid)
        except psutil.Error:
            return  # it has ended


def _all_seconds() -> float:
    """Of all processors of the machine, since it was started."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


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
        counts = all(np.array_equal(mine[name], theirs[name], equal_nan=mine[name].dtype.kind == "f") for name in names)
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
        result[f"{name}_starting"] = Processes([[*predict, few, "-o", str(folder / f"{name}_few"), *more]])()
        result[name] = Processes([[*predict, every, "-o", str(folder / name), *more]])()
    beside = [
        [*predict, part(lines[number::actors], folder / f"part_{number}.txt"), "-o", str(folder / f"part_{number}")]
        for number in range(actors)
    ]
    result["side_by_side"] = Processes(beside)()
    result["differing_files"] = differing(folder / "here", folder / "ray")
    started = result["here_starting"]["work"]  # of each command, and STARTING of its images
    here = (result["side_by_side"]["work"] - actors * started) / (len(lines) - actors * STARTING)
    there = (result["ray"]["work"] - result["ray_starting"]["work"]) / (len(lines) - STARTING)
    result["seconds_an_image"] = {"here": here, "ray": there}
    result["overhead_of_work"] = there / here - 1
    result["cores_of_ray"] = (result["ray"]["ray"] - result["ray_starting"]["ray"]) / (
        result["ray"]["wall"] - result["ray_starting"]["wall"]
    )
    some = part(lines[:scored], folder / "scored.txt")
    for name, more in (("scores_here", []), ("scores_ray", on_ray)):
        Processes([[*evaluate, "--images", some, "-o", str(folder / name), *more]])()
    result["evaluate"] = {"images": scored, **same_counts(folder / "scores_here", folder / "scores_ray")}
    return result


def compared_in_pairs(
    model: str, bank: str, lines: Sequence[str], actors: int, folder: Path, pairs: int
) -> dict[str, Any]:
    """Parts of the images by commands side by side and by Ray's actors, in turn; the median of pairs."""
    overheads, differ = [], list[str]()
    on_ray = ("--runner", "ray", "--actors", str(actors))
    for pair in range(pairs):
        some, place = lines[pair::pairs], folder / str(pair)
        place.mkdir()
        ways = {"here": (actors, ()), "ray": (1, on_ray)}
        both = {
            name: _seconds_an_image(model, bank, some, place, *ways[name])
            for name in sorted(ways, reverse=pair % 2 == 1)
        }
        overheads.append({**both, "overhead": both["ray"] / both["here"] - 1})
        there = place / "all_1_0"
        for run in (place / f"all_{actors}_{number}" for number in range(actors)):
            differ += [f"{id.name}/{name}" for id in run.glob("*/") for name in differing(id, there / id.name)]
    middle = statistics.median(pair["overhead"] for pair in overheads)
    return {
        "images": len(lines),
        "actors": actors,
        "pairs": overheads,
        "overhead_of_work": middle,
        "differing_files": differ,
    }


def _seconds_an_image(
    model: str, bank: str, lines: Sequence[str], place: Path, commands: int, more: Sequence[str]
) -> float:
    """Of work, by so many commands side by side, less that of their starts."""
    spent = []
    for name, some in (("few", lines[: commands * STARTING]), ("all", lines)):
        words = []
        for number in range(commands):
            run = place / f"{name}_{commands}_{number}"
            images = part(some[number::commands], run.with_suffix(".txt"))
            words.append(["predict", model, images, "--bank", bank, "--quiet", "-o", str(run), *more])
        spent.append(Processes(words)()["work"])
    return (spent[1] - spent[0]) / (len(lines) - commands * STARTING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--bank", required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--scored", type=int, default=8)
    parser.add_argument("--actors", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=0)
    arguments = parser.parse_args()
    lines = [line for line in arguments.images.read_text(encoding="utf-8").splitlines() if line.strip()]
    root = arguments.images.parent.resolve()
    whole = ["\t".join(str((root / name).resolve()) for name in line.split()) for line in lines[: arguments.count]]
    with tempfile.TemporaryDirectory() as folder:
        given = (arguments.model, arguments.bank, whole, arguments.actors, Path(folder))
        if arguments.pairs:
            result = compared_in_pairs(*given, arguments.pairs)
        else:
            result = compared(*given, min(arguments.scored, len(whole)))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
