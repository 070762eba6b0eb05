"""Measure what README and docs state: `python -m benchmarks.measure [NAME ...]`, all of it without a name.

benchmarks/measurements.yaml lists the commands. What a command prints, or the JSON files that it wrote, goes into
docs/measured/NAME.json with the command, the date, the versions and the processor. Tables and figures of README.md and
docs/ are made of these files alone (`python -m benchmarks.tables`). Must not know what a command measures.
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
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.measured_files import MEASURED
from segment.errors import near
from segment.files.versions import versions
from segment.files.writing import write_json, write_text

PLAN = Path(__file__).with_name("measurements.yaml")
RAN = Path("outputs/measured/.ran")
"""Holds, by the name of each step that ended well, the command that it ran."""
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


def steps(plan: Path = PLAN) -> dict[str, dict[str, Any]]:
    """Every step by its name, those that prepare first; `measures` says which are kept in docs/measured."""
    parts = yaml.safe_load(plan.read_text(encoding="utf-8"))
    return {
        name: step | {"measures": part == "measure"}
        for part in ("prepare", "measure")
        for name, step in parts[part].items()
    }


def shown(command: str) -> str:
    """A step's command as it runs and as docs/measured records it: `segment` is `python -m segment`.

    >>> shown("segment demo --json")
    'python -m segment demo --json'
    """
    words = shlex.split(command)
    return shlex.join(["python", "-m", *words] if words[0] == "segment" else words)


def in_order(names: Sequence[str], known: Mapping[str, Mapping[str, Any]], ran: Path = RAN) -> list[str]:
    """The named steps, each after those that it needs and that have not run by their present command.

    >>> in_order(["scores"], {"scores": {"needs": ["bank"]}, "bank": {"run": "segment fit"}})
    ['bank', 'scores']
    """
    found: list[str] = []

    def add(name: str) -> None:
        for need in known[name].get("needs", ()):
            mark = ran / need
            done = mark.is_file() and mark.read_text(encoding="utf-8") == shown(known[need]["run"])
            if not done or need in names:
                add(need)
        if name not in found:
            found.append(name)

    for name in names:
        add(name)
    return found


def run_step(name: str, step: Mapping[str, Any], folder: Path = MEASURED, ran: Path = RAN) -> None:
    """Run a step, write NAME.json into the folder where it measures, and mark it as run.

    Errors: SystemExit with the command's exit code where it fails, or with a sentence where it left a file as it was.
    """
    (ran / name).unlink(missing_ok=True)
    files = [Path(file) for file in step.get("keep", ())]
    printed = step["measures"] and not files
    command, started = shown(step["run"]), time.time()
    words = [sys.executable, *shlex.split(command)[1:]]
    process = subprocess.run(words, stdout=subprocess.PIPE if printed else None, text=True, check=False)
    if process.returncode:
        raise SystemExit(process.returncode)
    for file in files:
        if not file.is_file() or file.stat().st_mtime < started - 1:  # a second: what coarse file clocks round off
            raise SystemExit(f"{command} did not write {file}, which {name} keeps.")
    if step["measures"]:
        contents = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
        result = next(iter(contents.values())) if len(contents) == 1 else contents or json.loads(process.stdout)
        measurement = {
            "command": command,
            "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
            "versions": versions(),
            "machine": machine(),
            "result": slim(result),
        }
        write_json(folder / f"{name}.json", measurement)
    write_text(ran / name, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements; all without one")
    parser.add_argument("--list", action="store_true", help="print the commands in the order in which they would run")
    asked = parser.parse_args()
    known = steps()
    for name in asked.names:
        if name not in known:
            parser.error(f"No step is called {name!r}.{near(name, known)} --list prints all.")
    for name in in_order(asked.names or list(known), known):
        sys.stdout.write(f"{name}: {shown(known[name]['run'])}\n")
        sys.stdout.flush()
        if not asked.list:
            run_step(name, known[name])


if __name__ == "__main__":
    main()
