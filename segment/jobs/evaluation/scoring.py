"""Labelled images past every read-out, once: the loop that evaluate and sweep share.

An image counts for all read-outs or for none. Scoring runs beside the next image's passes.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segment.errors import FastPathDiffers, ImageUnreadable, WrongUse, error_message
from segment.estimation.estimate import Estimate, ReadOut
from segment.estimation.estimator import OUTSIDE, EstimatePlan, Estimator
from segment.estimation.memory_budget import Memory, memory_budget
from segment.estimation.overlap import WORKERS, Behind, Laps, checked_workers, pixel_limit
from segment.estimation.together import Batch, Together
from segment.files.writing import fresh
from segment.guarantees.counts import ImageCounts
from segment.images.find import Source
from segment.images.formats.arrays import ARRAY_ERRORS
from segment.images.prepare import Normalised
from segment.jobs.evaluation.annotators import check_others, count_others, further_boards
from segment.jobs.evaluation.labels import Labelled, Pixels, contents_of, read_labelled
from segment.jobs.events import report_image
from segment.jobs.prediction.images import IMAGE_ERRORS
from segment.jobs.progress import Progress, silent
from segment.networks.load import Network
from segment.scores.scoreboard import Scoreboard

log = logging.getLogger(__name__)

Change = Callable[[Pixels, str], Pixels]
"""What is done to an image before the network sees it (a corruption); its id seeds it."""

EVERY = 120.0
"""Seconds between two saved states."""

COUNTS = "image counts/"
"""Prefix of their arrays in a saved state."""

SCORING = 256
"""Bytes a pixel while an image is scored: its label, the order of its errors, and what a measure is compared with."""


class Scoring:
    """Read-outs with a scoreboard each, the seconds they took, and the images that failed.

    counts: of every image, for thresholds with a guarantee, by read-out; empty where nobody will ask for them
    contents: of each image that is counted, `contents_of`; pixels: of their label maps, "all", "void", and those where
    annotators "differ". further: boards against further annotators; annotators: how many of these there are
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free
    workers: threads that decode images; one more scores them. 0: all in line
    batch: images of one size in a pass; batch_area: where "auto" was decided before, the pixels of the image it was at
    waiting: seconds of the thread that the network runs in, by what it did
    """

    def __init__(
        self,
        network: Network,
        read_outs: Mapping[str, ReadOut],
        boards: Mapping[str, Scoreboard],
        memory: Memory = None,
        counts: Mapping[str, ImageCounts] | None = None,
        workers: int = WORKERS,
        annotators: int = 0,
        batch: Batch = 1,
        batch_area: int = 0,
    ) -> None:
        self.network = network
        budget = memory_budget(memory, network.device)
        self.estimator = Estimator(network, read_outs, EstimatePlan(budget=budget, beside=SCORING))
        self.together = Together(self.estimator, batch, batch_area)
        self.read_outs = dict(read_outs)
        self.boards = dict(boards)
        self.further = further_boards(self.boards, annotators)
        self.counts = dict(counts or {})
        self.seconds = dict.fromkeys(read_outs, 0.0)
        self.scoring = dict.fromkeys(read_outs, 0.0)
        self.failed: dict[str, str] = {}
        self.contents: dict[str, tuple[str, ...]] = {}
        self.pixels = {"all": 0, "void": 0, "differ": 0}
        self.workers = checked_workers(workers)
        self.waiting = {"waiting_for_images": 0.0, "network": 0.0, "waiting_for_scores": 0.0}

    @property
    def done(self) -> frozenset[str]:
        """Ids of the images that are counted."""
        return frozenset(str(row["id"]) for row in next(iter(self.boards.values())).per_image())

    @property
    def passes_seconds(self) -> float:
        """Of all images, each method's passes once, however many read-outs share them."""
        longest: dict[int, float] = {}
        for name, read_out in self.read_outs.items():
            method = id(read_out.method)
            longest[method] = max(longest.get(method, 0.0), self.seconds[name])
        return sum(longest.values())

    def run(
        self,
        sources: Sequence[Source],
        *,
        change: Change | None = None,
        save: Callable[[], None] | None = None,
        progress: Progress = silent,
        stage: str = "evaluating",
    ) -> None:
        """Score every image that is not counted yet; `save` is called at times, and at the end, also after an error.

        Errors: FastPathDiffers where a fast path has spoiled earlier images: they cannot be taken out of the sums, so
        whoever called counts anew, with the same read-outs.
        """
        done = self.done
        pending = [source for source in sources if source.id not in done]
        number, passes, saved = len(sources) - len(pending), 0, time.monotonic()
        waiting_pixels = pixel_limit(self.estimator.plan.budget, OUTSIDE + self.estimator.kept + SCORING)
        images = read_labelled(pending, self.network, workers=self.workers, waiting_pixels=waiting_pixels)
        spent = Laps(*self.waiting)
        try:
            with (
                closing(images),
                Behind(_counted, workers=min(1, self.workers), waiting_pixels=waiting_pixels) as scoring,
            ):
                for group in self.together.groups(images):  # not enumerated, which would hold one too long
                    spent.end("waiting_for_images")
                    estimated = self._estimated(group, change)
                    spent.end("network")
                    if self.estimator.to_redo:
                        raise FastPathDiffers(self.estimator.why)
                    while group:
                        item, estimates = group.pop(0), estimated.pop(0)
                        if isinstance(estimates, str):
                            self._fail(item.source, estimates, stage)
                        else:
                            passes += sum(read_out.passes for read_out in self.read_outs.values())
                            scoring.add(partial(self._count, item, estimates, stage), math.prod(item.size))
                        del item, estimates
                        number += 1
                        progress(stage, number, len(sources), passes)
                    if save is not None and time.monotonic() - saved > EVERY:
                        scoring.drain()
                        save()
                        saved = time.monotonic()
                    spent.end("waiting_for_scores")
        finally:
            spent.end("waiting_for_scores")
            self.waiting = {name: before + spent.seconds[name] for name, before in self.waiting.items()}
            if save is not None:
                save()

    def _estimated(self, items: Sequence[Labelled], change: Change | None) -> list[dict[str, Estimate[Tensor]] | str]:
        """Every read-out of each of the images, which have one size, or why there is none."""
        if items[0].error:
            return [item.error for item in items]
        try:
            made = self.together([self._input(item, change) for item in items], [item.source.id for item in items])
            return [{name: each.each(Tensor.cpu) for name, each in estimates.items()} for estimates in made]
        except IMAGE_ERRORS as error:
            if len(items) > 1:  # which of them it was
                return [estimates for item in items for estimates in self._estimated([item], change)]
            height, width = items[0].size
            return [f"{height} x {width} image: {error_message(error)}"]

    def _input(self, item: Labelled, change: Change | None) -> Tensor | Normalised:  # 1 C H W
        if isinstance(item.image, Tensor):
            return item.image[None].to(self.network.device)
        image = item.image if change is None else change(item.image, item.source.id)
        return Normalised(image, self.network.input)

    def _count(self, item: Labelled, estimates: Mapping[str, Estimate[Tensor]], stage: str) -> None:
        differ = 0
        for number, (name, estimate) in enumerate(estimates.items()):
            begun = time.perf_counter()
            try:
                if number == 0:
                    check_others(item, estimate, self.boards[name].plan)
                self.boards[name].update(
                    item.source.id, estimate.probability, estimate.maps, item.label, estimate.prediction
                )
            except ImageUnreadable as error:
                assert number == 0, "a label is good for all read-outs or for none"
                self._fail(item.source, str(error), stage)
                return
            differ = count_others(self.further, name, item, estimate)
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
        report_image(item.source.id, sum(estimate.seconds for estimate in estimates.values()), stage=stage)
        self.pixels["void"] += 0 if void is None else int((item.label == void).sum())

    def counts_only(self, sources: Sequence[Source]) -> bool:
        """Whether every image that is counted is one of these, and its files hold what they did then."""
        by_id = {source.id: source for source in sources}
        return all(name in by_id and contents_of(by_id[name]) == self.contents.get(name) for name in sorted(self.done))

    def _fail(self, source: Source, why: str, stage: str) -> None:
        log.warning("%s: %s", source.id, why)
        report_image(source.id, 0.0, why, stage=stage)
        self.failed[source.id] = why

    def save(self, path: Path) -> None:
        """Everything that is counted, in one file that appears whole or not at all."""
        progress = {
            "seconds": self.seconds,
            "scoring": self.scoring,
            "failed": self.failed,
            "pixels": self.pixels,
            "contents": self.contents,
        }
        arrays: dict[str, NDArray[Any]] = {"progress": np.array(json.dumps(progress))}
        for name, board in (self.boards | self.further).items():
            arrays |= {f"{name}|{key}": value for key, value in board.state().items()}
        for name, counts in self.counts.items():
            arrays |= {f"{name}|{COUNTS}{key}": value for key, value in counts.state().items()}
        with fresh(path) as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    def load(self, path: Path) -> None:
        """Go on from a saved state. Errors: WrongUse where it is damaged or of other read-outs."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                progress = json.loads(str(archive["progress"]))
                states: dict[str, dict[str, NDArray[Any]]] = {}
                for key in archive.files:
                    name, bar, part = key.partition("|")
                    if bar:
                        states.setdefault(name, {})[part] = archive[key]
        except ARRAY_ERRORS as error:
            raise WrongUse(f"{str(path)!r} does not read as a saved state: {error}. Remove it to begin anew.") from None
        boards = {name: Scoreboard.of(state) for name, state in states.items()}
        if any(f"{COUNTS}ids" not in states.get(name, {}) for name in self.counts):
            raise WrongUse(f"{str(path)!r} lacks the counts of each image. Remove it to score all images anew.")
        asked = self.boards | self.further
        if {name: board.plan for name, board in boards.items()} != {name: board.plan for name, board in asked.items()}:
            raise WrongUse(f"{str(path)!r} was made for other methods or measures; choose another folder.")
        self.boards, self.further = ({name: boards[name] for name in some} for some in (self.boards, self.further))
        for name, counts in self.counts.items():
            kept = {key.removeprefix(COUNTS): part for key, part in states[name].items() if key.startswith(COUNTS)}
            self.counts[name] = ImageCounts.of(counts.plan, kept)
        self.seconds, self.scoring, self.failed = (
            dict(progress["seconds"]),
            dict(progress["scoring"]),
            dict(progress["failed"]),
        )
        self.contents = {name: tuple(sums) for name, sums in progress["contents"].items()}
        self.pixels = dict(progress["pixels"])

    def merge(self, other: Scoring) -> None:
        """Add another shard of the same read-outs: the same bits as one run over both."""
        for name, board in self.boards.items():
            board.merge(other.boards[name])
            if name in self.counts:
                self.counts[name].merge(other.counts[name])
            self.seconds[name] += other.seconds[name]
            self.scoring[name] += other.scoring[name]
        for name, board in self.further.items():
            board.merge(other.further[name])
        self.failed |= other.failed
        self.contents |= other.contents
        self.pixels = {name: count + other.pixels[name] for name, count in self.pixels.items()}


REDONE = (
    "A fast way to make passes gave other numbers than plain passes (%s); plain ones are made from now on, and all "
    "images are scored again."
)


def _counted(_: None) -> None:
    """Nothing is left to do with an image that is counted."""
