"""Windows of rasters, by rasterio (the extra `geo`): the bands, where they hold data, and both at another size.

Must not know what the pixels are used for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.images.contents.states import FileState, state_of
from segment.images.formats.belonging import files_of, may_belong
from segment.images.formats.georeference import (
    BROKEN,
    described,
    open_raster,
    opened,
    quiet_gdal,
    unreadable_raster,
)
from segment.images.formats.raster import Raster
from segment.images.isolation import contained
from segment.stores.urls import is_url


@contained
def window_of(path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[Any]:  # -> h w C
    """The bands of a window. Errors: ImageUnreadable where its data are damaged."""
    # on a store each window is opened anew: rasterio's open files of Python do not outlive the thread that opened them
    with opened(path) if is_url(path) else _reading(path) as raster:
        return np.moveaxis(read_window(raster, path, rows, columns), 0, -1)


@contained
def mask_of(path: Path, rows: tuple[int, int], columns: tuple[int, int]) -> NDArray[np.bool_]:  # -> h w
    """Where a window holds data by the mask of the raster. Errors: as `window_of`."""
    with opened(path) if is_url(path) else _reading(path) as raster:
        return read_window(raster, path, rows, columns, of_mask=True) != 0


@contained
def overview_of(path: Path, size: tuple[int, int]) -> NDArray[Any]:  # -> h w C
    """The bands at another size, from overviews where the raster has them."""
    with opened(path) as raster:
        return np.moveaxis(raster.read(out_shape=(raster.count, *size)), 0, -1)


@contained
def mask_overview_of(path: Path, size: tuple[int, int]) -> NDArray[np.bool_]:  # -> h w
    """The mask of the raster at another size."""
    with opened(path) as raster:
        return raster.read_masks(1, out_shape=size) != 0


class _Reading:
    """The raster that windows were last read of stays open: what GDAL has decoded of it goes when it is closed.

    It is opened anew where one of its files has changed, as a source of a `.vrt`.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._file: Any = None
        self._path: Path | None = None
        self._states: dict[Path, FileState | None] = {}

    @contextmanager
    def __call__(self, path: Path) -> Iterator[Any]:
        with self._lock, quiet_gdal():
            if path != self._path or any(state_of(file) != state for file, state in self._states.items()):
                if self._file is not None:
                    self._file.close()
                self._file = self._path = None
                files = (path, *may_belong(path), *files_of(path))
                self._states = {file: state_of(file) for file in files}  # first: it may change while it is opened
                self._file, self._path = open_raster(path), path
            yield self._file


_reading = _Reading()


def read_window(
    raster: Any, path: Path, rows: tuple[int, int], columns: tuple[int, int], *, of_mask: bool = False
) -> NDArray[Any]:
    """The bands of a window of an open raster (C h w), or its mask (h w). Errors: ImageUnreadable for damaged data."""
    window = (rows, columns)
    with quiet_gdal() as rasterio:
        try:
            read: NDArray[Any] = raster.read_masks(1, window=window) if of_mask else raster.read(window=window)
        except (rasterio.errors.RasterioError, *BROKEN) as error:
            raise unreadable_raster(path, "does not decode", error) from None
    return read


def read_raster(path: Path, *, stored: bool = False) -> Raster:
    """A raster that GDAL opens and tifffile does not (.jp2, .vrt, .img). Errors: MissingExtra, ImageUnreadable.

    stored: the samples as they are, an index in place of its colour
    """
    file = described(path)
    whole = (0, file.height), (0, file.width)
    raw = np.ascontiguousarray(window_of(path, *whole))
    if stored:
        return file.samples.stored().raster(raw)
    return file.samples.raster(raw, mask_of(path, *whole) if file.masked else None)
