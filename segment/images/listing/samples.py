"""What a caller holds in Python (a Dataset, a DataLoader, any iterable, a list) → images by number.

Must not know what an image becomes.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_convert
from torch.utils.data import default_collate as collate

from segment.errors import WrongUse
from segment.images.listing.sample_parts import image_of, label_of, without_source

log = logging.getLogger(__name__)


class DatasetImages(Sequence[Any]):
    """The images of a map-style Dataset, drawn anew each time; a Dataset that augments does so by the seed given.

    collated: whether a DataLoader makes tensors of its arrays
    """

    def __init__(self, dataset: Any, *, collated: bool = False) -> None:
        self.dataset = dataset
        self.collated = collated

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.drawn(index, index)

    def drawn(self, index: int, seed: int) -> Any:
        """The image of a sample, under global generators seeded for it; the caller's are restored."""
        with seeded(seed):
            return image_of(self.dataset[index], collated=self.collated)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's, NumPy's and torch's global generators seeded, for a library that draws from them; restored after."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what augmentations draw from
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def is_lazy(given: Any) -> bool:
    """Whether it is a Dataset, a DataLoader, an iterable that is no list or array, or a list of samples or batches.

    Errors: WrongUse for a set.
    """
    refuse_set(given)
    if isinstance(given, DataLoader | Dataset) or _is_indexed(given):
        return True
    if isinstance(given, list | tuple) and given:
        return isinstance(given[0], tuple | list | Mapping) or getattr(given[0], "ndim", 0) == 4
    held = isinstance(given, Tensor | np.ndarray | str | Mapping) or hasattr(given, "__getitem__")
    return not held and isinstance(given, Iterable)


def _is_indexed(given: Any) -> bool:
    """Whether it gives samples by number without being torch's Dataset, as a data set of Hugging Face does."""
    if isinstance(given, list | tuple | str | Mapping) or _is_array(given) or not hasattr(given, "__getitem__"):
        return False
    try:
        return len(given) > 0 and isinstance(given[0], tuple | list | Mapping)
    except (TypeError, KeyError):  # of no length, or by other keys
        return False


def _is_batch(given: Any) -> bool:
    """Whether a list is (images, labels), and no list of batches."""
    if not isinstance(given, list | tuple) or len(given) < 2 or not all(map(_is_array, given)) or given[0].ndim != 4:
        return False
    kinds = {
        (part.ndim, part.dtype, part.shape[1 if isinstance(part, Tensor) else -1] if part.ndim > 1 else 0)
        for part in given
    }
    return len(kinds) > 1


def paths_listed(given: Any) -> Any:
    """A NumPy array of paths as a list of them; anything else as it is."""
    text = isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "UO"
    return given.tolist() if text and all(isinstance(each, str | Path) for each in given) else given


def refuse_set(given: Any) -> None:
    """Errors: WrongUse for a set, whose order is another one in each process."""
    if isinstance(given, set | frozenset):
        raise WrongUse("A set of images has no order, and a seed would not draw the same: give a list, as sorted(...).")


def images_in(given: Any) -> Sequence[Any]:
    """The images of a Dataset, a DataLoader or an iterable, by number.

    A map-style Dataset, also behind a DataLoader that collates as usual, is read when an image is needed: of a
    DataLoader the samples that its sampler gives. Anything else is read once, into memory.
    """
    dataset = _map_style(given)
    if dataset is not None:
        return DatasetImages(dataset, collated=isinstance(given, DataLoader))
    sample, batches = _gives_samples(given), isinstance(given, DataLoader)
    items = [given] if _is_batch(given) else given
    return _held(image for item in items for image in images_of_item(item, sample=sample, batches=batches))


def _gives_samples(given: Any) -> bool:
    """Whether it is a DataLoader that does not batch: torch makes a list of a sample that is a tuple."""
    return isinstance(given, DataLoader) and given.batch_size is None and given.batch_sampler is None


def _map_style(given: Any) -> Any:
    """The map-style Dataset that is given or lies behind a DataLoader; None where there is none.

    Of a DataLoader only what one pass over it holds, where that is not every sample once.
    """
    if isinstance(given, DataLoader):
        if given.collate_fn not in (collate, default_convert) or isinstance(given.dataset, IterableDataset):
            return None
        dataset: Any = given.dataset
        numbers = _sampled(given)
        if not all(isinstance(number, int) for number in numbers):  # keys, or whole batches
            return None
        return dataset if sorted(numbers) == list(range(len(dataset))) else Subset(dataset, numbers)
    stored = isinstance(given, Dataset) and not isinstance(given, IterableDataset)
    return given if stored or _is_indexed(given) else None


def _sampled(loader: DataLoader[Any]) -> list[int]:
    """The numbers that a pass over it takes, the last, smaller batch too; its generator stays as it was."""
    batches = loader.batch_sampler if loader.batch_size is None else None  # given in place of a sampler
    generator: torch.Generator | None = getattr(loader.sampler, "generator", None)
    state = None if generator is None else generator.get_state()
    with seeded(0):
        numbers = list(loader.sampler) if batches is None else [number for batch in batches for number in batch]
    if generator is not None and state is not None:
        generator.set_state(state)
    if not numbers:
        raise WrongUse("There are no images: the DataLoader's sampler gives none. Give one image at least.")
    return numbers


def images_of_item(item: Any, *, sample: bool = False, batches: bool = False) -> Iterator[Any]:
    """Each image of what an iterable yields: a sample, a batch of them, or a list of samples.

    A batch is N C H W or N H W C, or a sequence of images, alone or before the sequence of their labels.
    sample: a list is one sample. batches: a list of images is a batch of them, as a DataLoader's collation makes it
    Errors: WrongUse where a list may be either.
    """
    item = without_source(item)
    if isinstance(item, list) and item and not sample and not _is_pair(item, batches=batches):
        yield from map(image_of, item)
        return
    image = _images_of(item)
    if isinstance(image, list | tuple) or (isinstance(image, Tensor | np.ndarray) and image.ndim == 4):
        yield from image
    else:
        yield image


def _images_of(item: Any) -> Any:
    """What a batch or a sample has in the place of its image; images that were not stacked stay a sequence."""
    first = item[0] if isinstance(item, tuple | list) and item else item
    return first if isinstance(first, tuple | list) and all(map(_is_array, first)) else image_of(item)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__") or isinstance(value, Tensor)


def _is_pair(item: Sequence[Any], *, batches: bool) -> bool:
    """Whether a list is (images, labels) and not a list of samples. Errors: WrongUse where it may be either.

    batches: two arrays that are alike are two images
    """
    if all(isinstance(part, list | tuple) and part and all(map(_is_array, part)) for part in item) and len(item) > 1:
        first, second = ([_kind(value) for value in part] for part in item[:2])
        if len(set(first)) == 1 and first[0] != second[0]:
            return True
        if len(set(first)) > 1 or len(first) == 1:
            return False
        raise WrongUse(
            f"A batch is a list of {len(item)} lists of {len(first)} arrays, which are all alike: it may be images and "
            "labels, or samples. Give a collate_fn that makes tuples, (images, labels), or dictionaries."
        )
    if len(item) == 2 and all(map(_is_array, item)) and as_array(item[0]).ndim == 3:
        if _kind(item[0]) != _kind(item[1]):
            return True
        if batches:
            return False
        raise WrongUse(
            "An item is a list of two arrays, which are alike: an image and its label map, or two images. Give "
            "(image, label) as a tuple or a dictionary, and a batch as one array, N C H W."
        )
    axes = [getattr(part, "ndim", None) for part in item]
    return axes[0] == 4 or (len(axes) > 1 and axes[0] is not None and axes[0] != axes[1])


def _kind(value: Any) -> tuple[int, bool, int]:
    """What tells images from label maps: axes, whether the numbers are floats, and how many channels there are."""
    array = as_array(value)
    return array.ndim, array.dtype.kind == "f", min(array.shape) if array.ndim == 3 else 0


def _held(images: Iterable[Any]) -> Sequence[Any]:
    held = list(images)
    taken = sum(image.nbytes for image in held if isinstance(image, Tensor | np.ndarray))
    log.info("%d images are held in memory, %.0f MiB", len(held), taken / 2**20)
    if not held:
        raise WrongUse("There are no images: what was given yields none. Give one image at least.")
    return held


def as_array(image: Any) -> NDArray[Any]:
    """An image as numbers, to tell it from others."""
    return image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)


def labelled_samples(given: Any) -> Sequence[Callable[[], tuple[Any, Any]]]:
    """Labelled samples by number; each is read when it is called.

    given: as `images_in` takes it, with a label beside each image. Errors: WrongUse where there are none.
    """
    refuse_set(given)
    dataset = _map_style(given)
    pairs: list[Callable[[], tuple[Any, Any]]] = []
    if dataset is not None:
        collated = isinstance(given, DataLoader)
        pairs = [partial(_pair_of, dataset, number, collated=collated) for number in range(len(dataset))]
    elif not isinstance(given, Iterable):
        raise WrongUse(
            f"Labelled images are a folder with labels=, a Dataset, a DataLoader or pairs of arrays, not {given!r}."
        )
    sample = _gives_samples(given)
    items = () if dataset is not None else [given] if _is_batch(given) else given
    for item in map(without_source, items):
        arrays = isinstance(item, list) and all(map(_is_array, item))  # an image and its label, or many of both
        if isinstance(item, list) and item and not sample and not arrays and not _is_pair(item, batches=True):
            pairs += [partial(lambda *pair: pair, image_of(each), label_of(each)) for each in item]
            continue
        image, label = _images_of(item), label_of(item)
        batched = isinstance(image, list | tuple) or getattr(image, "ndim", 3) == 4
        several = zip(image, label, strict=True) if batched else [(image, label)]
        pairs += [partial(lambda *pair: pair, *pair) for pair in several]
    if not pairs:
        raise WrongUse("There are no labelled images: what was given yields none. Give one at least.")
    return pairs


def _pair_of(dataset: Any, number: int, *, collated: bool) -> tuple[Any, Any]:
    with seeded(number):
        sample = dataset[number]
    return image_of(sample, collated=collated), label_of(sample)
