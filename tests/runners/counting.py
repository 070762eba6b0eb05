"""A worker that counts, for tests of runners: no torch, and units that end their process."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from segment.errors import OutOfMemory

log = logging.getLogger("segment.tests.counting")

Unit = tuple[str, str]
"""What is done ("", "wait", "meet 2", "end", "end once", "refuse", "mistake", "own", "held", "warn"), and its name."""

MEETING = 120
"""Seconds that a unit waits for other processes at most: on a busy machine one starts long after another."""


class OwnError(Exception):
    """An error of somebody's network, whose constructor takes more than its message."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name} has code {code}")


@dataclass
class Counts:
    """How often each unit was done, by which processes, and how many arenas of memory the C library gives to these."""

    units: Counter[str] = field(default_factory=Counter)
    processes: set[int] = field(default_factory=set)
    arenas: set[str | None] = field(default_factory=set)

    def merge(self, other: Counts) -> None:
        self.units += other.units
        self.processes |= other.processes
        self.arenas |= other.arenas


class Counting:
    """Counts units by their names."""

    def __init__(self, folder: Path, group: int = 1) -> None:
        self.folder, self.units_per_call = folder, group
        self.counts, self.failed = Counts(), dict[str, str]()

    def __call__(self, units: Sequence[Unit]) -> None:
        for kind, name in units:
            if kind == "end" or (kind == "end once" and not (self.folder / name).exists()):
                (self.folder / name).touch()
                os._exit(1)
            if kind == "refuse":
                raise OutOfMemory(f"{name} does not fit.")
            if kind == "mistake":
                raise AttributeError(name)
            if kind == "own":
                raise OwnError(name, 3)
            if kind == "held":
                held = OSError(f"{name} is held")
                held.lock = threading.Lock()  # type: ignore[attr-defined]
                raise held
            if kind == "warn":
                log.warning("%s is odd", name)
            if kind == "wait":
                time.sleep(0.3)
            if kind.startswith("meet"):
                self._meet(int(kind.split()[1]))
            self.counts.units[name] += 1
            self.counts.processes.add(os.getpid())
            self.counts.arenas.add(os.environ.get("MALLOC_ARENA_MAX"))

    def _meet(self, processes: int) -> None:
        """Wait until so many processes have begun a unit."""
        (self.folder / f"process {os.getpid()}").touch()
        last = time.monotonic() + MEETING
        while len(list(self.folder.glob("process *"))) < processes and time.monotonic() < last:
            time.sleep(0.05)

    def factory(self, units: Sequence[Unit]) -> Callable[[], Counting]:
        return partial(Counting, self.folder, self.units_per_call)

    def take_part(self) -> Counts:
        part, self.counts = self.counts, Counts()
        return part

    def merge(self, part: Counts) -> None:
        self.counts.merge(part)

    def count_failed(self, unit: Unit, why: str) -> None:
        self.failed[unit[1]] = why
