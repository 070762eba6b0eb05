"""A fleet at work, simulated event by event: `simulated`.

Images come from a store with a bandwidth, a latency and a limit of requests. A worker does its rows one after the
other, as `segment predict` does: threads read and decode ahead of the network, others encode and write behind it, in
bounded queues that are empty between two rows. Workers of a machine share its cores. The head serves one row after the
other before a worker is given it. A worker that fails does its row again. Must not know what was measured.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from benchmarks.sizing.model import MILLION, Fleet, Head, Image, Store

Steps = Generator[simpy.Event, Any, None]
STAGES = ("decode", "network", "write")


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What came of a run.

    images: all of them, done once; repeated: those of rows that were done again. seconds: until the last was done
    rate: images a second in the third quarter of the run
    busy: of each part, its share of the time after the start
    in_hand: images in a worker's hands, on average over the time. stay: seconds of an image there
    """

    images: int
    repeated: int
    seconds: float
    rate: float
    busy: dict[str, float]
    in_hand: float
    stay: float

    @property
    def bottleneck(self) -> str:
        """What was busy most; of the processors, the stage that took most of them."""
        busiest = max(("processors", *SHARED), key=self.busy.__getitem__)
        return max(STAGES, key=self.busy.__getitem__) if busiest == "processors" else busiest

    def hours(self, images: int = MILLION, serial: float = 0.0) -> float:
        """Of so many images at that rate, with the start and the end of this run. serial: seconds of the head each."""
        return (self.seconds + (images - self.images) / self.rate + images * serial) / 3600


PIECES = 4
"""Of an image's passes: a core is given to another worker, or thread, between two."""

SHARED = ("store bandwidth", "store requests", "head node")


class _Server:
    """Serves one after the other, in the order in which they come."""

    def __init__(self) -> None:
        self.free = self.busy = 0.0

    def until_served(self, now: float, seconds: float) -> float:
        self.busy += seconds
        self.free = max(self.free, now) + seconds
        return self.free - now


@dataclass
class _Place:
    """Of a worker: the cores of its machine, and its own threads that read, and that write."""

    cores: simpy.Resource
    reading: simpy.Resource
    writing: simpy.Resource


class _Machine:
    """Cores, of which Ray's own processes take a part in short pieces."""

    def __init__(self, clock: simpy.Environment, cores: int, background: float, generator: random.Random) -> None:
        self.cores = simpy.Resource(clock, cores)
        if background:
            clock.process(self._background(clock, background, generator))

    def _background(self, clock: simpy.Environment, seconds: float, generator: random.Random) -> Steps:
        due = 0.0
        while True:
            due += generator.uniform(0.5, 1.5)
            yield clock.timeout(max(0.0, due - clock.now))
            with self.cores.request() as core:
                yield core
                yield clock.timeout(seconds)


class _Run:
    def __init__(self, images: int, image: Image, fleet: Fleet, store: Store, head: Head, seed: int) -> None:
        self.image, self.fleet, self.store, self.head = image, fleet, store, head
        self.clock, self.random = simpy.Environment(), random.Random(seed)
        self.servers = {name: _Server() for name in SHARED}
        self.worked = dict.fromkeys(STAGES, 0.0)
        self.finished: list[float] = []
        self.repeated = self.left = self.in_hand = 0
        self.area, self.since, self.stayed = 0.0, 0.0, 0.0
        whole, rest = divmod(images, fleet.row)
        self.rows = deque([fleet.row] * whole + [rest] * bool(rest))
        machines = [_Machine(self.clock, fleet.cores, fleet.background, self.random) for _ in range(fleet.machines)]
        given = [simpy.Store(self.clock) for _ in range(fleet.workers)]
        for _ in range(fleet.ahead):  # one each, then another
            for queue in given:
                self._give(queue, fleet.start)
        self.workers = [
            self.clock.process(self._worker(machines[number // fleet.each], queue))
            for number, queue in enumerate(given)
        ]

    def _give(self, queue: simpy.Store, after: float = 0.0) -> None:
        """The next row to a worker, once the head has served it; None after the last."""
        self.clock.process(self._given(queue, self.rows.popleft() if self.rows else None, after))

    def _given(self, queue: simpy.Store, count: int | None, after: float) -> Steps:
        yield self.clock.timeout(after)
        served = self.servers["head node"].until_served(self.clock.now, self.head.image * (count or 0))
        yield self.clock.timeout(served)
        queue.put(count)

    def _worker(self, machine: _Machine, queue: simpy.Store) -> Steps:
        clock, fleet = self.clock, self.fleet
        threads = (simpy.Resource(clock, fleet.threads) for _ in range(2))
        place = _Place(machine.cores, *threads)
        yield clock.timeout(fleet.start)
        fails = clock.now + self._until_failure()
        while (count := (yield queue.get())) is not None:
            while True:
                done: list[float] = []
                row = clock.process(self._row(place, count, done))
                if fleet.failures:
                    yield row | clock.timeout(max(0.0, fails - clock.now))
                else:
                    yield row
                if row.triggered:
                    break
                row.interrupt()
                self.repeated += count
                yield clock.timeout(fleet.start)
                fails = clock.now + self._until_failure()
            self.finished += done
            self._give(queue)

    def _until_failure(self) -> float:
        return self.random.expovariate(self.fleet.failures / 3600) if self.fleet.failures else float("inf")

    def _row(self, place: _Place, count: int, done: list[float]) -> Steps:
        """The images of a row; `done` gets the time of each."""
        threads, pieces = self.fleet.threads, min(PIECES, self.image.passes)
        reads, writes = deque[tuple[float, simpy.Process]](), deque[simpy.Process]()
        left = count
        try:
            for _ in range(count):
                while left and len(reads) <= threads:
                    reads.append((self._enter(), self.clock.process(self._read(place))))
                    left -= 1
                yield reads[0][1]
                seconds = self.image.network * self._spread()
                for _ in range(pieces):
                    yield from self._compute(place, "network", seconds / pieces)
                entered, _read = reads.popleft()
                writes.append(self.clock.process(self._write(place, entered, done)))
                while len(writes) > threads + 1:
                    yield writes.popleft()
            while writes:
                yield writes.popleft()
        except simpy.Interrupt:
            for entered, _read in reads:
                self._leave(entered)

    def _read(self, place: _Place) -> Steps:
        with place.reading.request() as thread:
            yield thread
            yield self.clock.timeout(self._transfer(self.image.read, self.image.reads))
            yield from self._compute(place, "decode", self.image.decode * self._spread())

    def _write(self, place: _Place, entered: float, done: list[float]) -> Steps:
        with place.writing.request() as thread:
            yield thread
            yield from self._compute(place, "write", self.image.write * self._spread())
            yield self.clock.timeout(self._transfer(self.image.written, self.image.writes))
        done.append(self.clock.now)
        self._leave(entered)

    def _compute(self, place: _Place, stage: str, seconds: float) -> Steps:
        with place.cores.request() as core:
            yield core
            yield self.clock.timeout(seconds)
        self.worked[stage] += seconds

    def _transfer(self, size: float, requests: int) -> float:
        """Seconds until so many bytes have gone, by so many requests."""
        now, store = self.clock.now, self.store
        sent = self.servers["store bandwidth"].until_served(now, size / store.bandwidth)
        asked = self.servers["store requests"].until_served(now, requests / store.requests)
        return max(sent, asked, size / store.connection) + requests * store.latency

    def _spread(self) -> float:
        return 1 + self.random.uniform(-self.fleet.spread, self.fleet.spread) if self.fleet.spread else 1.0

    def _enter(self) -> float:
        self._count(1)
        return self.clock.now

    def _leave(self, entered: float) -> None:
        self._count(-1)
        self.left += 1
        self.stayed += self.clock.now - entered

    def _count(self, change: int) -> None:
        self.area += self.in_hand * (self.clock.now - self.since)
        self.since = self.clock.now
        self.in_hand += change

    def result(self) -> Simulated:
        self.clock.run(until=self.clock.all_of(self.workers))
        seconds, times = max(self.finished), sorted(self.finished)
        first, last = len(times) // 2, len(times) * 3 // 4
        between = times[last] - times[first]
        working = seconds - self.fleet.start
        cores = self.fleet.cores * self.fleet.machines * working
        busy = {stage: worked / cores for stage, worked in self.worked.items()}
        busy |= {"processors": sum(busy.values()) + self.fleet.background / self.fleet.cores}
        busy |= {name: min(1.0, server.busy / working) for name, server in self.servers.items()}
        return Simulated(
            images=len(times),
            repeated=self.repeated,
            seconds=seconds,
            rate=(last - first) / between if between else len(times) / seconds,
            busy=busy,
            in_hand=self.area / seconds,
            stay=self.stayed / self.left,
        )


def simulated(
    images: int,
    image: Image,
    fleet: Fleet,
    store: Store | None = None,
    head: Head | None = None,
    *,
    seed: int = 0,
) -> Simulated:
    """A run of so many images, the same for the same seed.

    >>> simulated(64, Image(decode=0.0, network=0.5, write=0.0), Fleet()).seconds
    32.0
    """
    return _Run(images, image, fleet, store or Store(), head or Head(), seed).result()
