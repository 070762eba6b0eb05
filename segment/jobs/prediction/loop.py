"""The images of a run, one after the other, through the network: decoded ahead of it and written behind it.

Must not know where the images come from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from segment.errors import OutOfMemory, WrongUse, error_message
from segment.estimation.estimate import Estimate
from segment.estimation.estimator import OUTSIDE
from segment.estimation.overlap import Behind, Laps, ahead, pixel_limit
from segment.images.find import Source
from segment.images.read import size_of
from segment.images.windowed import in_windows
from segment.jobs.prediction.images import ImagePredictor, failed
from segment.jobs.prediction.plan import Execution
from segment.jobs.progress import Progress

log = logging.getLogger(__name__)


class PredictLoop:
    """Called with images that are not done, makes their files and lines; may be called again with more.

    execution: the plan, as it is after the images so far
    """

    def __init__(self, predictor: ImagePredictor, execution: Execution, progress: Progress) -> None:
        self.predictor, self.execution = predictor, execution
        self._progress = progress
        self._images, self._draws = 0, 0
        self._calls: list[list[Source]] = []  # the images of each call of the network so far
        self.spent = Laps("waiting_for_images", "network", "waiting_for_files")

    def __call__(self, pending: Sequence[Source], *, alone: bool = False) -> None:
        """Make them.

        Args:
            pending: Images of the run.
            alone: Whether one that is too large for the memory fails alone, instead of being refused before the first.

        Raises:
            OutOfMemory: An image is too large, unless `alone`.
            WrongUse: Files cannot be written.

        """
        predictor, estimator, spent = self.predictor, self.predictor.estimator, self.spent
        workers, total = self.execution.workers, len(predictor.run.sources)
        sizes = {source.id: size for source in pending if (size := size_of(source))}
        if alone:
            pending = [source for source in pending if source.id not in sizes or self._fits(source, *sizes[source.id])]
        in_file_windows = partial(in_windows, spec=predictor.network.input)
        cost = estimator.cost((sizes[source.id] for source in pending if source.id in sizes), in_file_windows)
        if cost is not None:  # and now what would be refused after hours
            log.log(logging.WARNING if cost.dear else logging.INFO, "%s", cost.sentence())
            predictor.run.note(tiling=cost.record())
        waiting_pixels = pixel_limit(self.execution.budget, OUTSIDE + estimator.kept)

        def pixels(source: Source) -> int:
            return math.prod(sizes.get(source.id, ()))

        number = total - len(pending)
        self._progress("predicting", number, total, self._draws)
        images = ahead(pending, predictor.read, workers=workers, waiting_pixels=waiting_pixels, pixels=pixels)
        spent.start()
        try:
            with closing(images), Behind(predictor.add, workers=workers, waiting_pixels=waiting_pixels) as writing:
                for group in predictor.together.groups(images):  # not enumerated, which would hold one too long
                    spent.end("waiting_for_images")
                    estimates = predictor.estimate(group)
                    seconds = spent.end("network") / len(group)
                    self._keep_plan()
                    if estimator.to_redo:
                        writing.drain()
                        predictor.redo([source for call in self._calls[-estimator.to_redo :] for source in call])
                    self._calls.append([image.source for image in group])
                    while group:
                        image, estimate = group.pop(0), estimates.pop(0)
                        if isinstance(estimate, Estimate):
                            self._draws += estimate.draws
                        writing.add(partial(predictor.write, image, estimate, seconds), pixels(image.source))
                        del image, estimate
                        self._images += 1
                        number += 1
                        self._progress("predicting", number, total, self._draws)
                    spent.end("waiting_for_files")
        finally:
            spent.end("waiting_for_files")

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

    def _keep_plan(self) -> None:
        """The plan after an image: less where memory ran out, and with the budget once that decided something."""
        estimator = self.predictor.estimator
        (read_out,) = estimator.read_outs.values()
        kept = replace(
            self.execution,
            tile=estimator.plan.tile,
            fold=read_out.method.fold,
            batch=self.predictor.together.images,
            batch_area=self.predictor.together.area,
            budget_recorded=self.execution.budget_recorded or estimator.planned,
        )
        if kept.record() != self.execution.record():
            self.predictor.run.note(plan=kept.record())
        self.execution = kept
