"""Units that make more than the store of a small Ray holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

STORE = 80 * 2**20
"""Bytes; Ray takes no fewer."""

PART = 12 * 2**20
"""Bytes of an object: several of them do not fit."""


def small_ray(full: float) -> dict[str, Any]:
    """How to start a Ray of a small store; full: share of the disk in use from which Ray puts nothing there.

    At 1.0 the tests do not depend on what else is on the machine's disk.
    """
    wanted = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False, "log_to_driver": False}
    return wanted | {"_system_config": {"local_fs_capacity_threshold": full}}


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
