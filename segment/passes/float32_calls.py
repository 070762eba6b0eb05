"""Which calls of a pass stay in float32 though the rest runs in half precision.

Rounding matters little where much is averaged after it, and much where it is early, or decides between two values:
what no draw can change, which is computed once; what tells where a value lies; and the first convolutions, as far as
they are a small share of the work. Must not know a draw's numbers, nor a file.
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
"""Of the products of all convolutions that draws repeat, those of the first ones that stay in float32."""

PLACES = {
    functional.max_pool2d_with_indices, functional.adaptive_max_pool2d_with_indices,
    torch.argmax, torch.argmin, torch.topk, torch.sort, torch.argsort,
    Tensor.argmax, Tensor.argmin, Tensor.topk, Tensor.sort, Tensor.argsort,
}  # fmt: skip
"""What tells where a value lies. Equal values are common (a plain sky), and other rounding turns which is the first."""


def placing(calls: Sequence[Call]) -> frozenset[int]:
    """The calls whose results decide a place."""
    decide: set[int] = set()
    for index in reversed(range(len(calls))):
        if index in decide or calls[index].function in PLACES:
            decide.update(calls[index].parents)
    return frozenset(decide - {IMAGE})


def exact_calls(calls: Sequence[Call], depends: Sequence[bool]) -> frozenset[int]:
    """The calls that stay in float32; depends[i]: a draw can change the result of call i."""
    kept = {index for index, drawn in enumerate(depends) if not drawn} | placing(calls)
    products = {index: _products(call) for index, call in enumerate(calls) if depends[index] and index not in kept}
    left = FIRST_SHARE * sum(products.values())
    for index, some in products.items():
        left -= some
        if left < 0:
            break
        kept.add(index)
    return frozenset(kept)


def _products(call: Call) -> int:
    """Products of one image's convolution, 0 for any other call."""
    if call.function is not torch.conv2d or call.arguments is None or call.shape is None:
        return 0
    in_order, named = call.arguments
    given = dict(zip(("weight", "bias", "stride"), in_order, strict=False)) | dict(named)
    stride = given.get("stride", 1)
    rows, columns = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    size = call.shape
    return int(given["weight"].numel() * (size[-2] // rows) * (size[-1] // columns))


def in_float32(value: Any) -> Any:
    """Arguments of a call with their half-precision tensors cast up."""
    if isinstance(value, Tensor):
        return value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
    if type(value) in (list, tuple):
        return type(value)(in_float32(item) for item in value)
    return {key: in_float32(item) for key, item in value.items()} if isinstance(value, dict) else value
