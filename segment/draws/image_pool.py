"""Training images to the mini-batches behind draws: decoded once where memory allows, augmented as in training.

Must not know a bank, nor how statistics are recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import size_text
from segment.draws.minibatches import MiniBatch
from segment.errors import ImageUnreadable, WrongUse
from segment.images.find import Source, with_unique_ids
from segment.images.listing.parts import Listing
from segment.images.listing.samples import DatasetImages, as_array, images_in, is_lazy, paths_listed
from segment.images.outside_runs import images_outside_runs
from segment.images.read import read_source
from segment.images.transforms.augment import Pipeline, pipeline
from segment.images.transforms.resize import shorter_side_and_centre
from segment.networks.load import Network
from segment.networks.resized import resized

log = logging.getLogger(__name__)

CACHE_BYTES = 512 * 2**20
"""Decoded images kept between draws."""

Images = Any
"""A SRC or a list of paths; arrays, Pillow images or tensors, as `segment.images.accept` says; a Dataset, a DataLoader
or any iterable of those, alone, as (image, label), or as a dictionary with `image`."""


def training_pipeline(network: Network) -> Pipeline | None:
    """The `training:` transforms of the network's card; None where it has none. Errors: WrongUse."""
    training = network.card.training
    return pipeline(training.transforms) if training is not None and training.transforms else None


class ImagePool:
    """Statistics images, decoded once where memory allows; the card's training pipeline transforms each by its seed."""

    def __init__(
        self,
        network: Network,
        images: Images,
        size: tuple[int, int] | None = None,
        *,
        cache_bytes: int = CACHE_BYTES,
        listing: Listing | None = None,
    ) -> None:
        self.network = network
        self.cache_bytes = cache_bytes
        self.augmentation = training_pipeline(network)
        self.size = list(size) if size else None
        images = paths_listed(images)
        self.sources = _sources(images, listing or Listing())
        self.given: Sequence[Any] = ()
        if not self.sources:
            self.given = images_in(images) if is_lazy(images) else network.accept.images(images)
            held = not isinstance(self.given, DatasetImages | Tensor | np.ndarray)
            if held and all(isinstance(each, str | Path) for each in self.given):
                self.sources, self.given = _sources(list(self.given), listing or Listing()), ()
        if self.sources:
            network.log_preprocessing()
        first = self.given[0] if len(self.given) else None
        self.normalised = isinstance(first, Tensor) and first.is_floating_point()
        if self.normalised and (self.augmentation is not None or size is not None):
            log.warning("Normalised tensors are used as they are: neither --size nor the card's training pipeline.")
        self._kept: dict[int, NDArray[Any]] = {}
        self._bytes = 0
        self._shape: tuple[torch.Size, int] | None = None

    def __len__(self) -> int:
        return len(self.sources) or len(self.given)

    def without_images(self) -> ImagePool:
        """The pool without its decoded images, for another process, which decodes for itself."""
        other = copy(self)
        other._kept, other._bytes = {}, 0
        return other

    def check(self, indices: set[int]) -> None:
        """Read every image that will be used, so that all that fail are named before the first draw."""
        if isinstance(self.given, DatasetImages):
            first, again = (as_array(self.given.drawn(min(indices), 0)) for _ in "ab")
            if not np.array_equal(first, again):
                log.warning(
                    "A sample of the Dataset differs from itself under one seed: it augments by its own generator, as "
                    "albumentations does, and a bank of the same seed will be another one."
                )
        for index in sorted(indices) if not self.sources else ():
            self._check_image(index)
        with ThreadPoolExecutor(2) as threads:
            messages = list(threads.map(self._error_message, sorted(indices) if self.sources else ()))
        if errors := [message for message in messages if message]:
            more = f" And {len(errors) - 3} more." if len(errors) > 3 else ""
            raise ImageUnreadable(
                f"{len(errors)} of the {len(indices)} statistics images that were read cannot be used. "
                f"{' '.join(errors[:3])}{more} "
                "Repair them or remove them from the list; no bank was written."
            )

    def _error_message(self, index: int) -> str:
        try:
            self._check_image(index)
        except ImageUnreadable as error:
            return str(error)
        return ""

    def _check_image(self, index: int) -> None:
        image = self.decoded(index)
        if self.augmentation is not None and not isinstance(image, Tensor):
            with self._named(index):
                self.augmentation.taken(image)

    @contextmanager
    def _named(self, index: int) -> Iterator[None]:
        """A refusal of the training pipeline names the image."""
        try:
            yield
        except WrongUse as error:
            raise WrongUse(f"{self.name(index)} of the statistics images: {error}") from None

    def decoded(self, index: int, seed: int = 0) -> NDArray[Any] | Tensor:
        """An image before it is augmented: pixels H W C, or a normalised tensor C H W. seed: of a Dataset's sample."""
        if not self.sources:
            drawn = self.given.drawn(index, seed) if isinstance(self.given, DatasetImages) else self.given[index]
            try:
                return self.network.accept.image(drawn)
            except WrongUse as error:
                raise WrongUse(f"Image {index} of the statistics images: {error}") from None
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = read_source(self.sources[index], self.network.input).pixels
        if self._bytes + image.nbytes <= self.cache_bytes:
            self._bytes += image.nbytes
            self._kept[index] = image
        return image

    def prepared(self, index: int, seed: int) -> Tensor:  # C H W
        """An image as a mini-batch holds it: augmented or resized, then preprocessed."""
        image = self.decoded(index, seed)
        if isinstance(image, Tensor):
            return self._at_size(self.network.accept.prepared(image))
        if self.augmentation is not None:
            with self._named(index):
                image = self.augmentation(image, seed)
        elif self.size is not None:
            image = shorter_side_and_centre(image, (self.size[0], self.size[1]))
        return self._at_size(self.network.accept.prepared(image))

    def _at_size(self, image: Tensor) -> Tensor:  # C H W
        """At the size that the network sees every image at, where its card says one."""
        size = self.network.card.input.size
        return image if size is None else resized(image[None], size)[0]

    def _batch(self, pick: MiniBatch) -> Tensor:  # M C H W
        images = [self.prepared(index, seed) for index, seed in zip(pick.images, pick.seeds, strict=True)]
        for index, image in zip(pick.images, images, strict=True):
            first = self._shape or (image.shape, index)
            self._shape = first
            if image.shape != first[0]:
                way = "Give --size HxW, or a card with a training pipeline that crops."
                if self.augmentation is not None:
                    way = (
                        "The card's `training: {transforms}` leave them so: let them end in a transform that gives "
                        "one size, as RandomCrop or Resize with height and width."
                    )
                raise WrongUse(
                    f"Statistics images must share one size: {self.name(first[1])} is {_size(first[0])}, "
                    f"{self.name(index)} is {_size(image.shape)} (after padding). {way}"
                )
        return torch.stack(images)

    def name(self, index: int) -> str:
        """What an image is called in messages: its id, or its place in what was given."""
        return self.sources[index].id if self.sources else f"image {index}"

    def batches(self, picks: Sequence[MiniBatch]) -> Iterator[Tensor]:
        """Mini-batches in order; the next one is made while the network works on this one."""
        if isinstance(self.given, DatasetImages):  # draws from generators that the network's passes use too
            yield from map(self._batch, picks)
            return
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self._batch, picks[0])
            for following in (*picks[1:], None):
                batch = coming.result()
                if following is not None:
                    coming = thread.submit(self._batch, following)
                yield batch

    def examples(self, count: int) -> list[Tensor]:
        """A few images as the mini-batches hold them, each (1 C H W)."""
        return [self.prepared(index, index)[None] for index in range(min(count, len(self)))]


def _sources(images: Images, listing: Listing) -> tuple[Source, ...]:
    """The files of a SRC, or of each path of a list."""
    if isinstance(images, str | Path):
        return images_outside_runs(images, listing)
    if not isinstance(images, list | tuple) or not images or not all(isinstance(path, str | Path) for path in images):
        return ()
    return with_unique_ids([source for path in images for source in images_outside_runs(path, listing)])


def _size(shape: torch.Size) -> str:
    return size_text(shape[-2:] if shape[0] == 3 else shape)
