"""A runner that sends units and what comes of them through pickles, as other processes get them, in this process."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib import import_module
from typing import Any

cloudpickle: Any = import_module("ray.cloudpickle")


class Pickling:
    """Workers in turn; each gets units as they come, or with a seed in a random order."""

    processes = 2

    def __init__(self, workers: int = 2, *, units: int = 1, seed: int | None = None) -> None:
        self.workers, self._units = workers, units
        self._random = None if seed is None else random.Random(seed)

    def threads(self, here: int) -> int:
        return here

    def __call__(self, worker: Any, units: Sequence[Any]) -> None:
        made = cloudpickle.dumps(worker.factory(units))
        others = [cloudpickle.loads(made)() for _ in range(self.workers)]
        parts = []
        if self._random is not None:
            units = self._random.sample(units, len(units))
        for number, start in enumerate(range(0, len(units), self._units)):
            other = others[number % len(others)]
            other(cloudpickle.loads(cloudpickle.dumps(units[start : start + self._units])))
            parts.append(copied(other.take_part()))
        while len(parts) > 1:  # as a tree
            first, second, *parts = parts
            first.merge(second)
            parts.append(copied(first))
        for part in parts:
            worker.merge(part)


def copied(part: Any) -> Any:
    return cloudpickle.loads(cloudpickle.dumps(part))
