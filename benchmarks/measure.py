"""Run a command and keep what it measured: `python -m benchmarks.measure NAME [--file JSON]... -- COMMAND`.

The command's JSON, from its standard output or from the files that it wrote, goes into docs/measured/NAME.json with
the command, the date, the versions and the processor. Tables and figures of README.md and docs/ are made of these files
alone (`python -m benchmarks.tables`). Must not know what a command measures.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measured_files import MEASURED
from segment.files.versions import versions
from segment.files.writing import write_json

DROPPED = ("curves", "per_class", "thresholds", "folder", "sheet", "image_marks", "over_deterministic")
"""Keys of a result that no document shows: long lists, and paths."""


def processor() -> str:
    """The processor's model, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
    }


def slim(result: Any) -> Any:
    """A result without what no document shows, its numbers to six digits.

    >>> slim({"nll": 0.123456789, "curves": [1, 2]})
    {'nll': 0.123457}
    """
    if isinstance(result, dict):
        if "best" in result and "columns" in result:  # of ranking.json: those that were chosen, or should have been
            chosen = [best["column"] for best in result["best"].values() if best]
            chosen += filter(None, result["hindsight"].values())
            result = result | {"columns": {name: result["columns"][name] for name in chosen}}
        return {key: slim(value) for key, value in result.items() if key not in DROPPED}
    if isinstance(result, list):
        return [slim(value) for value in result]
    return float(f"{result:.6g}") if isinstance(result, float) else result


def measure(name: str, command: list[str], files: list[Path], folder: Path = MEASURED) -> Path:
    """Run a command and write NAME.json into the folder; a command that fails ends this process with its exit code."""
    # without files the result is what the command prints
    process = subprocess.run(command, stdout=None if files else subprocess.PIPE, text=True, check=False)
    if process.returncode:
        raise SystemExit(process.returncode)
    contents = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
    result = next(iter(contents.values())) if len(contents) == 1 else contents or json.loads(process.stdout)
    target = folder / f"{name}.json"
    command_shown = ["python" if part == sys.executable else part for part in command]
    measurement = {
        "command": shlex.join(command_shown),
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        "versions": versions(),
        "machine": machine(),
        "result": slim(result),
    }
    write_json(target, measurement)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--file", type=Path, action="append", default=[], help="JSON that the command writes")
    parser.add_argument("--folder", type=Path, default=MEASURED, help="where NAME.json goes, docs/measured by default")
    separator = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    arguments, command = parser.parse_args(sys.argv[1:separator]), sys.argv[separator + 1 :]
    if not command:
        parser.error("Give the command after --, as: -- segment demo --json")
    if command[0] in ("python", "segment"):
        command = [sys.executable, *(["-m", "segment"] if command[0] == "segment" else []), *command[1:]]
    sys.stdout.write(f"{measure(arguments.name, command, arguments.file, arguments.folder)}\n")


if __name__ == "__main__":
    main()
