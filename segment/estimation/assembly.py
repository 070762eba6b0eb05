"""The estimates of tiles written into the estimate of the whole image, in memory or in files.

Must not know how a tile was estimated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from segment.axes import Plane
from segment.estimation.estimate import Estimate, index_type
from segment.estimation.tiles import Tile


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


def _arrays(estimate: Estimate[Any]) -> list[Any]:
    mean = [] if estimate.mean is None else [estimate.mean]
    return [estimate.prediction, *mean, *estimate.maps.values()]
