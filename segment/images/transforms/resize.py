"""Resize on request only: the shorter side scaled to fit, then a centre crop.

Must not know a network.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def shorter_side_and_centre(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:  # H W 3 -> size 3
    """Scale so that `size` (H, W) just fits inside, then crop it from the centre.

    >>> shorter_side_and_centre(np.zeros((360, 480, 3), np.uint8), (128, 128)).shape
    (128, 128, 3)
    """
    height, width = size
    scale = max(height / image.shape[0], width / image.shape[1])
    rows, columns = max(height, round(image.shape[0] * scale)), max(width, round(image.shape[1] * scale))
    if (rows, columns) != image.shape[:2]:
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (columns, rows), interpolation=how)
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width])
