"""A raster too large for memory: its pixels, picture and valid part, read a window at a time by rasterio.

The pixels are those that `read.read_source` gives. Must not know what they are used for.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.images.bands import channels_in, filled, in_255, valid_in
from segment.images.formats.georeference import described, overview_of, window_of
from segment.images.formats.raster import Raster
from segment.images.specs import InputSpec

log = logging.getLogger(__name__)

LARGEST = 2**26
"""Pixels of a TIFF or raster above which it is read a window at a time."""

ROWS = 256
"""Rows of the blocks in which a whole raster is looked through."""


@dataclass(frozen=True)
class WindowedImage:
    """An image H W C in 0..255 whose windows are read when they are asked for: image[rows, columns] or image[rows]."""

    path: Path
    shape: tuple[int, int, int]
    spec: InputSpec
    bands: tuple[str, ...]
    nodata: float | None
    alpha: int | None
    kind: str
    _lock: Lock

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return 3

    def __getitem__(self, window: Any) -> NDArray[Any]:  # -> h w C
        raster = self._raster(*self._spans(window))
        raw = channels_in(raster, self.spec.channels, str(self.path))
        return in_255(filled(raw, valid_in(raster)), self.spec.white, str(self.path), self.spec.channels)

    def small(self, side: int = 1024) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The image (H W C) at most so large, from its overviews where it has them, and where that holds data."""
        height, width = self.shape[:2]
        step = max(1, -(-max(height, width) // side))
        with self._lock:
            read = overview_of(self.path, (-(-height // step), -(-width // step)))
        raster = Raster(read, self.alpha, self.bands, self.nodata, self.alpha is not None)
        valid = valid_in(raster)
        raw = channels_in(raster, self.spec.channels, str(self.path))
        return in_255(filled(raw, valid), self.spec.white, str(self.path), self.spec.channels), valid

    def valid(self) -> NDArray[np.bool_] | None:  # H W
        """Where it holds data, kept in a file; None: everywhere."""
        if self.nodata is None and self.alpha is None and self.kind != "f":
            return None
        height, width = self.shape[:2]
        everywhere = True
        with tempfile.TemporaryFile() as stream:
            whole: NDArray[np.bool_] = np.memmap(stream, bool, "w+", shape=(height, width))
            for start in range(0, height, ROWS):
                part = valid_in(self._raster((start, min(start + ROWS, height)), (0, width)))
                whole[start : start + ROWS] = True if part is None else part
                everywhere &= part is None
        return None if everywhere else whole

    def _spans(self, window: Any) -> Iterator[tuple[int, int]]:
        parts = [part for part in (window if isinstance(window, tuple) else (window,)) if part is not Ellipsis]
        for length, part in zip(self.shape[:2], [*parts, slice(None)][:2], strict=True):
            start, stop, _ = part.indices(length)
            yield start, max(start, stop)

    def _raster(self, rows: tuple[int, int], columns: tuple[int, int]) -> Raster:
        with self._lock:
            read = window_of(self.path, rows, columns)
        return Raster(read, self.alpha, self.bands, self.nodata, self.alpha is not None)


def windowed(path: Path, spec: InputSpec) -> WindowedImage:
    """A raster by its windows. Errors: MissingExtra without rasterio; ImageUnreadable for other bands or no white."""
    file = described(path)
    height, width, geometry = file.height, file.width, file.geometry
    image = WindowedImage(
        path,
        (height, width, spec.pixel_planes),
        spec,
        geometry.bands,
        geometry.nodata,
        file.alpha,
        file.kind,
        Lock(),
    )
    image[0:1, 0:1]  # what its bands or values would be refused for
    log.info("%s is read a window at a time: %d x %d pixels.", path, height, width)
    return image
