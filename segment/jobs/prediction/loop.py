"""The images of a run, one after the other, through the network: decoded ahead of it and written behind it.

Must not know where the images come from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segment.errors import OutOfMemory, WrongUse, error_message
from segment.estimation.background import BackgroundWork, Stopwatch, pixel_limit, prefetch
from segment.estimation.estimate import Estimate
from segment.estimation.memory_budget import BYTES_BESIDE_PASSES
from segment.files.runs.shards import begin_shards, open_shard
from segment.images.display import Display
from segment.images.find import Source
from segment.images.read import size_of
from segment.images.windowed import in_windows
from segment.jobs.prediction.images import ImagePredictor, Written, failed
from segment.jobs.prediction.recipe import PredictRecipe
from segment.jobs.progress import Progress, silent
from segment.report.run_files.sheet import LARGEST
from segment.runners.process import ProcessSettings

log = logging.getLogger(__name__)


@dataclass
class PredictPart:
    """What a loop in another process has done: images that have their lines, and what it counted of them.

    images, draws: how many; seconds: by what was done. plan: as it is now, where that is not what it began with
    """

    written: list[Written] = field(default_factory=list)
    images: int = 0
    draws: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    plan: dict[str, Any] | None = None

    def merge(self, other: PredictPart) -> None:
        self.written += other.written
        self.images += other.images
        self.draws += other.draws
        self.seconds = {name: self.seconds.get(name, 0.0) + spent for name, spent in other.seconds.items()}
        self.plan = other.plan or self.plan


class PredictLoop:
    """Called with images that are not done, makes their files and lines; may be called again with more.

    `begin` comes first, with all of them, where the run is; elsewhere a loop is only called.
    recipe: what `predictor` was made from. execution: the plan, as it is after the images so far
    sizes: H and W of images by id, where their files say it
    alone: whether an image that is too large for the memory fails alone, instead of being refused before the first
    """

    def __init__(
        self, predictor: ImagePredictor, recipe: PredictRecipe, progress: Progress = silent, *, alone: bool = False
    ) -> None:
        self.predictor, self.recipe, self.execution = predictor, recipe, recipe.execution
        self._progress, self._alone = progress, alone
        self._number, self._images, self._draws = 0, 0, 0
        self._calls: list[list[Source]] = []  # the images of each call of the network so far
        self.sizes: dict[str, tuple[int, int]] = {}
        self._kept: list[Written] = []
        self.spent = Stopwatch("waiting_for_images", "network", "waiting_for_files")

    @property
    def units_per_call(self) -> int:
        return 1 if self.execution.batch == "auto" else self.execution.batch

    def __call__(self, pending: Sequence[Source]) -> None:
        """Make them.

        Raises:
            OutOfMemory: An image is too large.
            WrongUse: Files cannot be written.

        """
        self._look_at(pending)
        predictor, estimator, spent = self.predictor, self.predictor.estimator, self.spent
        workers = self.execution.workers
        waiting_pixels = pixel_limit(self.execution.budget, BYTES_BESIDE_PASSES + estimator.kept)

        def pixels(source: Source) -> int:
            return math.prod(self.sizes.get(source.id, ()))

        images = prefetch(pending, predictor.read, workers=workers, waiting_pixels=waiting_pixels, pixels=pixels)
        spent.start()
        try:
            with (
                closing(images),
                BackgroundWork(predictor.add, workers=workers, waiting_pixels=waiting_pixels) as writing,
            ):
                for group in predictor.batched.groups(images):  # not enumerated, which would hold one too long
                    spent.end("waiting_for_images")
                    estimates = predictor.estimate(group)
                    seconds = spent.end("network") / len(group)
                    self.keep_plan()
                    if estimator.to_redo:
                        writing.drain()
                        predictor.redo([source for call in self._calls[-estimator.to_redo :] for source in call])
                    self._calls.append([image.source for image in group])
                    while group:
                        image, estimate = group.pop(0), estimates.pop(0)
                        self.count(estimate)
                        writing.add(partial(predictor.write, image, estimate, seconds), pixels(image.source))
                        del image, estimate
                    spent.end("waiting_for_files")
        finally:
            spent.end("waiting_for_files")

    def _look_at(self, pending: Sequence[Source]) -> None:
        """Note the sizes that are known, of these alone."""
        sizes = ((source.id, self.sizes.get(source.id) or size_of(source)) for source in pending)
        self.sizes = {id: size for id, size in sizes if size}

    def begin(self, pending: Sequence[Source]) -> Sequence[Source]:
        """Look at all images before the first one is made, and mark the run; those that fit in memory are given back.

        Raises:
            OutOfMemory: An image is too large, unless each fails alone.
            WrongUse: Tiles are asked for that are too small.

        """
        estimator = self.predictor.estimator
        self._look_at(pending)
        sizes = self.sizes
        if self._alone:
            pending = [source for source in pending if source.id not in sizes or self._fits(source, *sizes[source.id])]
        in_file_windows = partial(in_windows, spec=self.predictor.network.input)
        cost = estimator.cost((sizes[source.id] for source in pending if source.id in sizes), in_file_windows)
        geometry = None if cost is None else estimator.tiler.geometry
        if self.predictor.triage is not None and geometry is not None and geometry.halo is None:
            raise WrongUse(
                f"Images go in tiles, and this network cannot be tiled exactly ({geometry.reason}): the triage's "
                "thresholds were chosen on whole images. Give more --memory, or leave --tile or --triage out."
            )
        if cost is not None:  # and now what would be refused after hours
            log.log(logging.WARNING if cost.expensive else logging.INFO, "%s", cost.sentence())
            self.predictor.run.note(tiling=cost.record())
        self.predictor.run.mark()  # before a file: whoever lists the folder takes no picture of the run for an image
        self._number = len(self.predictor.run.sources) - len(pending)
        self.show(0)
        return pending

    def show(self, images: int) -> None:
        """Report that `images` more images are estimated."""
        self._number += images
        self._progress("predicting", self._number, len(self.predictor.run.sources), self._draws)

    def count(self, estimate: Estimate[Any] | str) -> None:
        """Count an image that is estimated, or has failed."""
        self._draws += 0 if isinstance(estimate, str) else estimate.draws
        self._images += 1
        self.show(1)

    def factory(self, pending: Sequence[Source]) -> Callable[[], PredictLoop]:
        """What makes a loop for these images in another process, under one plan."""
        for source in pending:
            if self.execution.batch == "auto" and source.id in self.sizes:
                self.predictor.batched.most(*self.sizes[source.id])
                self.keep_plan()
        run, display = self.predictor.run, self.predictor.display
        begin_shards(run.folder)
        single = len(run.sources) == 1
        recipe = replace(self.recipe, execution=self.execution).on(torch.device("cpu"))
        paths = [
            run.place,
            *(path for source in run.sources for path in (source.path, source.mask, source.label) if path),
        ]
        process = ProcessSettings.here(self.execution.threads, paths)
        return partial(_start_in_process, recipe, process, run.place, display, single=single)

    def take_part(self) -> PredictPart:
        """What was done since this was last called, of a loop in another process."""
        self.predictor.run.settle()
        plan = self.execution.record()
        changed = plan if plan != self.recipe.execution.record() else None
        part = PredictPart(self._kept, self._images, self._draws, self.spent.seconds, changed)
        self._kept, self._images, self._draws, self.spent = [], 0, 0, Stopwatch(*part.seconds)
        return part

    def keep(self, written: Written) -> None:
        """Keep what was written for `part`; its row of the sheet only where that cannot be made from its files."""
        predictor = self.predictor
        numbers = "npz" in predictor.formats and predictor.style.heat in predictor.maps
        in_files = numbers and math.prod(self.sizes.get(written.entry.id, ())) <= LARGEST
        self._kept.append(replace(written, row=None) if in_files else written)

    def merge(self, part: PredictPart) -> None:
        for written in part.written:
            self.predictor.take_in(written)
        self._images += part.images
        self._draws += part.draws
        for name, seconds in part.seconds.items():
            self.spent.seconds[name] += seconds
        if part.plan is not None:
            self.predictor.run.note(plan=part.plan)
        self.show(part.images)

    def count_failed(self, source: Source, why: str) -> None:
        self.predictor.add(failed(source, why))
        self.show(1)

    def _fits(self, source: Source, height: int, width: int) -> bool:
        """Whether an image of that size fits; one that does not has failed."""
        try:
            self._check(height, width)
        except (OutOfMemory, WrongUse) as error:
            self.predictor.add(failed(source, error_message(error)))
            return False
        return True

    def _check(self, height: int, width: int) -> None:
        """Errors: OutOfMemory and WrongUse where an image of that size does not fit."""
        windows = in_windows(height, width, self.predictor.network.input)
        self.predictor.estimator.side_for(height, width, in_memory=not windows)

    def timings(self) -> dict[str, float]:
        """`timings` of run.json.

        images, draws: how many; workers: threads that decoded, and that encoded. waiting_for_images, network,
        waiting_for_files: seconds of the thread that the network runs in
        """
        workers = self.execution.workers
        return {"images": self._images, "draws": self._draws, "workers": workers, **self.spent.rounded()}

    def keep_plan(self) -> None:
        """The plan after an image: less where memory ran out, and with the budget once that decided something."""
        estimator = self.predictor.estimator
        (read_out,) = estimator.read_outs.values()
        kept = replace(
            self.execution,
            tile=estimator.plan.tile,
            fold=read_out.method.fold,
            engine=read_out.method.engine,
            batch=self.predictor.batched.images,
            batch_area=self.predictor.batched.area,
            budget_recorded=self.execution.budget_recorded or estimator.planned,
        )
        if kept.record() != self.execution.record():
            self.predictor.run.note(plan=kept.record())
        self.execution = kept


def _start_in_process(
    recipe: PredictRecipe, process: ProcessSettings, place: Path, display: Display | None, *, single: bool
) -> PredictLoop:
    """A loop in another process, which puts its lines into a shard of its own and keeps what it has written."""
    process.apply()
    recipe = recipe.on(recipe.execution.device)
    predictor = recipe.predictor(open_shard(place))
    predictor.display, predictor.single = display, single
    loop = PredictLoop(predictor, recipe)
    predictor.take = loop.keep
    return loop
