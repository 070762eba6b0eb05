"""Arrays that are not in memory: kept in files without a name, or made some rows at a time.

Must not know what the numbers mean.
"""

from __future__ import annotations

import math
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from segment.axes import Plane, strips


class FileArray:
    """An array (H W or K H W), zeros at first, whose file is gone when it is let go or the process ends, however.

    Written and read as [..., rows, columns] or [planes, rows, columns]; [rows] and [k] read too.
    Errors: OSError where the disk is full.
    """

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._stream = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as the array
        weakref.finalize(self, self._stream.close)
        self._stream.truncate(self.dtype.itemsize * math.prod(self.shape))

    def __setitem__(self, window: tuple[Any, slice, slice], values: NDArray[Any]) -> None:
        which, rows, columns = window
        parts = values.reshape(-1, *values.shape[-2:])
        for plane, part in zip(self._planes(which), parts, strict=True):
            for row, line in enumerate(np.ascontiguousarray(part, self.dtype), start=rows.start or 0):
                self._seek(plane, row, columns.start or 0)
                left = line.view(np.uint8).data
                while left:
                    left = left[self._stream.write(left) :]

    def __getitem__(self, window: Any, /) -> Any:
        if isinstance(window, int):
            return ComputedRows(self.shape[-2:], self.dtype, lambda rows: self._read(window, rows, slice(None)))
        parts = list(window) if isinstance(window, tuple) else [window]
        which = parts.pop(0) if len(parts) == 3 or parts[0] is Ellipsis else ...
        rows, columns = (*parts, slice(None))[:2]
        planes = [self._read(plane, rows, columns) for plane in self._planes(which)]
        return planes[0] if len(self.shape) == 2 else np.stack(planes)

    def _planes(self, which: Any) -> range:
        planes = range(math.prod(self.shape[:-2]))
        return planes if which is Ellipsis else planes[which]

    def _read(self, plane: int, rows: slice, columns: slice) -> NDArray[Any]:
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[-2]), columns.indices(self.shape[-1])
        values = np.empty((max(0, bottom - top), max(0, right - left)), self.dtype)
        whole = values.shape[1] == self.shape[-1]  # rows that lie side by side are one piece
        for row, piece in enumerate([values] if whole else values):
            self._seek(plane, top + row, left)
            rest = piece.reshape(-1).view(np.uint8).data
            while rest:
                rest = rest[self._stream.readinto(rest) :]
        return values

    def _seek(self, plane: int, row: int, column: int) -> None:
        height, width = self.shape[-2:]
        self._stream.seek(((plane * height + row) * width + column) * self.dtype.itemsize)


@dataclass(frozen=True)
class ComputedRows:
    """An H W array or H W 3 picture that is made when it is read: of(rows) gives those rows."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    of: Callable[[slice], NDArray[Any]]

    def __getitem__(self, window: slice, /) -> Any:
        start, stop, _ = window.indices(self.shape[0])
        return self.of(slice(start, stop))


@dataclass(frozen=True)
class ComputedPlanes:
    """A K H W array whose planes are made when they are read: [k]."""

    planes: tuple[Plane, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.planes), *self.planes[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.planes[0].dtype

    def __getitem__(self, index: int, /) -> Any:
        return self.planes[index]


def blocks(plane: Plane) -> Iterator[NDArray[Any]]:
    """The rows of an H W or H W 3 in order, a strip at a time."""
    return (plane[rows] for rows in strips(plane.shape))
