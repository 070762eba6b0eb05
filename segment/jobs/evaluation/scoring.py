"""Scores every read-out on labelled images, reading each image once: the loop that evaluate and sweep share.

An image counts for all read-outs or for none. Scoring runs beside the next image's passes.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.errors import FastPathDiffers, ImageUnreadable
from segment.estimation.background import WORKERS, BackgroundWork, Stopwatch, checked_workers, pixel_limit
from segment.estimation.batching import Batch, BatchedEstimator
from segment.estimation.estimate import Estimate, ReadOut
from segment.estimation.estimator import Estimator
from segment.estimation.failures import estimates_or_reasons
from segment.estimation.memory_budget import BYTES_BESIDE_PASSES, Memory, memory_budget
from segment.estimation.plan import EstimatePlan
from segment.guarantees.counts import ImageCounts
from segment.images.find import Source
from segment.images.prepare import Normalised
from segment.images.read import size_of
from segment.jobs.evaluation.annotators import check_others, count_others
from segment.jobs.evaluation.counted import Counted, PackedCounts
from segment.jobs.labelled.labels import Labelled, contents_of, read_labelled
from segment.jobs.progress import Progress, report_image, silent
from segment.networks.load import Network
from segment.runners.process import ProcessSettings
from segment.runners.runner import LOCAL, Runner
from segment.scores.scoreboard import Scoreboard

log = logging.getLogger(__name__)

EVERY = 120.0
"""Seconds between two saved states."""

SCORING = 256
"""Bytes a pixel while an image is scored: its label, the order of its errors, and what a measure is compared with."""

Change = Callable[[NDArray[Any], str], NDArray[Any]]
"""What is done to an image before the network sees it (a corruption); its id seeds it."""


@dataclass
class ScoringCall:
    """A call of `Scoring.run`, whose arguments it holds.

    total: of the images; number: of those that are tried; passes: made; saved: when the state was, last
    elsewhere: whether this is another process, which reports nothing; threads: of torch there
    spent: seconds of each image that was counted there
    """

    change: Change | None = None
    stage: str = "evaluating"
    save: Callable[[], None] | None = None
    progress: Progress = silent
    total: int = 0
    number: int = 0
    passes: int = 0
    saved: float = field(default_factory=time.monotonic)
    elsewhere: bool = False
    threads: int = 1
    spent: dict[str, float] = field(default_factory=dict)


class Scoring(Counted):
    """Read-outs with all that is counted of images under them. Called with images, counts them.

    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free
    workers: threads that decode images; one more scores them. 0: all in line
    batch: images of one size in a pass; batch_area: where "auto" was decided before, the pixels of the image it was at
    groups: id to group, over which intervals and tests are; None: over images
    """

    def __init__(
        self,
        network: Network,
        read_outs: Mapping[str, ReadOut],
        boards: Mapping[str, Scoreboard],
        *,
        memory: Memory = None,
        counts: Mapping[str, ImageCounts] | None = None,
        workers: int = WORKERS,
        annotators: int = 0,
        batch: Batch = 1,
        batch_area: int = 0,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(boards, counts, annotators)
        self.groups = groups
        self.network, self.annotators = network, annotators
        budget = memory_budget(memory, network.device)
        self.estimator = Estimator(network, read_outs, EstimatePlan(budget=budget, beside=SCORING))
        self.batched = BatchedEstimator(self.estimator, batch, batch_area)
        self.read_outs = dict(read_outs)
        self.workers = checked_workers(workers)
        self.task = ScoringCall()

    @property
    def passes_seconds(self) -> float:
        """Seconds of the passes of all images, each method's once, however many read-outs share them."""
        longest: dict[int, float] = {}
        for name, read_out in self.read_outs.items():
            method = id(read_out.method)
            longest[method] = max(longest.get(method, 0.0), self.seconds[name])
        return sum(longest.values())

    @property
    def units_per_call(self) -> int:
        return 1 if self.batched.images == "auto" else self.batched.images

    def run(
        self,
        sources: Sequence[Source],
        *,
        change: Change | None = None,
        save: Callable[[], None] | None = None,
        progress: Progress = silent,
        stage: str = "evaluating",
        runner: Runner = LOCAL,
    ) -> None:
        """Score every image that is not counted yet; `save` is called at times, and at the end, also after an error.

        runner: where. Errors: FastPathDiffers where a fast path has spoiled earlier images: they cannot be taken out
        of the sums, so whoever called counts anew, with the same read-outs.
        """
        done = self.done
        pending = [source for source in sources if source.id not in done]
        number, threads = len(sources) - len(pending), runner.threads(torch.get_num_threads())
        self.task = ScoringCall(change, stage, save, progress, len(sources), number, threads=threads)
        self._show(0)
        try:
            runner(self, pending)
        finally:
            if save is not None:
                save()

    def __call__(self, pending: Sequence[Source]) -> None:
        task = self.task
        waiting_pixels = pixel_limit(self.estimator.plan.budget, BYTES_BESIDE_PASSES + self.estimator.kept + SCORING)
        void = next(iter(self.boards.values())).plan.void
        images = read_labelled(pending, self.network, void, workers=self.workers, waiting_pixels=waiting_pixels)
        spent = Stopwatch(*self.waiting)
        try:
            with (
                closing(images),
                BackgroundWork[None](workers=min(1, self.workers), waiting_pixels=waiting_pixels) as scoring,
            ):
                for group in self.batched.groups(images):  # not enumerated, which would hold one too long
                    spent.end("waiting_for_images")
                    estimated = self._estimated(group, task.change)
                    spent.end("network")
                    if self.estimator.to_redo and not task.elsewhere:
                        raise FastPathDiffers(self.estimator.why)
                    while group:
                        item, estimates = group.pop(0), estimated.pop(0)
                        if isinstance(estimates, str):
                            self._fail(item.source, estimates)
                        else:
                            task.passes += self.passes
                            scoring.add(partial(self._count_whole, item, estimates), math.prod(item.size))
                        del item, estimates
                        self._show(1)
                    self._save_at_times(scoring.drain)
                    spent.end("waiting_for_scores")
        finally:
            spent.end("waiting_for_scores")
            self.waiting = {name: before + spent.seconds[name] for name, before in self.waiting.items()}

    @property
    def passes(self) -> int:
        """How many passes an image takes."""
        return sum(read_out.passes for read_out in self.read_outs.values())

    def _show(self, images: int) -> None:
        """Report that `images` more images are tried."""
        task = self.task
        task.number += images
        task.progress(task.stage, task.number, task.total, task.passes)

    def _save_at_times(self, drain: Callable[[], None]) -> None:
        if self.task.save is not None and time.monotonic() - self.task.saved > EVERY:
            drain()
            self.task.save()
            self.task.saved = time.monotonic()

    def factory(self, pending: Sequence[Source]) -> Callable[[], Scoring]:
        """What scores images in another process, nothing counted there yet; how many go together is decided here."""
        for source in pending:
            if self.batched.images == "auto" and (size := size_of(source)):
                self.batched.most(*size)
        scoring = partial(
            Scoring,
            self.network,
            self.read_outs,
            {name: Scoreboard(board.plan) for name, board in self.boards.items()},
            memory=self.estimator.plan.budget,
            counts={name: ImageCounts(counts.plan) for name, counts in self.counts.items()},
            workers=self.workers,
            annotators=self.annotators,
            batch=self.batched.images,
            batch_area=self.batched.area,
            groups=None if self.groups is None else {source.id: self.groups[source.id] for source in pending},
        )
        paths = [path for source in pending for path in (source.path, source.label) if path is not None]
        task = ScoringCall(self.task.change, self.task.stage, elsewhere=True)
        return partial(_start_in_process, scoring, task, ProcessSettings.here(self.task.threads, paths))

    def take_part(self) -> PackedCounts:
        """What was counted since this was last called; only why nothing counts, where a fast path was wrong."""
        task, self.task = self.task, replace(self.task, number=0, passes=0, spent={})
        if self.estimator.to_redo:
            return PackedCounts(differs=self.estimator.why)
        packed = self.packed()
        packed.spent, packed.images, packed.passes = task.spent, task.number, task.passes
        return packed

    def merge(self, part: PackedCounts) -> None:
        """Count what a process elsewhere has counted. Errors: FastPathDiffers where a fast path was wrong there."""
        if part.differs:
            for read_out in self.read_outs.values():
                read_out.method.take_plain_passes()
            raise FastPathDiffers(part.differs)
        with self.counting():
            self.add(part)
        for id, seconds in part.spent.items():
            report_image(id, seconds, stage=self.task.stage)
        for id, why in part.failed.items():
            report_image(id, 0.0, why, stage=self.task.stage)
        self.task.passes += part.passes
        self._show(part.images)
        self._save_at_times(lambda: None)

    def count_failed(self, source: Source, why: str) -> None:
        self._fail(source, why)
        self._show(1)

    def _estimated(self, items: Sequence[Labelled], change: Change | None) -> list[dict[str, Estimate[Tensor]] | str]:
        """Every read-out of each of the images, which have one size, or why there is none."""
        if items[0].error:
            return [item.error for item in items]
        return estimates_or_reasons(items, partial(self._estimates, change=change))

    def _estimates(self, items: Sequence[Labelled], change: Change | None) -> list[dict[str, Estimate[Tensor]]]:
        made = self.batched([self._input(item, change) for item in items], [item.source.id for item in items])
        return [{name: each.each(Tensor.cpu) for name, each in estimates.items()} for estimates in made]

    def _input(self, item: Labelled, change: Change | None) -> Tensor | Normalised:  # 1 C H W
        if isinstance(item.image, Tensor):
            if change is not None:
                raise ImageUnreadable(
                    "A corruption changes pixels, and this image is a normalised tensor: give uint8 images (H W C)."
                )
            return item.image[None].to(self.network.device)
        image = item.image if change is None else change(item.image, item.source.id)
        return Normalised(image, self.network.input)

    def _count_whole(self, item: Labelled, estimates: Mapping[str, Estimate[Tensor]]) -> None:
        with self.counting():
            self._count(item, estimates)

    def _count(self, item: Labelled, estimates: Mapping[str, Estimate[Tensor]]) -> None:
        if not isinstance(item.image, np.ndarray | Tensor) and contents_of(item.source) != item.contents:
            self._fail(item.source, "it was changed while its windows were estimated; --resume tries it again")
            return
        differ, group = 0, None if self.groups is None else self.groups[item.source.id]
        for number, (name, estimate) in enumerate(estimates.items()):
            begun = time.perf_counter()
            try:
                if number == 0:
                    check_others(item, estimate, self.boards[name].plan)
                self.boards[name].update(
                    item.source.id, estimate.probability, estimate.maps, item.label, estimate.prediction, group
                )
            except ImageUnreadable as error:
                assert number == 0, "a label is good for all read-outs or for none"
                self._fail(item.source, str(error))
                return
            differ = count_others(self.further, name, item, estimate, group)
            if name in self.counts:
                self.counts[name].update(
                    item.source.id, estimate.probability, estimate.maps, item.label, estimate.prediction
                )
            self.seconds[name] += estimate.seconds
            self.scoring[name] += time.perf_counter() - begun
        self.failed.pop(item.source.id, None)
        self.contents[item.source.id] = item.contents
        void = next(iter(self.boards.values())).plan.void
        self.pixels["all"] += item.label.size
        self.pixels["differ"] += differ
        seconds = sum(estimate.seconds for estimate in estimates.values())
        if self.task.elsewhere:
            self.task.spent[item.source.id] = seconds
        report_image(item.source.id, seconds, stage=self.task.stage)
        self.pixels["void"] += 0 if void is None else int((item.label == void).sum())

    def _fail(self, source: Source, why: str) -> None:
        log.warning("%s: %s", source.id, why)
        report_image(source.id, 0.0, why, stage=self.task.stage)
        self.failed[source.id] = why


REDONE = (
    "A fast way to make passes gave other numbers than plain passes (%s); plain ones are made from now on, and all "
    "images are scored again."
)


def _start_in_process(scoring: Callable[[], Scoring], task: ScoringCall, process: ProcessSettings) -> Scoring:
    process.apply()
    made = scoring()
    made.task = task
    return made
