"""A convolution over an image doubled by nearest neighbours, on a CPU, without making the doubled image.

Each 2 x 2 block of the doubled image is one pixel, so a 3 x 3 window sees 2 x 2 pixels of the small image: the whole is
a transposed convolution by 4 x 4 with stride 2, at 4/9 of the products. Images joined to it (the skip of a U-Net) go
through a convolution of their own, whose result is added. Must not know a draw, nor a BN layer.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segment.tracing.trace import Call

Numbers = tuple[list[int], list[int], list[int]]
"""Padding, stride, dilation."""

PLAIN: Numbers = ([1, 1], [1, 1], [1, 1])


@dataclass(frozen=True)
class Doubled:
    """What stands for the doubled image until a convolution reads it.

    small: (N C H W); beside: images (N C' 2H 2W) joined to it along the channels, after its own
    place: what the network is given meanwhile, a shape without memory; make: how the image itself is made
    """

    small: Tensor
    beside: tuple[Tensor, ...]
    place: Tensor
    make: Callable[[], Tensor]


def doublings(calls: Sequence[Call], readers: Sequence[Sequence[int]], convolutions: Container[int]) -> frozenset[int]:
    """Calls that double an image which one of the convolutions alone reads, and those that join it with others first.

    readers: of each call, the calls that read its values
    """
    found: set[int] = set()
    for index, call in enumerate(calls):
        if call.function is not functional.interpolate or len(readers[index]) != 1:
            continue
        way = [index, readers[index][0]]
        if way[1] < len(calls) and calls[way[1]].function is torch.cat and len(readers[way[1]]) == 1:
            way.append(readers[way[1]][0])
        if way[-1] in convolutions:
            found.update(way[:-1])
    return frozenset(found)


def doubled(
    image: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *others: Any, **named: Any
) -> Doubled | None:
    """What stands for the result of `interpolate`, None where it does another thing than double."""
    sides = [2 * side for side in image.shape[2:]]
    wanted = [int(side) for side in size] if isinstance(size, list | tuple) else [size] * 2
    factors = list(scale_factor) if isinstance(scale_factor, list | tuple) else [scale_factor] * 2
    if image.ndim != 4 or mode not in ("nearest", "nearest-exact") or (wanted != sides and factors != [2, 2]):
        return None
    place = image.new_empty(()).expand(*image.shape[:2], *sides)
    return Doubled(image, (), place, lambda: functional.interpolate(image, size, scale_factor, mode, *others, **named))


def joined(first: Doubled, others: Sequence[Tensor], dim: int = 0) -> Doubled | None:
    """What stands for `torch.cat` of a doubled image and others after it; None where it does not join channels."""
    place = first.place
    like = (place.shape[0], *place.shape[2:])
    if dim not in (1, -3) or any((len(image), *image.shape[2:]) != like for image in others):
        return None
    channels = place.shape[1] + sum(image.shape[1] for image in others)
    standing = place.new_empty(()).expand(len(place), channels, *place.shape[2:])
    beside = tuple(image for image in others if image.shape[1] > 0)  # smp's encoders of stride 4 give such a level
    return Doubled(first.small, beside, standing, lambda: torch.cat([first.make(), *others], dim))


def fits(weight: Tensor, numbers: Numbers, groups: int, activation: str) -> bool:
    """A 3 x 3 convolution whose result is as large as the image, with what oneDNN can run behind a sum."""
    return weight.shape[2:] == (3, 3) and numbers == PLAIN and groups == 1 and activation in ("none", "relu")


def packed(what: Doubled, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The weights (K C 3 3) of the whole convolution, packed: of the doubled image, and of those beside it."""
    own = weight[:, : what.small.shape[1]].transpose(0, 1).flip(2, 3)  # a transposed convolution's are turned round
    kernel = weight.new_zeros(*own.shape[:2], 4, 4)
    for row in range(2):
        for column in range(2):
            kernel[:, :, row : row + 3, column : column + 3] += own
    large = torch.ops.mkldnn._reorder_convolution_transpose_weight(
        kernel.to(dtype), [1, 1], [0, 0], [2, 2], [1, 1], 1, list(what.small.shape)
    )
    if not what.beside:
        return large, None
    rest = weight[:, what.small.shape[1] :].to(dtype).contiguous()
    shape = [len(what.place), rest.shape[1], *what.place.shape[2:]]
    return large, torch.ops.mkldnn._reorder_convolution_weight(rest, *PLAIN, 1, shape)


def convolved(
    what: Doubled, weights: tuple[Tensor, Tensor | None], bias: Tensor | None, activation: tuple[str, list[float], str]
) -> Tensor:  # N K 2H 2W
    """The convolution with packed weights, and what oneDNN runs behind it."""
    kernel, rest = weights
    behind = ("none", [], "") if rest is not None else activation
    result = torch.ops.mkldnn._convolution_transpose_pointwise(
        what.small.to(kernel.dtype), kernel, bias, [1, 1], [0, 0], [2, 2], [1, 1], 1, *behind
    )
    if rest is None:
        return result
    after = (None if activation[0] == "none" else activation[0], *activation[1:])
    beside = [image.to(kernel.dtype) for image in what.beside]
    image = beside[0] if len(beside) == 1 else torch.cat(beside, 1)
    return torch.ops.mkldnn._convolution_pointwise_.binary(result, image, rest, None, *PLAIN, 1, "add", 1.0, *after)
