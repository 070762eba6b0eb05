"""A map's mean and 95th percentile, exact and without sorting, also of a map that lies in a windowed file.

Must not know which measure the map holds.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.files.windows import blocks


def summary(values: Plane) -> dict[str, float]:  # H W, float32
    """A map's mean and 95th percentile (linear between its two neighbours in rank) over its pixels, in its unit.

    >>> summary(np.array([[0.0, 1.0, 2.0]], np.float32))
    {'mean': 1.0, 'p95': 1.9}
    """
    count = values.shape[0] * values.shape[1]
    total = sum(float(block.sum(dtype=np.float64)) for block in blocks(values))
    place = 0.95 * (count - 1)
    low, high = (_of_rank(values, rank) for rank in (math.floor(place), math.ceil(place)))
    return {"mean": total / count, "p95": round(low + (high - low) * (place % 1), 6)}


def _of_rank(values: Plane, rank: int) -> float:
    """The value that `rank` others lie below, exact, without sorting: by the upper 16 bits first, then by the lower.

    The bits of a float, turned over where it is negative, stand in the order of the values.
    """
    upper = np.zeros(1 << 16, np.int64)
    for block in blocks(values):
        upper += np.bincount(_bits(block) >> 16, minlength=1 << 16)
    first = int(np.searchsorted(np.cumsum(upper), rank, side="right"))
    left = rank - int(np.sum(upper[:first]))
    lower = np.zeros(1 << 16, np.int64)
    for block in blocks(values):
        bits = _bits(block)
        lower += np.bincount(bits[bits >> 16 == first] & 0xFFFF, minlength=1 << 16)
    last = int(np.searchsorted(np.cumsum(lower), left, side="right"))
    bits = np.array([first << 16 | last], np.uint32)
    return float(np.where(bits >> 31, bits ^ np.uint32(1 << 31), ~bits).view(np.float32)[0])


def _bits(block: NDArray[Any]) -> NDArray[np.uint32]:
    bits = np.ascontiguousarray(block, np.float32).reshape(-1).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits ^ np.uint32(1 << 31))
