"""A mask → its connected regions: pixels of one class that touch by their sides.

Must not know a measure or a file. The mask is read once, a strip of rows at a time, so that it need not be in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segment.axes import Plane, strips

SMALL = 1e-4
"""Share of an image below which a region is too small to outline or to annotate."""

NONE = -1
"""In a mask: a pixel of no class. Among region numbers: a pixel of no region."""

Blank = Callable[[tuple[int, ...], Any], Any]
"""(shape, type) -> an array of zeros that is written and read by [..., rows, columns]; NumPy's, or one in a file."""


@dataclass(frozen=True)
class Regions:
    """R regions, in the order in which their first pixels stand in the mask, row by row.

    numbers: H W int32, the region of each pixel, NONE where it has no class
    classes, areas: (R) index of the class; pixels
    boxes: (R 4) left, top, width, height, pixels
    """

    numbers: Plane
    classes: NDArray[np.int64]
    areas: NDArray[np.int64]
    boxes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> tuple[int, int]:
        return self.numbers.shape[0], self.numbers.shape[1]

    @property
    def large(self) -> NDArray[np.bool_]:  # R
        """Whether each region takes at least `SMALL` of the image."""
        return np.asarray(self.areas >= SMALL * self.shape[0] * self.shape[1])


def regions_of(labels: Plane, blank: Blank = np.zeros) -> Regions:
    """The regions of a mask (H W, class indices; a negative one is no class), by the four neighbours of a pixel.

    blank: makes the array of region numbers

    >>> regions_of(np.array([[0, 0, 1], [1, 0, 1]])).areas.tolist()
    [3, 2, 1]
    """
    numbers = blank((labels.shape[0], labels.shape[1]), np.int32)
    classes: list[NDArray[np.int64]] = []
    boxes: list[NDArray[np.int64]] = []  # left, top, right, bottom
    areas: list[NDArray[np.int64]] = []
    touching: list[NDArray[np.int64]] = []  # 2 ?: parts of strips that are one region
    count, above = 0, None
    for rows in strips(labels.shape):
        block = np.asarray(labels[rows])
        part, kinds, stats = _parts(block)
        part[part != NONE] += count
        numbers[..., rows, slice(None)] = part
        classes.append(kinds)
        areas.append(stats[:, 4])
        corner = np.stack([stats[:, 0], stats[:, 1] + rows.start], axis=1)
        boxes.append(np.hstack([corner, corner + stats[:, 2:4]]))
        if above is not None:
            same = (above[0] == block[0]) & (above[1] != NONE)
            touching.append(np.stack([above[1][same], part[0][same]]).astype(np.int64))
        above, count = (block[-1], part[-1].copy()), count + len(kinds)
    return _joined(numbers, np.concatenate(classes), np.concatenate(areas), np.concatenate(boxes), touching)


def _parts(block: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """The regions of one strip: their numbers, from 0 up; class; left, top, width, height and area of each."""
    part = np.full(block.shape, NONE, np.int32)
    kinds: list[int] = []
    stats = [np.zeros((0, 5), np.int64)]
    for kind in np.unique(block):
        if kind < 0:
            continue
        mask = (block == kind).view(np.uint8)
        found, numbers, of_kind, _ = cv2.connectedComponentsWithStats(mask, connectivity=4, ltype=cv2.CV_32S)
        inside = numbers > 0
        part[inside] = numbers[inside] + (len(kinds) - 1)
        kinds += [int(kind)] * (found - 1)
        stats.append(of_kind[1:].astype(np.int64))
    return part, np.array(kinds, np.int64), np.vstack(stats)


def _joined(
    numbers: Any,
    classes: NDArray[np.int64],
    areas: NDArray[np.int64],
    boxes: NDArray[np.int64],
    touching: list[NDArray[np.int64]],
) -> Regions:
    """Parts that touch across strips become one region; regions are numbered by their first pixel."""
    count = len(classes)
    pairs = np.concatenate(touching, axis=1) if touching else np.zeros((2, 0), np.int64)
    graph = coo_array((np.ones(pairs.shape[1], np.bool_), (pairs[0], pairs[1])), shape=(count, count))
    total, group = connected_components(graph, directed=False)
    first = np.full(total, np.iinfo(np.int64).max)
    for rows in strips(numbers.shape):  # the first pixel of each part, row by row
        part = np.asarray(numbers[rows]).reshape(-1)
        seen, places = np.unique(part, return_index=True)
        inside = seen != NONE
        np.minimum.at(first, group[seen[inside]], places[inside] + rows.start * numbers.shape[1])
    new = np.empty(total, np.int64)
    new[np.argsort(first)] = np.arange(total)
    table = np.append(new[group], NONE).astype(np.int32)  # the last is that of NONE
    for rows in strips(numbers.shape):
        numbers[..., rows, slice(None)] = table[np.asarray(numbers[rows])]
    region = table[:-1]
    kinds, sizes = np.zeros(total, np.int64), np.zeros(total, np.int64)
    kinds[region] = classes
    np.add.at(sizes, region, areas)
    corners = np.tile(np.array([np.iinfo(np.int64).max] * 2 + [0, 0]), (total, 1))
    for side, take in enumerate((np.minimum, np.minimum, np.maximum, np.maximum)):
        take.at(corners[:, side], region, boxes[:, side])
    corners[:, 2:] -= corners[:, :2]
    return Regions(numbers, kinds, sizes, corners)
