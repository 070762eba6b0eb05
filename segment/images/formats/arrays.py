"""Arrays that NumPy saved: .npy and .npz.

H W, H W C, or C H W where the first axis is shorter than the last; an .npy of four axes (N H W C) is a stack of images.

Must not know what the arrays are used for.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, one_line
from segment.images.formats.kinds import suffix_of
from segment.images.formats.raster import Raster
from segment.images.limits import check_bytes

IMAGE_KEYS, LABEL_KEYS = ("image", "img", "data"), ("label", "mask", "labels")
"""Keys of an .npz with several arrays that are taken as its image, and as its label map."""

ARRAY_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    SyntaxError,
    NotImplementedError,
    MemoryError,
    RecursionError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What a damaged .npy or .npz makes NumPy raise, when it is opened or when an array is read."""


def parts_of_array(path: Path, *, single_key: bool = False) -> tuple[int | str, ...]:
    """The images of a file: numbers of a stack, or keys of an .npz that holds several; () for a single one.

    single_key: also the key of an .npz that holds one
    """
    try:
        if suffix_of(path) == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                keys = list(archive.files)
            return () if (len(keys) == 1 and not single_key) or any(key in keys for key in IMAGE_KEYS) else tuple(keys)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return tuple(range(len(array))) if array.ndim == 4 else ()
    except ARRAY_ERRORS:  # reported where it is read
        return ()


def array_size(path: Path, part: int | str | None = None) -> tuple[int, int] | None:
    """Height and width by the file's header."""
    try:
        if suffix_of(path) == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                shape, _ = _header(archive, _key(path, archive.files, part, IMAGE_KEYS))
        else:
            shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (*ARRAY_ERRORS, ImageUnreadable):
        return None
    if len(shape) == 4:
        shape = shape[1:]
    if len(shape) == 3 and _bands_first(shape):
        shape = shape[1:]
    return (int(shape[0]), int(shape[1])) if len(shape) in (2, 3) else None


def read_array(path: Path, part: int | str | None = None, keys: Sequence[str] = IMAGE_KEYS) -> Raster:
    """One image of a file. Errors: ImageUnreadable for objects, other axes, and a damaged file."""
    array = load(path, part, keys)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ImageUnreadable(
            f"{str(path)!r} holds an array of shape {array.shape}; an image is H W, H W C or C H W, a stack an .npy of "
            "N H W C."
        )
    if array.ndim == 2:
        return Raster(array[..., None])
    return Raster(np.moveaxis(array, 0, -1) if _bands_first(array.shape) else array)


def load(path: Path, part: int | str | None = None, keys: Sequence[str] = IMAGE_KEYS) -> NDArray[Any]:
    """An array as it was saved. Errors: ImageUnreadable."""
    try:
        if suffix_of(path) == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                key = _key(path, archive.files, part, keys)
                shape, kind = _header(archive, key)
                check_bytes(path, math.prod(shape) * kind.itemsize)  # NumPy allocates what a header claims
                return np.asarray(archive[key])
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        return np.array(array[part] if isinstance(part, int) else array)
    except ARRAY_ERRORS as error:
        raise ImageUnreadable(
            f"{str(path)!r} does not load as an array of numbers: {one_line(error, 160)}. Save it by numpy.save."
        ) from None


def _key(path: Path, held: Sequence[str], part: int | str | None, keys: Sequence[str]) -> str:
    named = part if isinstance(part, str) else next((key for key in keys if key in held), None)
    if named is None and len(held) > 1:
        raise ImageUnreadable(
            f"{str(path)!r} holds several arrays ({', '.join(held[:5])}); name one of them {' or '.join(keys[:2])}."
        )
    return named or held[0]


def _header(archive: Any, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array of an .npz, unread."""
    members = archive.zip.namelist()
    with archive.zip.open(key if key in members else f"{key}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(stream)
    return shape, kind


def _bands_first(shape: Sequence[int]) -> bool:
    return shape[0] < shape[2] and shape[2] > 4
