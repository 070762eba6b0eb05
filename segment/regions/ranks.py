"""The value of a rank among many float32 numbers, exact, without sorting or holding them.

Must not know where the numbers come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Blocks = Callable[[], Iterable[NDArray[Any]]]
"""The numbers, a block at a time; called once for each time that they are read. NaN is left out."""


def quantile(blocks: Blocks, count: int, share: float) -> float:
    """The value at share * (count - 1), linear between its two neighbours in rank, as NumPy's default.

    count: how many of the numbers are not NaN

    >>> quantile(lambda: [np.array([2, 0], np.float32), np.array([np.nan, 1], np.float32)], 3, 0.75)
    1.5
    """
    place = share * (count - 1)
    low, high = (_of_rank(blocks, rank) for rank in (math.floor(place), math.ceil(place)))
    return low + (high - low) * (place % 1)


def _of_rank(blocks: Blocks, rank: int) -> float:
    """The value that `rank` others lie below: by the upper 16 bits first, then by the lower.

    The bits of a float, turned over where it is negative, stand in the order of the values.
    """
    upper = np.zeros(1 << 16, np.int64)
    for block in blocks():
        upper += np.bincount(_bits(block) >> 16, minlength=1 << 16)
    first = int(np.searchsorted(np.cumsum(upper), rank, side="right"))
    left = rank - int(np.sum(upper[:first]))
    lower = np.zeros(1 << 16, np.int64)
    for block in blocks():
        bits = _bits(block)
        lower += np.bincount(bits[bits >> 16 == first] & 0xFFFF, minlength=1 << 16)
    last = int(np.searchsorted(np.cumsum(lower), left, side="right"))
    bits = np.array([first << 16 | last], np.uint32)
    return float(np.where(bits >> 31, bits ^ np.uint32(1 << 31), ~bits).view(np.float32)[0])


def _bits(block: NDArray[Any]) -> NDArray[np.uint32]:
    values = np.ascontiguousarray(block, np.float32).reshape(-1)
    bits = values[~np.isnan(values)].view(np.uint32)
    return np.where(bits >> 31, ~bits, bits ^ np.uint32(1 << 31))
