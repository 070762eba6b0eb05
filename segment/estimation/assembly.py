"""The estimates of tiles written into the estimate of the whole image, in memory or in files.

Must not know how a tile was estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from segment.axes import Head, Plane
from segment.estimation.estimate import Estimate, ReadOut, index_type
from segment.estimation.tiles import Tile
from segment.uncertainty.class_sums import class_sums


class Store(Plane, Protocol):
    """A plane that is written a window at a time, like a NumPy array."""

    def __setitem__(self, window: Any, values: Any, /) -> None: ...


Blank = Callable[[tuple[int, ...], Any], Store]
"""Shape and NumPy dtype -> an array to write into."""


def empty_whole(part: Estimate[Tensor], size: tuple[int, int], blank: Blank | None, classes: int) -> Estimate[Any]:
    """An estimate of an image of that size (H W), of the types of a tile's, whose values are not written yet.

    blank: makes its arrays; None: tensors in memory
    """

    def empty(values: Tensor) -> Tensor | Store:
        shape = (*values.shape[:-2], *size)
        if blank is None:
            return torch.empty(shape, dtype=values.dtype)
        dtype = values[..., :0, :0].cpu().numpy().dtype if values.is_floating_point() else index_type(classes)
        return blank(shape, dtype)

    return part.each(empty)


def write_tile(part: Estimate[Tensor], whole: Estimate[Any], tile: Tile) -> None:
    """Write the kept part of a tile's estimate into that of the whole image."""
    for values, target in zip(_arrays(part), _arrays(whole), strict=True):
        inner = values[(..., *tile.within)]
        target[(..., *tile.kept)] = inner if isinstance(target, Tensor) else inner.cpu().numpy()


def with_own_sums(part: Estimate[Tensor], read_out: ReadOut, tile: Tile, head: Head) -> Estimate[Tensor]:
    """A tile's estimate with the class sums of the pixels that are kept of it, and the probability where it is asked.

    part: made with the probability where the read-out asks for either
    """
    if not read_out.sums or part.mean is None:
        return part
    inner = (..., *tile.within)
    sums = class_sums(part.mean[inner][None], part.prediction[inner][None], head)[0]
    return replace(part, class_sums=sums, mean=part.mean if read_out.probability else None)


def added(whole: Estimate[Any], part: Estimate[Tensor]) -> Estimate[Any]:
    """The estimate of the whole image with a further tile's seconds and class sums."""
    sums = part.class_sums
    if sums is not None and whole.class_sums is not None:
        sums = sums + whole.class_sums
    return replace(whole, seconds=part.seconds + whole.seconds, class_sums=sums)


def _arrays(estimate: Estimate[Any]) -> list[Any]:
    mean = [] if estimate.mean is None else [estimate.mean]
    return [estimate.prediction, *mean, *estimate.maps.values()]
