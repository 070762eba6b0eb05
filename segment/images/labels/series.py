"""A DICOM series and the volume of its labels (NIfTI): each slice has the slice of the volume that lies in its place.

Must not know what a label map holds.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segment.errors import ImageUnreadable
from segment.images.find import Source
from segment.images.formats.kinds import kind_of
from segment.images.placing.geometry import Geometry
from segment.images.placing.of_source import geometry_of

log = logging.getLogger(__name__)

APART = 0.1
"""Slices of the volume that a slice of the series may lie from one; the reader compares the corners too."""
AXIS = 2
"""That the slices of a DICOM series lie along."""


def volumes_of_series(sources: Sequence[Source], slices: Sequence[Source], suffix: str = "") -> Mapping[str, Path]:
    """The volume of labels of each DICOM slice: that which is called as the folder of its series, and `suffix`.

    slices: slices of the volumes, of ids "folder/0003"
    """
    volumes = {one.id.rpartition("/")[0]: one.path for one in slices if one.part is not None and _is_volume(one.path)}
    matched: dict[str, Path] = {}
    for series in _grouped(sources, lambda source: _place(source).volume or None) if volumes else ():
        folder = os.path.commonpath([source.id.rpartition("/")[0] for source in series]) or series[0].path.parent.name
        if path := volumes.get(folder + suffix):
            matched |= {source.id: path for source in series}
    return matched


def with_slices(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources; a DICOM slice whose label file is a volume has the slice of it that lies in its place, or none.

    Slices are counted where one of the two does not say its place. A warning names a volume of which no slice fits.
    """

    def of_volume(source: Source) -> tuple[str, Path] | None:
        label, series = source.label, _place(source).volume
        return (
            (series, label)
            if label is not None and source.label_part is None and _is_volume(label) and series
            else None
        )

    numbers: dict[str, int | None] = {}
    for series in _grouped(sources, of_volume):
        label = series[0].label
        assert label is not None
        try:
            volume = geometry_of(Source("", label, part=0, axis=AXIS))
        except ImageUnreadable:  # reported where it is read
            continue
        if volume.count == 1:  # a file of its own for each slice
            continue
        in_place = _slices_in_place([_place(source) for source in series], volume)
        if all(number is None for number in in_place):
            log.warning(
                "No slice of the label volume %r lies in the place of one of the %d DICOM slices in %r, which have no "
                "label map. Resample the volume to the grid of the series.",
                str(label),
                len(series),
                str(series[0].path.parent),
            )
        numbers |= {source.id: number for source, number in zip(series, in_place, strict=True)}
    return tuple(
        replace(
            source, label=None if numbers[source.id] is None else source.label, label_part=numbers[source.id], axis=AXIS
        )
        if source.id in numbers
        else source
        for source in sources
    )


def _slices_in_place(series: Sequence[Geometry], volume: Geometry) -> list[int | None]:
    """For each slice of a series, the number of the slice of a volume along `AXIS` in its place."""
    ours, theirs = series[0].affine, volume.affine
    if ours is None or theirs is None or not volume.affine_said or np.linalg.det(theirs) == 0:
        return [place.index if place.count == volume.count else None for place in series]
    first_voxels = np.array([[0, 0, place.index, 1] for place in series]).T
    numbers = (np.linalg.inv(theirs) @ ours @ first_voxels)[AXIS]
    near = [round(float(number)) for number in numbers]
    return [
        number if abs(number - exact) <= APART and 0 <= number < volume.count else None
        for number, exact in zip(near, numbers.tolist(), strict=True)
    ]


def _place(source: Source) -> Geometry:
    """The place of a DICOM slice, which alone `find_images` places; else nowhere."""
    return source.geometry or Geometry()


def _is_volume(path: Path) -> bool:
    return kind_of(path) == "volume"


def _grouped(sources: Sequence[Source], key: Callable[[Source], Hashable]) -> Iterable[list[Source]]:
    """The sources of each key, without those whose key is None."""
    groups: dict[Hashable, list[Source]] = defaultdict(list)
    for source in sources:
        if (of := key(source)) is not None:
            groups[of].append(source)
    return groups.values()
