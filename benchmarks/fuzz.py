"""Damage files of every kind at random, read them, and report what ends in neither a result nor a refusal of ours.

    python -m benchmarks.fuzz --cases 10000 [--seed S] [--only NUMBER]

Each case is made by its number and the seed alone; without `--seed` every run has another, which is printed, so that a
failure can be repeated: `--seed S --only NUMBER`. Cases run in processes of limited memory and time. Trouble is a
traceback of another class, a death by a signal, more than LONGEST seconds, more than MEMORY, or a file that a case
left behind. Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch

from benchmarks.fuzz_cases import LISTED, Kind, damaged, kinds
from segment.errors import SegmentError
from segment.images.limits import set_most_pixels

LONGEST = 5
"""Seconds of the processor for a case; four times as many by the clock, for one that waits."""
MEMORY = 2**30
"""Bytes of address space that cases may take beside what the process has when it begins."""
MOST_PIXELS = 10**6
"""As --max-pixels: whole files here are of 20 x 30."""


@dataclass
class FuzzOutcome:
    """What came of the cases.

    ends: kind -> "result" or "refused" -> how many; trouble: number, kind and what of each other case
    """

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    trouble: list[dict[str, Any]] = field(default_factory=list)


def case(number: int, seed: int, every: Sequence[Kind]) -> tuple[Kind, bytes]:
    """The kind of a case and its damaged bytes."""
    rng = random.Random(f"{seed}/{number}")
    kind = rng.choice(every)
    return kind, damaged(kind, list(every), rng)


def outcome(kind: Kind, data: bytes, folder: Path) -> str:
    """What a case ends in: result, refused, or what is wrong."""
    path = folder / kind.name
    before = set(folder.rglob("*"))
    path.write_bytes(data)
    try:
        kind.reader(path)
        end = "result"
    except SegmentError as error:
        end = "refused" if "\n" not in str(error) or kind.name == "card.yaml" else f"several lines: {error!s:.200}"
    except BaseException as error:  # any other class is what the fuzzer looks for
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "/segment/" in frame.filename]
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
        end = f"{type(error).__name__}: {error!s:.200} at {where}, {Path(last.filename).name}:{last.lineno}"
    path.unlink(missing_ok=True)
    left = {each for each in set(folder.rglob("*")) - before if each != path}
    return end if not left else f"left files behind: {sorted(map(str, left))}"


def work(numbers: Sequence[int], seed: int, every: Sequence[Kind], folder: Path, answers: int) -> None:
    """In a process of its own: each case's number before it, and its end after it."""
    import resource

    silent = os.open(os.devnull, os.O_RDWR)
    for handle in (1, 2):
        os.dup2(silent, handle)
    faulthandler.disable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    set_most_pixels(MOST_PIXELS)
    os.chdir(folder)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        most = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for timer in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(timer, signal.SIG_DFL)  # ends a decoder too, which no Python handler would
    with os.fdopen(answers, "w", buffering=1) as stream:
        for number in numbers:
            kind, data = case(number, seed, every)
            stream.write(json.dumps([number, kind.name]) + "\n")
            signal.setitimer(signal.ITIMER_PROF, LONGEST)  # of the processor, on a busy machine
            signal.alarm(4 * LONGEST)
            end = outcome(kind, data, folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            stream.write(json.dumps([number, kind.name, end]) + "\n")


def fuzz(cases: Sequence[int], seed: int, *, workers: int = 2) -> FuzzOutcome:
    """Cases by number; a process that dies is replaced."""
    outcome = FuzzOutcome()
    with tempfile.TemporaryDirectory() as name:
        corpus = Path(name) / "corpus"
        corpus.mkdir()
        every = kinds(corpus)
        running: dict[int, tuple[list[int], TextIO, Path]] = {}

        def start(numbers: list[int], place: Path) -> None:
            reading, writing = os.pipe()
            process = os.fork()
            if not process:
                try:
                    os.close(reading)
                    work(numbers, seed, every, place, writing)
                finally:
                    os._exit(0)
            os.close(writing)
            running[process] = (numbers, os.fdopen(reading), place)

        for worker in range(workers):
            place = Path(name) / f"worker{worker}"
            place.mkdir()
            for file in LISTED:
                shutil.copy(corpus / file, place)
            if numbers := list(cases[worker::workers]):
                start(numbers, place)
        while running:
            process, (numbers, stream, place) = next(iter(running.items()))
            begun: list[Any] = []
            with stream:
                for line in stream:
                    begun = _note(outcome, json.loads(line))
            code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
            del running[process]
            if begun:
                what = f"longer than {LONGEST} s" if -code in (signal.SIGALRM, signal.SIGPROF) else f"died, {code}"
                outcome.trouble.append({"case": begun[0], "kind": begun[1], "what": what})
                if left := numbers[numbers.index(begun[0]) + 1 :]:
                    start(left, place)
    return outcome


def _note(outcome: FuzzOutcome, line: list[Any]) -> list[Any]:
    """Counts an end; the case that has begun, [] for none."""
    if len(line) == 2:
        return line
    number, kind, end = line
    if end in ("result", "refused"):
        outcome.ends.setdefault(kind, Counter())[end] += 1
    else:
        outcome.trouble.append({"case": number, "kind": kind, "what": end})
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, help="default: another each time")
    parser.add_argument("--only", type=int, help="this case alone, here, with its traceback")
    arguments = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "big") if arguments.seed is None else arguments.seed
    if arguments.only is not None:
        with tempfile.TemporaryDirectory() as folder:
            every = kinds(Path(folder))
            kind, data = case(arguments.only, seed, every)
            path = Path(folder) / kind.name
            path.write_bytes(data)
            set_most_pixels(MOST_PIXELS)
            sys.stderr.write(f"{kind.name}, {len(data)} bytes, starting {data[:200]!r}\n")
            kind.reader(path)
        return
    sys.stderr.write(f"--seed {seed}\n")
    begun = time.monotonic()
    outcome = fuzz(range(arguments.cases), seed)
    total = sum((ends for ends in outcome.ends.values()), Counter[str]())
    report = {"seed": seed, "cases": arguments.cases, "seconds": round(time.monotonic() - begun, 1), **total}
    kinds_read = {kind: dict(ends) for kind, ends in sorted(outcome.ends.items())}
    sys.stdout.write(json.dumps(report | {"trouble": outcome.trouble, "kinds": kinds_read}, indent=1) + "\n")
    for trouble in outcome.trouble:
        sys.stderr.write(json.dumps(trouble) + "\n")
    sys.exit(1 if outcome.trouble else 0)


if __name__ == "__main__":
    main()
