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
"""Bytes of the volumes that are kept decoded, as images and their labels: a compressed file cannot be read from its
middle."""

DEFLATED = 1032
"""Bytes that one byte of gzip stands for at most."""

MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}
"""Millimetres in each unit that a file may name."""

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
        compressed, one = path.suffix.lower() == ".gz", (*shape[:axis], 1, *shape[axis + 1 :])
        voxels = _voxels(path, image).reshape(shape) if compressed else _slab(image, axis, index).reshape(one)
        voxels = voxels if len(shape) == 4 else voxels[..., None]
        return np.ascontiguousarray(slice_of(voxels, axis, index if compressed else 0))
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


def _slab(image: Any, axis: int, index: int) -> NDArray[Any]:
    """One slice of a plain file, its axis still there where the file has it; only its bytes are read."""
    wanted = tuple(slice(index, index + 1) if place == axis else slice(None) for place in range(len(image.shape)))
    return np.asanyarray(image.dataobj[wanted])


def _voxels(path: Path, image: Any) -> NDArray[Any]:
    """All voxels of a compressed file, decoded once."""
    key = (str(path), state_of(path))
    with _lock:
        if key not in _kept:
            claimed = math.prod(image.shape) * image.get_data_dtype().itemsize
            check_bytes(path, claimed)
            _make_room(claimed)
            voxels = np.asanyarray(image.dataobj)
            _make_room(voxels.nbytes)  # which slope and intercept make larger
            if voxels.nbytes > KEPT:
                return voxels
            _kept[key] = voxels
        _kept.move_to_end(key)
        return _kept[key]


def _make_room(count: int) -> None:
    """Let go of the volumes that were read longest ago until `count` bytes more are within `KEPT`."""
    while _kept and sum(voxels.nbytes for voxels in _kept.values()) + count > KEPT:
        _kept.popitem(last=False)


def slice_size(path: Path, axis: int) -> tuple[int, int] | None:
    try:
        left, right = (length for place, length in enumerate(volume_shape(path)[:3]) if place != axis)
    except ImageUnreadable:
        return None
    return right, left
