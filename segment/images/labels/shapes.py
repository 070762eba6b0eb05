"""A shape of an annotation → its pixels, whatever numbers a file gives it.

Must not know a file's format, nor what a class is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, imported, one_line

Size = tuple[int, int]
"""H, W."""

FAR = 10
"""Sides of an image beyond which no point of a shape lies."""


@dataclass(frozen=True)
class Shape:
    """name: of its class; category: its number, None: none.

    kind: "polygons" (flat x, y lists), "rle" (COCO's, down the columns of the image) or "runs" (CVAT's: left, top,
    width and height of a box, then runs along its rows)
    """

    name: str
    category: int | None
    kind: str
    data: Any

    def mask(self, size: Size) -> NDArray[np.bool_]:  # H W
        """The pixels of the shape. Errors: ImageUnreadable where it does not fit an image of that size."""
        drawings: dict[str, Callable[[Any, Size], NDArray[np.bool_]]]
        drawings = {"polygons": _polygons, "rle": _rle, "runs": _runs}
        try:
            return drawings[self.kind](self.data, size)
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError, MemoryError) as error:
            raise ImageUnreadable(
                f"A shape of class {self.name!r} cannot be drawn on an image of {size[0]}x{size[1]}: "
                f"{one_line(error, 160)}. Correct or remove it."
            ) from None


def ellipse(x: float, y: float, across: float, down: float) -> list[float]:
    """An ellipse about (x, y) with those radii as a polygon of 64 corners."""
    turns = [2 * math.pi * step / 64 for step in range(64)]
    return [value for turn in turns for value in (x + across * math.cos(turn), y + down * math.sin(turn))]


def rotated(polygon: Sequence[float], degrees: float) -> list[float]:
    """A polygon turned about the mean of its corners, clockwise on an image, whose y grows downwards.

    >>> [round(number, 6) for number in rotated([0, 1, 4, 1, 4, 3, 0, 3], 90)]
    [3.0, 0.0, 3.0, 4.0, 1.0, 4.0, 1.0, 0.0]
    """
    if not degrees:
        return list(polygon)
    points, turn = np.reshape(polygon, (-1, 2)), math.radians(degrees)
    middle = points.mean(axis=0)
    axes = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return [float(number) for number in ((points - middle) @ axes + middle).ravel()]


def _polygons(polygons: Any, size: Size) -> NDArray[np.bool_]:  # -> H W
    coding = imported("pycocotools.mask", extra="annotations", what="Labels drawn as polygons")
    kept = [[float(number) for number in polygon] for polygon in polygons if len(polygon) >= 6]
    farthest = FAR * max(size)
    if any(not abs(number) <= farthest for polygon in kept for number in polygon):
        raise ValueError(f"a point lies more than {farthest} pixels away")  # pycocotools takes memory for the way
    if not kept:
        raise ValueError("its polygon has fewer than 3 points")
    mask: NDArray[np.bool_] = coding.decode(coding.merge(coding.frPyObjects(kept, *size))).astype(bool)
    return mask


def _rle(data: Mapping[str, Any], size: Size) -> NDArray[np.bool_]:  # -> H W
    if tuple(data.get("size", size)) != size:
        raise ValueError(f"its runs are of {'x'.join(map(str, data['size']))}")
    counts = data["counts"]
    runs = counts if isinstance(counts, list) else _counts_in(counts)
    return _painted(runs, size[::-1]).T


def _runs(data: Sequence[float], size: Size) -> NDArray[np.bool_]:  # -> H W
    left, top, width, height = (int(number) for number in data[:4])
    mask = np.zeros(size, np.bool_)
    if not (0 <= left <= left + width <= size[1] and 0 <= top <= top + height <= size[0]):
        raise ValueError("its box lies outside")
    mask[top : top + height, left : left + width] = _painted(data[4:], (height, width))
    return mask


def _painted(runs: Sequence[float], size: Size) -> NDArray[np.bool_]:
    """Runs of unset and set pixels, in turn, along rows."""
    lengths = np.array(runs, np.float64)
    if not (lengths >= 0).all() or lengths.sum() != size[0] * size[1]:
        raise ValueError(f"its runs hold {lengths.sum():g} pixels")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths.astype(np.int64)).reshape(size)


def _counts_in(text: str | bytes) -> list[int]:
    """The run lengths in COCO's letters: five bits each, the lowest first; from the fourth on, less those two before.

    >>> _counts_in("04"), _counts_in("52203")
    ([0, 4], [5, 2, 2, 2, 5])
    """
    counts: list[int] = []
    value = shift = 0
    for letter in text.encode() if isinstance(text, str) else text:
        bits = letter - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    return counts
