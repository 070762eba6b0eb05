"""A convolution over an image upsampled twofold by nearest neighbours, on a CPU, without making the upsampled image.

Each 2 x 2 block of the upsampled image is one pixel of the small one, so a 3 x 3 window covers 2 x 2 small pixels: the
whole is a transposed convolution by 4 x 4 with stride 2, at 4/9 of the products. Images concatenated to it (the skip
connection of a U-Net) get a convolution of their own, whose result is added.

Gain: smp.Unet in fp32, one thread, T = 16, 256x320, processor time without over time with: 1.10 for the encoder
resnet34, 1.19 for tf_efficientnet_lite0. Must not know a draw, nor a BN layer.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segment.passes.fused.onednn import (
    NO_ACTIVATION,
    PADDED_3X3,
    Activation,
    Geometry,
    add_convolution,
    pack,
    pack_upsampling,
    upsampling_convolution,
)
from segment.tracing.trace import Call


@dataclass(frozen=True)
class Upsampled:
    """An upsampled image that is not made until a call needs it.

    small: (N C H W), the image before; skips: images (N C' 2H 2W) concatenated behind its channels
    placeholder: has the shape of the upsampled image and no memory; the network's own code gets it meanwhile
    make: makes the upsampled image, concatenated where there are skips
    """

    small: Tensor
    skips: tuple[Tensor, ...]
    placeholder: Tensor
    make: Callable[[], Tensor]


def upsampling_calls(
    calls: Sequence[Call], readers: Sequence[Sequence[int]], convolutions: Container[int]
) -> frozenset[int]:
    """Calls that upsample an image which only one of the convolutions reads, and those that concatenate it before.

    readers: of each call, the calls that read its values
    """
    upsampling: set[int] = set()
    for index, call in enumerate(calls):
        if call.function is not functional.interpolate or len(readers[index]) != 1:
            continue
        path = [index, readers[index][0]]
        if path[1] < len(calls) and calls[path[1]].function is torch.cat and len(readers[path[1]]) == 1:
            path.append(readers[path[1]][0])
        if path[-1] in convolutions:
            upsampling.update(path[:-1])
    return frozenset(upsampling)


def upsampled(
    image: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *others: Any, **named: Any
) -> Upsampled | None:
    """What `torch.nn.functional.interpolate` (same arguments) would return, not made yet, for an image (N C H W).

    None where that call does not upsample twofold by nearest neighbours. The placeholder answers for shape and dtype.
    """
    sides = [2 * side for side in image.shape[2:]]
    asked = [int(side) for side in size] if isinstance(size, list | tuple) else [size] * 2
    factors = list(scale_factor) if isinstance(scale_factor, list | tuple) else [scale_factor] * 2
    if image.ndim != 4 or mode not in ("nearest", "nearest-exact") or (asked != sides and factors != [2, 2]):
        return None
    placeholder = image.new_empty(()).expand(*image.shape[:2], *sides)
    return Upsampled(
        image, (), placeholder, lambda: functional.interpolate(image, size, scale_factor, mode, *others, **named)
    )


def concatenated(first: Upsampled, others: Sequence[Tensor], dim: int = 0) -> Upsampled | None:
    """`torch.cat` of an upsampled image and others after it, not made yet; None where it is not along channels."""
    before = first.placeholder
    like = (before.shape[0], *before.shape[2:])
    if dim not in (1, -3) or any((len(image), *image.shape[2:]) != like for image in others):
        return None
    channels = before.shape[1] + sum(image.shape[1] for image in others)
    placeholder = before.new_empty(()).expand(len(before), channels, *before.shape[2:])
    skips = tuple(image for image in others if image.shape[1] > 0)  # smp's encoders of stride 4 give such a level
    return Upsampled(first.small, skips, placeholder, lambda: torch.cat([first.make(), *others], dim))


def supported(weight: Tensor, geometry: Geometry, groups: int, activation: str) -> bool:
    """Whether this is a 3 x 3 convolution by `PADDED_3X3`, with an activation that oneDNN can run behind a sum."""
    return weight.shape[2:] == (3, 3) and geometry == PADDED_3X3 and groups == 1 and activation in ("none", "relu")


def pack_weights(image: Upsampled, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """The weight (K C 3 3) of the whole convolution, packed: the part of the upsampled image, and that of the skips."""
    own = weight[:, : image.small.shape[1]].transpose(0, 1)
    kernel = _for_pixels(_for_pixels(own, 2), 3).to(dtype)
    packed = pack_upsampling(kernel, image.small.shape)
    if not image.skips:
        return packed, None
    rest = weight[:, image.small.shape[1] :].to(dtype)
    shape = (len(image.placeholder), rest.shape[1], *image.placeholder.shape[2:])
    return packed, pack(rest, PADDED_3X3, 1, shape)


def _for_pixels(weight: Tensor, dim: int) -> Tensor:
    """A kernel of 3 along an axis as one of 4 over the pixels before they were doubled, turned round.

    A transposed convolution turns its kernel round. By sums of slices, since a matrix product has a precision of its
    own, and adding the whole into windows takes four times as long.
    """
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, last + middle, middle + first, first], dim)


def convolve(
    image: Upsampled, packed: tuple[Tensor, Tensor | None], bias: Tensor | None, activation: Activation
) -> Tensor:  # N K 2H 2W
    """Convolution and activation of an upsampled image (N C H W, to 2H 2W) that is never made.

    image: the small image, and tensors (N c 2H 2W) that were concatenated behind the upsampled one
    packed: weights for the small image, and for the concatenated tensors, None where there are none
    bias: (K), K output channels here
    """
    kernel, rest = packed
    small = image.small.to(kernel.dtype)
    if rest is None:
        return upsampling_convolution(small, kernel, bias, activation)
    result = upsampling_convolution(small, kernel, bias, NO_ACTIVATION)
    skips = [skip.to(kernel.dtype) for skip in image.skips]
    return add_convolution(result, skips[0] if len(skips) == 1 else torch.cat(skips, 1), rest, activation)
