"""What an image's exports are written from, and the segments of its mask with what the maps hold in each.

Must not know a format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Head, Plane
from segment.files.lazy_arrays import ComputedRows
from segment.images.placing.geometry import Geometry
from segment.regions.components import Blank, Regions, regions_of
from segment.regions.statistics import RegionStatistics, statistics_of

UNCLAIMED = 255
"""In a label's own mask of 0 and 1: a pixel without data."""


@dataclass(frozen=True)
class Segment:
    """One region of the mask.

    number: from 1 up in its image; label: index of the class; box: left, top, width, height; area: pixels
    accuracy: expected: the mean, over its pixels, of the probability of its class; NaN where it is not known
    measures: measure -> its mean, maximum and 95th percentile in the region; NaN where all of it is hidden
    """

    number: int
    label: int
    name: str
    area: int
    box: tuple[int, int, int, int]
    accuracy: float
    measures: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class ExportedImage:
    """One image's results.

    id, source: its name in the run, its file. shape: H, W. geometry: where it lies
    prediction: H W (multi-label: K H W of 0, 1, and 255 without data), None where not asked for; labels: the same
    maps: measure -> H W float32, NaN where it is hidden; probability: K H W, or None
    confidence: label -> the probability of a pixel's class (multi-label: of that label), H W
    classes: K names; absent: whether pixels may be NaN. blank: makes the array of region numbers
    """

    id: str
    source: str
    shape: tuple[int, int]
    geometry: Geometry
    labels: Plane
    prediction: Plane | None
    maps: Mapping[str, Plane]
    probability: Plane | None
    confidence: Callable[[int], Plane | None]
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    head: Head
    absent: bool
    blank: Blank

    @cached_property
    def regions(self) -> tuple[Regions, ...]:
        """Regions of the mask; for a multi-label head, of each label's own mask."""
        if self.head != "multilabel":
            return (regions_of(self.labels, self.blank),)
        return tuple(regions_of(_alone(self.labels[label], label), self.blank) for label in range(len(self.classes)))

    @cached_property
    def segments(self) -> tuple[tuple[Segment, ...], ...]:
        """The segments of each of `regions`, numbered through."""
        done: list[tuple[Segment, ...]] = []
        for label, regions in enumerate(self.regions):
            confidence = self.confidence(label)
            accuracy = None if confidence is None else statistics_of(regions, confidence).mean
            measures = {name: statistics_of(regions, values) for name, values in self.maps.items()}
            first = 1 + sum(len(part) for part in done)
            done.append(tuple(self._segment(first, i, regions, accuracy, measures) for i in range(len(regions))))
        return tuple(done)

    def _segment(
        self,
        first: int,
        index: int,
        regions: Regions,
        accuracy: NDArray[np.float64] | None,
        measures: Mapping[str, RegionStatistics],
    ) -> Segment:
        left, top, width, height = (int(value) for value in regions.boxes[index])
        label = int(regions.classes[index])
        return Segment(
            number=first + index,
            label=label,
            name=self.classes[label],
            area=int(regions.areas[index]),
            box=(left, top, width, height),
            accuracy=float("nan") if accuracy is None else float(accuracy[index]),
            measures={
                name: (float(of.mean[index]), float(of.max[index]), float(of.p95[index]))
                for name, of in measures.items()
            },
        )

    def masks(self) -> Iterator[tuple[Segment, NDArray[np.bool_]]]:
        """Every segment with the pixels of its box that belong to it (height width)."""
        for regions, segments in zip(self.regions, self.segments, strict=True):
            for index, segment in enumerate(segments):
                left, top, width, height = segment.box
                block = np.asarray(regions.numbers[top : top + height])[:, left : left + width]
                yield segment, block == index


def file_of_class(map_name: str, index: int, class_name: str) -> str:
    """The stem of the file that holds a map of one class: the index keeps names apart that differ in signs alone.

    >>> file_of_class("prediction", 2, "vein/left")
    'prediction_2_vein_left'
    """
    safe = "".join(letter if letter.isalnum() else "_" for letter in class_name)
    return f"{map_name}_{index}_{safe}"


def _alone(mask: Plane, label: int) -> ComputedRows:
    """A label's own mask: its index where it is claimed, no class elsewhere."""

    def of(rows: slice) -> NDArray[Any]:
        return np.where(np.asarray(mask[rows]) == 1, label, -1)

    return ComputedRows(tuple(mask.shape), np.dtype(np.int64), of)
