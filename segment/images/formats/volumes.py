"""NIfTI volumes, by nibabel (the extra `medical`): their slices, and the affine.

Must not know what the slices are used for.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, imported, one_line
from segment.images.contents.states import FileState, state_of
from segment.images.limits import check_bytes
from segment.images.placing.geometry import Geometry, slice_of

KEPT = 512 * 2**20
"""Bytes of the one volume that is kept decoded: a compressed file cannot be read from its middle."""

DEFLATED = 1032
"""Bytes that one byte of gzip stands for at most."""

MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
"""Of each unit that a file may name."""

_kept: OrderedDict[tuple[str, FileState | None], NDArray[Any]] = OrderedDict()
_lock = Lock()


def volume_shape(path: Path) -> tuple[int, ...]:
    """Axes i, j, k of the voxels, and a fourth where each voxel holds several values."""
    image = _opened(path)
    shape = tuple(int(length) for length in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) not in (3, 4):
        raise ImageUnreadable(f"{str(path)!r} has axes {shape}; a volume has 3, or 4 with the channels last.")
    held = math.prod(shape) * image.get_data_dtype().itemsize
    if min(shape) < 1 or held > path.stat().st_size * (DEFLATED if path.suffix.lower() == ".gz" else 1):
        raise ImageUnreadable(f"{str(path)!r} claims axes {shape}, which its bytes cannot hold. Replace or remove it.")
    return shape


def read_slice(path: Path, index: int, axis: int) -> NDArray[Any]:  # -> H W C
    """One slice, as `geometry.slice_of` lays it: the file's values, with its slope and intercept where it has them."""
    image, shape = _opened(path), volume_shape(path)
    try:
        voxels = _voxels(path, image).reshape(shape if len(shape) == 4 else (*shape, 1))
        return np.ascontiguousarray(slice_of(voxels, axis, index))
    except ImageUnreadable:
        raise
    except Exception as error:
        raise ImageUnreadable(f"{str(path)!r}: slice {index} does not decode: {one_line(error, 200)}.") from None


def volume_geometry(path: Path, index: int, axis: int) -> Geometry:
    """Where a slice lies; a file that names no unit is in millimetres."""
    image, count = _opened(path), volume_shape(path)[axis]
    in_mm = np.diag([MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)] * 3 + [1.0])
    affine = tuple(tuple(float(value) for value in row) for row in in_mm @ image.affine)
    said = any(int(image.header[code]) > 0 for code in ("qform_code", "sform_code"))
    said = said and not np.array_equal(image.affine, np.eye(4))
    return Geometry(volume=str(path), affine=affine, affine_said=said, axis=axis, index=index, count=count)


def _opened(path: Path) -> Any:
    nibabel = imported("nibabel", extra="medical", what="NIfTI volumes")
    try:
        return nibabel.load(path)
    except Exception as error:  # nibabel and what it decompresses by raise of every class
        raise ImageUnreadable(f"{str(path)!r} does not open as a NIfTI volume: {one_line(error, 200)}.") from None


def _voxels(path: Path, image: Any) -> NDArray[Any]:
    """All voxels: mapped from a plain file, decoded once from a compressed one."""
    if path.suffix.lower() != ".gz":
        return np.asanyarray(image.dataobj)
    key = (str(path), state_of(path))
    with _lock:
        if key not in _kept:
            check_bytes(path, math.prod(image.shape) * image.get_data_dtype().itemsize)
            _kept.clear()
            voxels = np.asanyarray(image.dataobj)
            if voxels.nbytes > KEPT:
                return voxels
            _kept[key] = voxels
        return _kept[key]


def slice_size(path: Path, axis: int) -> tuple[int, int] | None:
    try:
        left, right = (length for place, length in enumerate(volume_shape(path)[:3]) if place != axis)
    except ImageUnreadable:
        return None
    return right, left
