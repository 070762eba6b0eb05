"""What a map holds in each region: mean, maximum and 95th percentile.

Must not know what the numbers mean. Memory is bounded: regions are sorted some at a time, and one that is too large
for that is ranked without sorting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane, strips
from segment.regions.components import NONE, Regions
from segment.regions.ranks import quantile

AT_ONCE = 2**22
"""Pixels of the regions that are sorted at a time."""

P95 = 0.95


@dataclass(frozen=True)
class RegionStatistics:
    """Numbers of one map, a value for each of R regions, in the map's unit; NaN where a region holds nothing else."""

    mean: NDArray[np.float64]
    max: NDArray[np.float64]
    p95: NDArray[np.float64]


def statistics_of(regions: Regions, values: Plane) -> RegionStatistics:
    """Mean, maximum and 95th percentile (linear between its neighbours in rank) of a map (H W) in each region.

    Pixels that are NaN are left out.

    >>> from segment.regions.components import regions_of
    >>> statistics_of(regions_of(np.array([[3, 3, 3, 7]])), np.array([[0, 1, 2, 5]], np.float32)).mean.tolist()
    [1.0, 5.0]
    """
    total = len(regions)
    count, summed = np.zeros(total, np.int64), np.zeros(total)
    largest = np.full(total, -np.inf)
    for numbers, block in _pixels(regions, values, slice(0, regions.shape[0])):
        count += np.bincount(numbers, minlength=total)
        summed += np.bincount(numbers, weights=block, minlength=total)
        np.maximum.at(largest, numbers, block)
    p95 = np.full(total, np.nan)
    for group in _groups(regions, count):
        tops, heights = regions.boxes[group, 1], regions.boxes[group, 3]
        rows = slice(int(tops.min()), int((tops + heights).max()))
        if count[group].sum() > AT_ONCE:
            (index,) = group
            p95[index] = quantile(partial(_of_region, regions, values, rows, int(index)), int(count[index]), P95)
        else:
            p95[group] = _sorted_quantiles(regions, values, rows, group)
    with np.errstate(invalid="ignore"):
        mean = np.where(count > 0, summed / np.maximum(count, 1), np.nan)
    return RegionStatistics(mean, np.where(count > 0, largest, np.nan), p95)


def _pixels(regions: Regions, values: Plane, rows: slice) -> Iterator[tuple[NDArray[np.int32], NDArray[Any]]]:
    """Region and value of every pixel that has both, a strip at a time."""
    for strip in strips((rows.stop - rows.start, regions.shape[1])):
        at = slice(rows.start + strip.start, rows.start + strip.stop)
        numbers, block = np.asarray(regions.numbers[at]), np.asarray(values[at])
        kept = (numbers != NONE) & ~np.isnan(block)
        yield numbers[kept], block[kept]


def _of_region(regions: Regions, values: Plane, rows: slice, region: int) -> Iterator[NDArray[Any]]:
    for numbers, block in _pixels(regions, values, rows):
        yield block[numbers == region]


def _groups(regions: Regions, count: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Regions that are sorted together, from the top; a large one is alone."""
    order = np.argsort(regions.boxes[:, 1], kind="stable")
    group: list[int] = []
    held = 0
    for index in order:
        size = int(count[index])
        if size == 0:
            continue
        if group and held + size > AT_ONCE:
            yield np.array(group)
            group, held = [], 0
        group.append(int(index))
        held += size
    if group:
        yield np.array(group)


def _sorted_quantiles(
    regions: Regions, values: Plane, rows: slice, group: NDArray[np.int64]
) -> NDArray[np.float64]:  # -> len(group)
    place = np.full(len(regions), NONE)
    place[group] = np.arange(len(group))
    parts = [(place[numbers], block) for numbers, block in _pixels(regions, values, rows)]
    places, numbers = (np.concatenate(each) for each in zip(*parts, strict=True))
    inside = places != NONE
    places, numbers = places[inside], numbers[inside].astype(np.float64)
    numbers = numbers[np.lexsort((numbers, places))]
    size = np.bincount(places, minlength=len(group))
    start = np.cumsum(size) - size
    at = P95 * (size - 1)
    low = np.floor(at).astype(np.int64)
    below, above = numbers[start + low], numbers[start + np.ceil(at).astype(np.int64)]
    return np.asarray(below + (above - below) * (at - low))
