"""What an image costs, what a fleet has, and how fast each part of it can be at best.

Must not know how a fleet is simulated, nor where a figure was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Image:
    """What one image takes.

    decode, network, write: processor seconds of one core. passes: of the network, T or K; its seconds are in as many
    read, written: bytes from and to the store. reads, writes: requests to it, those of an image one after the other
    """

    decode: float
    network: float
    write: float
    passes: int = 1
    read: float = 0.0
    written: float = 0.0
    reads: int = 1
    writes: int = 1

    def __post_init__(self) -> None:
        _refuse_negative(self)
        if self.passes < 1 or not self.work:
            raise ValueError("An image takes some processor seconds, in one pass or more.")

    @property
    def work(self) -> float:
        """Processor seconds."""
        return self.decode + self.network + self.write


@dataclass(frozen=True, kw_only=True)
class Store:
    """Where images come from and results go to, for all workers together.

    bandwidth: bytes a second; connection: of one image's transfer. requests: a second. latency: seconds of a request
    """

    bandwidth: float = float("inf")
    connection: float = float("inf")
    requests: float = float("inf")
    latency: float = 0.0

    def __post_init__(self) -> None:
        _refuse_negative(self)
        if not (self.bandwidth and self.connection and self.requests):
            raise ValueError("A store without bandwidth, or without requests, gives no image.")


@dataclass(frozen=True, kw_only=True)
class Head:
    """The command's own process, which gives out rows of images and counts what was done.

    image: its seconds an image while others work. serial: seconds an image before and after, while they wait
    """

    image: float = 0.0
    serial: float = 0.0

    def __post_init__(self) -> None:
        _refuse_negative(self)


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The workers.

    workers: how many. each: on a machine of so many `cores`. background: cores of a machine that Ray itself takes
    start: seconds until a worker has its network. threads: that read, and that write, beside a worker's network
    row: images that a worker is given at a time, and does again after it ended. ahead: rows given to it at a time
    failures: of a worker, an hour. spread: of an image's seconds, uniformly around the mean, as a part of them
    """

    workers: int = 1
    each: int = 1
    cores: int = 1
    background: float = 0.0
    start: float = 0.0
    threads: int = 4
    row: int = 16
    ahead: int = 2
    failures: float = 0.0
    spread: float = 0.0

    def __post_init__(self) -> None:
        _refuse_negative(self)
        if min(self.workers, self.each, self.cores, self.threads, self.row, self.ahead) < 1:
            raise ValueError("Workers, cores, threads and rows are counts from 1 up.")
        if self.background >= self.cores or self.spread >= 1:
            raise ValueError("Ray leaves some of a machine's cores, and an image's seconds vary by less than all.")

    @property
    def machines(self) -> int:
        return -(-self.workers // self.each)


def _refuse_negative(costs: Any) -> None:
    """Errors: ValueError for a field below 0."""
    for field in fields(costs):
        if getattr(costs, field.name) < 0:
            raise ValueError(f"{field.name} = {getattr(costs, field.name)}, but it cannot be below 0.")


def bounds(image: Image, fleet: Fleet, store: Store | None = None, head: Head | None = None) -> dict[str, float]:
    """Images a second that each part allows, the others being free; infinite where a part takes no time.

    >>> costs = Image(decode=0.01, network=0.9, write=0.09, read=1e6)
    >>> bounds(costs, Fleet(workers=4, each=2, cores=2), Store(bandwidth=2e6))["store bandwidth"]
    2.0
    """
    store, head = store or Store(), head or Head()
    return {
        "processors": fleet.machines * (fleet.cores - fleet.background) / image.work,
        "network": _over(fleet.workers, image.network),
        "store bandwidth": _over(store.bandwidth, image.read + image.written),
        "store requests": _over(store.requests, image.reads + image.writes),
        "head node": _over(1, head.image),
    }


def _over(available: float, taken: float) -> float:
    return available / taken if taken else float("inf")


def core_hours(image: Image, images: int = MILLION) -> float:
    """Of processors, for so many images, whatever the number of workers.

    >>> core_hours(Image(decode=0.0, network=3.6, write=0.0))
    1000.0
    """
    return image.work * images / 3600
