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
from segment.files.writing import fresh
from segment.images.geometry import Geometry, stacked


@dataclass(frozen=True)
class Part:
    """One image of a volume or a video: its id in the run, its folder, where it lies."""

    id: str
    folder: Path
    geometry: Geometry


def write_volumes(folder: Path, parts: Sequence[Part], *, no_class: int, prefix: str = "") -> list[Path]:
    """<map>.nii.gz in `folder` for each map that the slices have, in the voxel order of the source.

    A slice that was not done is NaN, and `no_class` in the prediction. prefix: of the files' names
    Errors: WrongUse for two slices in one place.
    """
    of_index: dict[int, Part] = {}
    for part in parts:
        index = part.geometry.index
        if of_index.setdefault(index, part) is not part:
            ids = f"{of_index[index].id!r} and {part.id!r}"
            raise WrongUse(f"Images {ids} are both slice {index} of one volume. It is not written.")
    nibabel = imported("nibabel", extra="medical", what="NIfTI volumes")
    geometry = parts[0].geometry
    affine = np.eye(4) if geometry.affine is None else np.array(geometry.affine)
    with np.load(parts[0].folder / "maps.npz") as archive:
        names = [name for name in archive.files if archive[name].ndim == 2]
    written = []
    for name in names:
        volume = _volume(parts, name, no_class)
        path = folder / f"{prefix}{name}.nii.gz"
        image = nibabel.Nifti1Image(volume, affine)
        image.header.set_xyzt_units("mm")
        with fresh(path) as stream, gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=4, mtime=0) as packed:
            packed.write(image.to_bytes())
        written.append(path)
    return written


def _volume(parts: Sequence[Part], name: str, no_class: int) -> NDArray[Any]:  # -> i j k
    slices: dict[int, NDArray[Any]] = {}
    for part in parts:
        with np.load(part.folder / "maps.npz") as archive:
            slices[part.geometry.index] = archive[name]
    one = next(iter(slices.values()))
    real = np.issubdtype(one.dtype, np.floating)
    nothing = np.full(one.shape, np.nan if real else no_class, one.dtype)
    count = max(parts[0].geometry.count, max(slices) + 1)
    return stacked([slices.get(index, nothing) for index in range(count)], parts[0].geometry.axis)
