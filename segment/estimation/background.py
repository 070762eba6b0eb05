"""Work beside the network: images are decoded ahead of it and results written behind it, in order, in bounded memory.

Must not know what is decoded or written.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from segment.errors import WrongUse
from segment.estimation.memory_budget import MemoryBudget

A = TypeVar("A")
B = TypeVar("B")

WORKERS = 4
"""Threads that decode, and as many that encode, by default: they wait for the disk more than for cores."""

LARGE = 2**22
"""Pixels ahead of the network at most, and behind it; a larger image is decoded, estimated and written alone."""

SHARE = 16
"""What is ahead or behind takes at most one part in SHARE of the memory budget."""

END = object()


def checked_workers(workers: int) -> int:
    """The number of threads. Errors: WrongUse below 0."""
    if workers < 0:
        raise WrongUse(f"--workers {workers}: give a number of threads from 1 up, or 0 for none beside the network.")
    return workers


def pixel_limit(budget: MemoryBudget | None, bytes_a_pixel: int) -> int:
    """Pixels that may be ahead of the network, or behind it.

    >>> pixel_limit(None, 100), pixel_limit(MemoryBudget(2**28), 100)
    (4194304, 167772)
    """
    return LARGE if budget is None else min(LARGE, budget.free // SHARE // bytes_a_pixel)


def prefetch(
    items: Iterable[A],
    work: Callable[[A], B],
    *,
    workers: int = WORKERS,
    waiting_pixels: int = LARGE,
    pixels: Callable[[A], int] = lambda _: 1,
) -> Generator[B]:
    """The results of `work` on each item, in order; those that follow are made while one is in use.

    Args:
        items: What to work on.
        work: Done in a thread. What it raises is raised in its item's turn.
        workers: Threads, and results that are made ahead at most; 0: each is made in line, when it is asked for.
        waiting_pixels: Pixels of the result in use and those made ahead, together; a larger item is made alone.
        pixels: Of an item.

    Yields:
        Each result.

    """
    if not workers:
        yield from map(work, items)
        return
    pool, coming, rest = ThreadPoolExecutor(workers), deque[tuple[int, Future[B]]](), iter(items)
    following = next(rest, END)
    try:
        while coming or following is not END:
            while following is not END and len(coming) <= workers:
                size = pixels(following)  # type: ignore[arg-type]
                if coming and sum(each for each, _ in coming) + size > waiting_pixels:
                    break
                coming.append((size, pool.submit(work, following)))  # type: ignore[arg-type]
                following = next(rest, END)
            yield coming.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)


class BackgroundWork(Generic[B]):
    """Work done while the caller goes on; its results are taken in the order in which it was given.

    At the end of the block every result is taken, also those behind one that failed, and after Ctrl-C too. The first
    error is raised, unless another one ended the block.

    take: called with each result, in the caller's thread; None: they are not wanted
    workers: threads; 0: all is done in line. waiting_pixels: pixels of what is not done, beyond which the caller waits
    """

    def __init__(
        self, take: Callable[[B], object] | None = None, *, workers: int = WORKERS, waiting_pixels: int = LARGE
    ) -> None:
        self._take, self._workers, self._waiting_pixels = take or (lambda _: None), workers, waiting_pixels
        self._waiting: deque[tuple[int, Future[B]]] = deque()
        self._pool = ThreadPoolExecutor(max(1, workers))

    def add(self, work: Callable[[], B], pixels: int = 1) -> None:
        """Do `work`; wait while more is waiting than may be. Errors: of earlier work, and of `take`."""
        if not self._workers:
            self._take(work())
            return
        self._waiting.append((pixels, self._pool.submit(work)))
        while self._waiting and (self._waiting[0][1].done() or self._full()):
            self._take_first()

    def drain(self) -> None:
        """Wait for all work. Errors: the first one, after every other result was taken."""
        first_error: Exception | None = None
        while self._waiting:
            try:
                self._take_first()
            except Exception as error:  # of a full disk, every file fails
                first_error = first_error or error
        if first_error is not None:
            raise first_error

    def _full(self) -> bool:
        return (
            len(self._waiting) > self._workers + 1 or sum(pixels for pixels, _ in self._waiting) > self._waiting_pixels
        )

    def _take_first(self) -> None:
        future = self._waiting[0][1]
        try:
            result = future.result()
        except Exception:
            self._waiting.popleft()
            raise
        self._waiting.popleft()  # not before: Ctrl-C while waiting would lose it
        self._take(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.drain()
        except Exception:
            if error is None:
                raise
        finally:
            self._pool.shutdown()


class Stopwatch:
    """Seconds of one thread, by what it did."""

    def __init__(self, *names: str) -> None:
        self.seconds = dict.fromkeys(names, 0.0)
        self._last = time.perf_counter()

    def start(self) -> None:
        """Begin a lap; the time before it counts as nothing."""
        self._last = time.perf_counter()

    def end(self, name: str) -> float:
        """Count the time since the last lap's end as `name`; that time."""
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        self.seconds[name] += lap
        return lap

    def rounded(self) -> dict[str, float]:
        return {name: round(spent, 3) for name, spent in self.seconds.items()}
