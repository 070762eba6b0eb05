"""What a job and the runner of its units know of each other.

A job makes a worker and hands it over with the units; it does not know where they are done. Must not know what a unit
is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self, TypeVar

U = TypeVar("U")


class Part(Protocol):
    """What a worker has done since it was last asked; pickled to another process."""

    def merge(self, other: Self) -> None:
        """Add what another worker has done."""
        ...


P = TypeVar("P", bound=Part)


class Worker(Protocol[U, P]):
    """Called with units, does them in this process, and counts what it did; or another like it does them elsewhere.

    units_per_call: how many units one worker should get at a time, because it is faster with them one after the other
    """

    @property
    def units_per_call(self) -> int: ...
    def __call__(self, units: Sequence[U], /) -> None: ...
    def factory(self, units: Sequence[U], /) -> Callable[[], Worker[U, P]]:
        """What makes a worker for these units in another process, as a value that can be pickled.

        What is decided once for all units is decided here, so that it does not depend on who does them. Raises what
        refuses them all.
        """
        ...

    def take_part(self) -> P:
        """What was done since this was last called; it is then counted here no more."""
        ...

    def merge(self, part: P, /) -> None:
        """Count what a worker elsewhere has done."""
        ...

    def count_failed(self, unit: U, why: str, /) -> None:
        """Count a unit as failed: whatever process did it has ended."""
        ...


class Runner(Protocol):
    """Called with a worker and units, has every one of them done, once, and counted by that worker."""

    def __call__(self, worker: Worker[U, P], units: Sequence[U], /) -> None: ...
    def threads(self, here: int, /) -> int:
        """Threads of torch in each process, where this one has `here`."""
        ...

    @property
    def processes(self) -> int:
        """Processes that share the memory of a machine, or of a GPU where they compute on one."""
        ...

    @property
    def workers(self) -> int:
        """Processes that do units, on all machines."""
        ...


class Local:
    """All units in this process."""

    processes, workers = 1, 1

    def __call__(self, worker: Worker[U, Any], units: Sequence[U]) -> None:
        worker(units)

    def threads(self, here: int) -> int:
        return here


LOCAL = Local()
