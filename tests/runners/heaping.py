"""Units that make more than the store of a small Ray holds."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segment.runners.quiet import QUIET

STORE = 80 * 2**20
"""Bytes; Ray takes no fewer."""

PART = 12 * 2**20
"""Bytes of an object: several of them do not fit."""


@contextmanager
def small_ray(full: float) -> Iterator[Any]:
    """Ray with a small store, on this machine; full: share of the disk in use from which it puts nothing there.

    At 1.0 the tests do not depend on what else is on the machine's disk.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    wanted: dict[str, Any] = {"object_store_memory": STORE, "include_dashboard": False, "log_to_driver": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init("local", num_cpus=2, _system_config={"local_fs_capacity_threshold": full}, **wanted)
        yield ray
        ray.shutdown()


@dataclass
class Heaps:
    """Bytes by the number of the unit that made them."""

    made: dict[int, bytes] = field(default_factory=dict)

    def merge(self, other: Heaps) -> None:
        self.made |= other.made


class Heaping:
    """Makes much of each unit."""

    units_per_call = 1

    def __init__(self) -> None:
        self.heaps, self.digests = Heaps(), dict[int, str]()

    def __call__(self, units: Sequence[int]) -> None:
        for unit in units:
            self.heaps.made[unit] = np.random.default_rng(unit).bytes(PART)

    def factory(self, units: Sequence[int]) -> Callable[[], Heaping]:
        return Heaping

    def take_part(self) -> Heaps:
        part, self.heaps = self.heaps, Heaps()
        return part

    def merge(self, part: Heaps) -> None:
        for unit, made in part.made.items():
            assert unit not in self.digests
            self.digests[unit] = hashlib.sha256(made).hexdigest()

    def count_failed(self, unit: int, why: str) -> None:
        raise AssertionError(why)
