"""Slices of a volume back as NIfTI volumes with the source's affine.

Must not know how a slice was estimated: its maps are read from maps.npz.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse, imported
from segment.files.exports.image import UNCLAIMED, file_of_class
from segment.files.writing import fresh
from segment.images.placing.geometry import Geometry, stacked
from segment.uncertainty.class_indices import no_class


@dataclass(frozen=True)
class PlacedImage:
    """One image of a volume or a video: its id in the run, its folder, where it lies."""

    id: str
    folder: Path
    geometry: Geometry


def write_volumes(
    folder: Path, parts: Sequence[PlacedImage], *, classes: Sequence[str], prefix: str = ""
) -> list[Path]:
    """<map>.nii.gz in `folder` for each map that the slices have, in the voxel order of the source.

    A map of several classes (the masks of a multi-label head, `probability`) is a volume a class. A slice that was not
    done is NaN, and in a mask what a pixel without data is. Codes of sform and qform are 0 where the source does not
    say where it lies. classes: K names; prefix: of the files' names
    Errors: WrongUse for two slices in one place.
    """
    of_index: dict[int, PlacedImage] = {}
    for part in parts:
        index = part.geometry.index
        if of_index.setdefault(index, part) is not part:
            ids = f"{of_index[index].id!r} and {part.id!r}"
            raise WrongUse(f"Images {ids} are both slice {index} of one volume. It is not written.")
    with np.load(parts[0].folder / "maps.npz") as archive:
        shapes = {name: archive[name].shape for name in archive.files}
    written = []
    for name, shape in shapes.items():
        if len(shape) == 2:
            planes: dict[str, int | None] = {name: None}
        else:
            planes = {file_of_class(name, k, classes[k]): k for k in range(shape[0])}
        for stem, plane in planes.items():
            written.append(folder / f"{prefix}{stem}.nii.gz")
            missing = no_class(len(classes)) if plane is None else UNCLAIMED
            _write(written[-1], _volume(parts, name, plane, missing), parts[0].geometry)
    return written


def _write(path: Path, volume: NDArray[Any], geometry: Geometry) -> None:
    nibabel = imported("nibabel", extra="medical", what="NIfTI volumes")
    affine = None if geometry.affine is None else np.array(geometry.affine)
    said = affine is not None and (geometry.affine_said or np.array_equal(affine, np.eye(4)))  # by a file, with a code
    image = nibabel.Nifti1Image(volume, affine if said else None)
    if affine is not None:
        image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
        image.header.set_xyzt_units("mm")
    with fresh(path) as stream, gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=4, mtime=0) as packed:
        packed.write(image.to_bytes())


def _volume(parts: Sequence[PlacedImage], name: str, plane: int | None, missing: int) -> NDArray[Any]:  # -> i j k
    """One map of the slices, or one class of it. missing: of a mask's slice that was not done."""
    slices: dict[int, NDArray[Any]] = {}
    for part in parts:
        with np.load(part.folder / "maps.npz") as archive:
            slices[part.geometry.index] = archive[name] if plane is None else archive[name][plane].copy()
    one = next(iter(slices.values()))
    real = np.issubdtype(one.dtype, np.floating)
    nothing = np.full(one.shape, np.nan if real else missing, one.dtype)
    count = max(parts[0].geometry.count, max(slices) + 1)
    return stacked([slices.get(index, nothing) for index in range(count)], parts[0].geometry.axis)
