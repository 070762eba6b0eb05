"""The draws of a bank, one for each mini-batch, here or in other processes.

Must not know how a bank is completed, nor where it is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, takewhile

from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Statistics
from segment.draws.image_pool import ImagePool
from segment.draws.large_batches import record_in_parts, why_whole
from segment.draws.minibatches import MiniBatch
from segment.draws.recording import Precision
from segment.errors import PredictionFailed
from segment.estimation.memory_budget import KeptPages, Parts
from segment.jobs.progress import Progress, silent
from segment.networks.load import Network
from segment.runners.process import ProcessSettings

EVERY = 60.0
"""Seconds between two times that the draws so far are kept."""

Numbered = tuple[int, MiniBatch]
"""A mini-batch and the number of its draw."""


@dataclass
class RecordedDraws:
    """Draws by their numbers."""

    recorded: dict[int, Statistics] = field(default_factory=dict)

    def merge(self, other: RecordedDraws) -> None:
        self.recorded |= other.recorded


@dataclass
class Recorder:
    """Called with mini-batches, records their draws.

    total: how many there are to be. keep: keeps the first draws, at times
    parts: how a mini-batch is passed. whole: why its images stay together, "" where they need not; None: not known yet
    threads: of torch in another process
    """

    network: BatchNormNetwork
    pool: ImagePool
    parts: Parts
    precision: Precision
    progress: Progress = silent
    total: int = 0
    threads: int = 1
    whole: str | None = None
    keep: Callable[[list[Statistics]], bool] | None = None
    draws: RecordedDraws = field(default_factory=RecordedDraws)
    kept: float = field(default_factory=time.monotonic)

    units_per_call = 1

    @property
    def first_draws(self) -> list[Statistics]:
        """The draws before the first one that is not recorded."""
        recorded = self.draws.recorded
        return [recorded[number] for number in takewhile(recorded.__contains__, count())]

    def __call__(self, picks: Sequence[Numbered]) -> None:
        pages = KeptPages()
        recorded = record_in_parts(
            self.network,
            self.pool.batches([pick for _, pick in picks]),
            at_once=self.parts.at_once,
            keep_bytes=self.parts.keep_bytes,
            whole_fits=self.parts.whole_fits,
            precision=self.precision,
            numbers=[number for number, _ in picks],
            whole=self.whole,
        )
        for (number, _), draw in zip(picks, recorded, strict=True):
            self.draws.recorded[number] = draw
            pages.settle()
            self._show()

    def factory(self, picks: Sequence[Numbered]) -> Callable[[], Recorder]:
        """What records in another process; whether images stay together is decided here, from the first mini-batch."""
        (first,) = self.pool.batches([picks[0][1]])
        whole = why_whole(self.network, first) if len(first) > self.parts.at_once else ""
        layers = [layer.name for layer in self.network.stochastic]
        made = partial(
            Recorder, pool=self.pool.without_images(), parts=self.parts, precision=self.precision, whole=whole
        )
        process = ProcessSettings.here(self.threads, [source.path for source in self.pool.sources])
        return partial(_start_in_process, made, self.pool.network, layers, process)

    def take_part(self) -> RecordedDraws:
        draws, self.draws = self.draws, RecordedDraws()
        return draws

    def merge(self, part: RecordedDraws) -> None:
        self.draws.merge(part)
        self._show()

    def count_failed(self, pick: Numbered, why: str) -> None:
        raise PredictionFailed(f"Draw {pick[0]} is not recorded: {why}.")

    def _show(self) -> None:
        done = len(self.draws.recorded)
        self.progress("recording draws", done, self.total, done)
        if self.keep is not None and time.monotonic() - self.kept > EVERY:
            self.keep(self.first_draws)
            self.kept = time.monotonic()


def _start_in_process(
    made: Callable[[BatchNormNetwork], Recorder], network: Network, layers: Sequence[str], process: ProcessSettings
) -> Recorder:
    process.apply()
    return made(bn_network_of(network).select_names(layers))
