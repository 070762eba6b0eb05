"""Planes of small numbers → short bytes that a browser unpacks: median prediction, then zlib.

Must not know what the numbers mean.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


def predicted(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:  # H W
    """Each value minus the median of left, above, and left + above - corner, modulo 256.

    Source: the predictor of LOCO-I (JPEG-LS, ITU-T T.87); outside the plane are zeros.

    >>> predicted(np.array([[7, 7], [7, 9]], np.uint8)).tolist()
    [[7, 0], [0, 2]]
    """
    around = np.pad(plane.astype(np.int16), ((1, 0), (1, 0)))
    left, above, corner = around[1:, :-1], around[:-1, 1:], around[:-1, :-1]
    low, high = np.minimum(left, above), np.maximum(left, above)
    guess = np.where(corner >= high, low, np.where(corner <= low, high, left + above - corner))
    return ((plane - guess) & 255).astype(np.uint8)


def packed(plane: NDArray[np.integer[Any]]) -> tuple[bytes, int]:  # H W, values below 2**16
    """The bytes of a plane, and how many bytes a value has: 1, or 2 where one is above 255, low bytes first."""
    wide = int(plane.max(initial=0)) > 255
    parts = [plane & 255, plane >> 8] if wide else [plane]
    data = b"".join(predicted(part.astype(np.uint8)).tobytes() for part in parts)
    return zlib.compress(data, 9), 1 + wide


@dataclass
class ImageStreams:
    """The streams of one image, one after the other, and where each of them lies.

    streams: name -> offset, length, rows, columns, bytes a value; pictures and tables have no rows
    """

    parts: list[bytes] = field(default_factory=list)
    streams: dict[str, list[int]] = field(default_factory=dict)
    size: int = 0

    def plane(self, name: str, values: NDArray[np.integer[Any]]) -> None:
        data, width = packed(values)
        self.data(name, data, *values.shape, width)

    def data(self, name: str, data: bytes, *shape: int) -> None:
        self.streams[name] = [self.size, len(data), *shape]
        self.parts.append(data)
        self.size += len(data)

    def bytes(self) -> bytes:
        return b"".join(self.parts)
