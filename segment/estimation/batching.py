"""Images of one size through the network together, a pass for each draw: faster where a pass over one is short.

Every pass holds the same number of images, the last one repeated where there are fewer, so that an image's estimate
does not depend on its neighbours. Must not know a file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from segment.errors import OutOfMemory, WrongUse, ran_out_of_memory
from segment.estimation.estimate import Estimate
from segment.estimation.estimator import Estimator
from segment.estimation.failures import Sized
from segment.images.prepare import Normalised, pad, padding
from segment.networks.devices import synchronise
from segment.networks.trial_images import noise
from segment.tracing.batch_independence import mixing_call

log = logging.getLogger(__name__)

Batch = int | Literal["auto"]
"""Images in a pass: N, or as many as are measured to be fastest."""

MOST = 8
"""Images in a pass at most that "auto" tries."""

GAIN = 0.9
"""Share of the time an image takes in a pass over half as many, below which more images are worth it."""

MEASURED_DRAWS = 2

DECIDED = ("images", "images_measured_at")
"""Keys of `BatchedEstimator.decided`."""

S = TypeVar("S", bound=Sized)


def checked_batch(batch: Batch) -> Batch:
    """The number of images in a pass. Errors: WrongUse for what is none."""
    if batch != "auto" and batch < 1:
        raise WrongUse(f"--batch is auto or a number of images from 1 up, not {batch}.")
    return batch


class BatchedEstimator:
    """Estimates of images of one size, made together where that is possible.

    images: in a pass; with "auto" decided at the first image whose size fits, and before that "auto"
    area: pixels of the image that "auto" was decided at; a larger one goes alone
    """

    def __init__(self, estimator: Estimator, images: Batch = 1, area: int = 0) -> None:
        self.estimator, self.images, self.area = estimator, images, area
        self._most: dict[tuple[int, int], int] = {}
        self._ran_out = False

    @property
    def decided(self) -> dict[str, int]:
        """Images in a pass, and the pixels of the image that "auto" was decided at; empty before, and where it is 1."""
        if self.images == "auto" or (self.images == 1 and not self.area):
            return {}
        return dict(zip(DECIDED, (self.images, self.area), strict=True))

    def groups(self, images: Iterable[S]) -> Iterator[list[S]]:
        """Images in order, those that follow each other and have one size together, as far as `most` allows."""
        group: list[S] = []
        for image in images:
            if group and image.size != group[0].size:
                yield group
                group = []
            group.append(image)
            del image
            if len(group) >= self.most(*group[0].size):
                yield group
                group = []
        if group:
            yield group

    def most(self, height: int, width: int) -> int:
        """Images of that size in a pass: 1 where they do not fit together, or the network or a method mixes them."""
        if self.images == 1 or not height * width:
            return 1
        size = (height, width)
        if size not in self._most:
            larger = 0 < self.area < height * width  # than the images that "auto" was decided at
            if why := "" if larger else self._why_alone(height, width):
                log.info("Images of %d x %d pixels go through the network one by one: %s.", height, width, why)
            if self.images == "auto" and not why:
                self.images, self.area = self._fastest(height, width), height * width
                log.info("%d images of %d x %d pixels in a pass are fastest.", self.images, height, width)
            most = 1 if why or larger or self.images == "auto" else self.images
            while most > 1 and not self._fits(height, width, most):
                most //= 2
            self._most[size] = most
        return self._most[size]

    def __call__(
        self, images: Sequence[Tensor | Normalised], identities: Sequence[str]
    ) -> list[dict[str, Estimate[Any]]]:
        """The estimates of each image (1 C H W), in order; half as many go together from then on where memory runs out.

        images: of one size. Errors: as the estimator's; of any image, where several.
        """
        made: list[dict[str, Estimate[Any]]] = []
        while len(made) < len(images):
            to_redo = self.estimator.to_redo
            further = self._first_of(images[len(made) :], identities[len(made) :])
            if made and self.estimator.to_redo > to_redo:  # those before are wrong too; passes are plain from now on
                made = []
            else:
                made += further
        return made

    def _first_of(
        self, images: Sequence[Tensor | Normalised], identities: Sequence[str]
    ) -> list[dict[str, Estimate[Any]]]:
        """The estimates of the first of the images, as many as go together."""
        height, width = images[0].shape[-2:]
        while (count := self.most(height, width)) > 1:
            try:
                return self._in_one_pass(images[:count], count)
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
            self._halve(height, width)  # after the error, whose frames hold tensors, is gone
        return [self.estimator(images[0], identities[0])]

    def _in_one_pass(self, images: Sequence[Tensor | Normalised], count: int) -> list[dict[str, Estimate[Any]]]:
        stacked = torch.cat([image[..., :, :] for image in images])
        filled = torch.cat([stacked, stacked[-1:].expand(count - len(images), -1, -1, -1)])
        made = self.estimator.whole(filled)
        return [_of_image(made, number, len(images)) for number in range(len(images))]

    def _halve(self, height: int, width: int) -> None:
        """Half as many images of that size in a pass from now on."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._most[height, width] //= 2
        level, self._ran_out = logging.INFO if self._ran_out else logging.WARNING, True
        message = "Out of memory: images of %d x %d pixels go through the network %d at a time from now on."
        log.log(level, message, height, width, self._most[height, width])

    def _why_alone(self, height: int, width: int) -> str:
        estimator = self.estimator
        if estimator.plan.stop is not None:
            return "each stops at its own number of draws"
        methods = [read_out.method for read_out in estimator.read_outs.values()]
        if seeded := [method.name for method in methods if method.of("a") != method.of("b")]:
            return f"{seeded[0]} has random passes of its own for each"
        try:
            if estimator.side_for(height, width) is not None:
                return "they go in tiles"
        except OutOfMemory:
            return "they do not fit in memory"
        network = estimator.network
        count = MOST if self.images == "auto" else self.images
        while count > 2 and not self._fits(height, width, count):
            count -= count // 2
        given = not any(method.in_eval_mode for method in methods)
        while count > 1:
            several = pad(noise(count, network.channels, height, width), network.input).to(network.device)
            try:
                mixing = mixing_call(network.module, network.module, several, given_statistics=given)
                return f"{mixing} may mix the images of a batch" if mixing else ""
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
            count -= count // 2
        return "two of them do not fit in memory"

    def _fits(self, height: int, width: int, images: int) -> bool:
        """Whether `images` images fit in memory side by side."""
        bottom, right = padding(height, width, self.estimator.network.input.stride)
        return self.estimator.fits_whole(images * (height + bottom) * (width + right))

    def _fastest(self, height: int, width: int) -> int:
        """Images in a pass: doubled as long as they fit and an image then takes clearly less time."""
        estimator = self.estimator
        draws = {name: min(MEASURED_DRAWS, read_out.passes) for name, read_out in estimator.read_outs.items()}
        few = {name: replace(read_out, draws=draws[name]) for name, read_out in estimator.read_outs.items()}
        timed = Estimator(estimator.network, few, estimator.plan)
        images = noise(MOST, estimator.network.channels, height, width)
        best = 1
        try:
            images = images.to(estimator.network.device)
            least = _seconds(timed, images[:1])
            while 2 * best <= MOST and self._fits(height, width, 2 * best):
                seconds = _seconds(timed, images[: 2 * best]) / (2 * best)
                if seconds > GAIN * least:
                    break
                best, least = 2 * best, seconds
        except RuntimeError as error:
            if not ran_out_of_memory(error):
                raise
            log.info("%d images of %d x %d pixels in a pass run out of memory.", 2 * best, height, width)
        estimator.to_redo = max(estimator.to_redo, timed.to_redo)
        estimator.why = estimator.why or timed.why
        return best


def _of_image(made: Mapping[str, Estimate[Tensor]], number: int, count: int) -> dict[str, Estimate[Tensor]]:
    return {name: replace(estimate.image(number), seconds=estimate.seconds / count) for name, estimate in made.items()}


def _seconds(estimator: Estimator, images: Tensor) -> float:
    """The shortest of three estimates, after one that traces the network at this size."""
    estimator.whole(images)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        estimator.whole(images)
        synchronise(images.device)
        times.append(time.perf_counter() - start)
    return min(times)
