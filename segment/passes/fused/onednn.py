"""oneDNN's fused convolutions on a CPU: the one file that calls torch's private operators for them.

torch may rename or change a private operator in any release, so `available` runs each of them once on small numbers.
Where one is missing, fails or gives another result than torch's public functions, passes run without fused
convolutions. Must not know a network.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segment.errors import one_line

log = logging.getLogger(__name__)

Geometry = tuple[list[int], list[int], list[int]]
"""Padding, stride and dilation, each for rows and columns."""

Activation = tuple[str, list[float], str]
"""oneDNN's name of an activation, its parameters, its algorithm."""

NO_ACTIVATION: Activation = ("none", [], "")
RELU: Activation = ("relu", [], "")

PADDED_3X3: Geometry = ([1, 1], [1, 1], [1, 1])
"""A 3 x 3 convolution whose result is as large as its input."""

UPSAMPLING: Geometry = ([1, 1], [2, 2], [1, 1])
"""A 4 x 4 transposed convolution whose result is twice as large as its input."""


def pack(weight: Tensor, geometry: Geometry, groups: int, shape: Sequence[int]) -> Tensor:
    """The weight (K C/groups h w) of a convolution in the layout that oneDNN wants for inputs of this shape."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight.contiguous(), *geometry, groups, list(shape))


def pack_upsampling(kernel: Tensor, shape: Sequence[int]) -> Tensor:
    """The kernel (C K 4 4) of a transposed convolution by `UPSAMPLING`, packed as `pack` does."""
    padding, stride, dilation = UPSAMPLING
    return torch.ops.mkldnn._reorder_convolution_transpose_weight(
        kernel.contiguous(), padding, [0, 0], stride, dilation, 1, list(shape)
    )


def convolution(
    x: Tensor, packed: Tensor, bias: Tensor | None, geometry: Geometry, groups: int, activation: Activation
) -> Tensor:  # N C H W -> N K H' W'
    """A convolution and the activation behind it, in one call."""
    return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *geometry, groups, *activation)


def upsampling_convolution(
    x: Tensor, packed: Tensor, bias: Tensor | None, activation: Activation
) -> Tensor:  # N C H W -> N K 2H 2W
    """A transposed convolution by `UPSAMPLING` and the activation behind it, in one call."""
    padding, stride, dilation = UPSAMPLING
    return torch.ops.mkldnn._convolution_transpose_pointwise(
        x, packed, bias, padding, [0, 0], stride, dilation, 1, *activation
    )


def add_convolution(total: Tensor, x: Tensor, packed: Tensor, activation: Activation) -> Tensor:  # N K H W
    """`total` plus a convolution by `PADDED_3X3`, and the activation behind the sum; writes into `total`."""
    name, parameters, algorithm = activation
    behind = (None if name == "none" else name, parameters, algorithm)
    return torch.ops.mkldnn._convolution_pointwise_.binary(total, x, packed, None, *PADDED_3X3, 1, "add", 1.0, *behind)


@functools.cache
def has_bfloat16() -> bool:
    """Whether this processor has instructions by which oneDNN computes in bfloat16; else torch imitates them slowly."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except Exception as error:  # whatever a renamed or changed operator raises
        log.info("bfloat16 is not used, torch %s: %s", torch.__version__, one_line(error, 160))
        return False


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is computed there by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "cpu" or has_bfloat16()


@functools.cache
def available() -> bool:
    """Whether this build of torch has these operators and they give the results of torch's public functions."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        return agrees_with_torch()
    except Exception as error:  # whatever a renamed or changed operator raises
        log.info("Convolutions are not fused, torch %s: %s", torch.__version__, one_line(error, 160))
        return False


def agrees_with_torch() -> bool:
    """Each operator against torch's public functions, on small integers, so that rounding plays no part."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        x, weight, kernel = _integers(1, 4, 6, 6), _integers(4, 4, 3, 3), _integers(4, 4, 4, 4)
        bias, total = _integers(4), functional.conv_transpose2d(x, kernel, None, stride=2, padding=1)
        large = _integers(*total.shape)
        pairs: list[tuple[Any, Tensor]] = [
            (
                convolution(x, pack(weight, PADDED_3X3, 1, x.shape), bias, PADDED_3X3, 1, RELU),
                functional.conv2d(x, weight, bias, padding=1).relu(),
            ),
            (
                upsampling_convolution(x, pack_upsampling(kernel, x.shape), bias, RELU),
                functional.conv_transpose2d(x, kernel, bias, stride=2, padding=1).relu(),
            ),
            (
                add_convolution(total.clone(), large, pack(weight, PADDED_3X3, 1, large.shape), RELU),
                (total + functional.conv2d(large, weight, padding=1)).relu(),
            ),
        ]
        return all(torch.allclose(fused, public) for fused, public in pairs)


def _integers(*shape: int) -> Tensor:
    """Integers from -3 to 3, channels innermost where there are four axes."""
    count = functools.reduce(int.__mul__, shape)
    values = ((torch.arange(count) * 5) % 7 - 3).float().reshape(shape)
    return values.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else values
