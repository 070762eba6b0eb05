"""Small pictures and small maps of large ones, which are read a few rows at a time.

Must not know what a picture or a map shows.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane

HEIGHT, WIDEST = 120, 240
"""Pixels of a thumbnail: never higher, never wider."""

PIXELS = 2**20
"""Pixels read at a time."""


def thumbnail(plane: Plane, height: int = HEIGHT, widest: int = WIDEST) -> NDArray[Any]:  # H W or H W 3 -> H' W' ...
    """The whole picture or map, as large as fits, by means over areas; uint8 stays uint8, any other becomes float32.

    Each side has at least 4 pixels, so that a 20000 x 20 picture stays visible. A small picture is enlarged by a whole
    factor, with pixels as squares: a 1 x 1 image is a square of its colour. NaN spreads over its area.

    >>> thumbnail(np.zeros((360, 480, 3), np.uint8)).shape, thumbnail(np.zeros((20, 20000, 3), np.uint8)).shape
    ((120, 160, 3), (4, 240, 3))
    """
    rows, columns = plane.shape[:2]
    scale = min(height / rows, widest / columns)
    if scale >= 1:
        whole = np.asarray(plane[0:rows])
        return np.repeat(np.repeat(whole, int(scale), axis=0), int(scale), axis=1)
    size = (max(4, round(columns * scale)), max(4, round(rows * scale)))
    down, across = max(1, rows // size[1] // 2), max(1, columns // size[0] // 2)
    small = np.asarray(plane[0:rows]) if down == across == 1 else _means(plane, down, across)
    resized = cv2.resize(small, size, interpolation=cv2.INTER_AREA)
    return resized.clip(0, 255).round().astype(np.uint8) if plane.dtype == np.uint8 else resized.astype(np.float32)


def _means(plane: Plane, down: int, across: int) -> NDArray[np.float32]:
    """Means of blocks of that many rows and columns; the last ones are smaller."""
    rows, columns = plane.shape[:2]
    starts = np.arange(0, columns, across)
    widths = np.diff(np.append(starts, columns)).reshape(-1, *([1] * (len(plane.shape) - 2)))
    step = max(down, PIXELS // columns // down * down)
    parts = []
    for start in range(0, rows, step):
        block = np.asarray(plane[start : min(rows, start + step)]).astype(np.float32)
        tops = np.arange(0, len(block), down)
        heights = np.diff(np.append(tops, len(block))).reshape(-1, *([1] * (len(plane.shape) - 1)))
        sums = np.add.reduceat(np.add.reduceat(block, starts, axis=1), tops, axis=0)
        parts.append((sums / (heights * widths)).astype(np.float32))
    return np.concatenate(parts)
