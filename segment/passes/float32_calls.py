"""Which calls of a pass stay in float32 when the rest runs in half precision.

Rounding changes the result little where many values are averaged after it, and much where it is early or decides
between two values. So these stay: the calls that do not depend on the draw, which run once an image; the calls that
decide a position; and the first convolutions, as far as they are a small share of the work. Must not know the values of
a draw, nor a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segment.tracing.sources import IMAGE
from segment.tracing.trace import Call

FIRST_SHARE = 0.03
"""Share of the first convolutions that stay in float32, in products of all convolutions that depend on the draw."""

GIVES_POSITIONS = {
    functional.max_pool2d_with_indices, functional.adaptive_max_pool2d_with_indices,
    torch.argmax, torch.argmin, torch.topk, torch.sort, torch.argsort,
    Tensor.argmax, Tensor.argmin, Tensor.topk, Tensor.sort, Tensor.argsort,
}  # fmt: skip
"""Functions that give the position of a value. Equal values are common (a plain sky); rounding changes the first."""


def position_calls(calls: Sequence[Call]) -> frozenset[int]:
    """The calls whose results decide a position."""
    decide: set[int] = set()
    for index in reversed(range(len(calls))):
        if index in decide or calls[index].function in GIVES_POSITIONS:
            decide.update(calls[index].parents)
    return frozenset(decide - {IMAGE})


def exact_calls(calls: Sequence[Call], depends: Sequence[bool]) -> frozenset[int]:
    """The calls that stay in float32; depends[i]: call i depends on the draw."""
    kept = {index for index, drawn in enumerate(depends) if not drawn} | position_calls(calls)
    products = {index: _products(call) for index, call in enumerate(calls) if depends[index] and index not in kept}
    left = FIRST_SHARE * sum(products.values())
    for index, count in products.items():
        left -= count
        if left < 0:
            break
        kept.add(index)
    return frozenset(kept)


def _products(call: Call) -> int:
    """Products of one image's convolution, 0 for any other call."""
    if call.function is not torch.conv2d or call.arguments is None or call.shape is None:
        return 0
    positional, named = call.arguments
    arguments = dict(zip(("weight", "bias", "stride"), positional, strict=False)) | dict(named)
    stride = arguments.get("stride", 1)
    rows, columns = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    size = call.shape
    return int(arguments["weight"].numel() * (size[-2] // rows) * (size[-1] // columns))


def in_float32(value: Any) -> Any:
    """Arguments of a call with their half-precision tensors cast to float32."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if type(value) in (list, tuple):
        return type(value)(in_float32(item) for item in value)
    return {key: in_float32(item) for key, item in value.items()} if isinstance(value, dict) else value
