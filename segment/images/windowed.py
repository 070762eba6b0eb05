"""A raster too large for memory: its pixels, picture and valid part, read a window at a time by rasterio.

The pixels are those that `read.read_source` gives of the whole. Must not know what they are used for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import ROWS
from segment.errors import ImageUnreadable
from segment.images.bands import channels_in, in_channels, not_black
from segment.images.formats.georeference import Described, described
from segment.images.formats.kinds import kind_of
from segment.images.formats.raster import Raster, SampleMeaning
from segment.images.formats.raster_windows import mask_of, mask_overview_of, overview_of, window_of
from segment.images.formats.tiff import samples_by_windows
from segment.images.limits import check_pixels, states_pixels
from segment.images.specs import InputSpec

log = logging.getLogger(__name__)

LARGEST = 3 * 2**26
"""Bytes of a TIFF's or raster's pixels, as they are held, above which it is read a window at a time."""


def bytes_held(spec: InputSpec) -> int:
    """Bytes of a pixel in memory, as large a type as the card allows for.

    >>> bytes_held(InputSpec()), bytes_held(InputSpec(channels=4, white=10000.0))
    (3, 16)
    """
    return spec.pixel_planes * (1 if spec.white is None else 4)


def in_windows(height: int, width: int, spec: InputSpec) -> bool:
    """Whether a raster of that size is too large to be held."""
    return height * width * bytes_held(spec) > LARGEST


class Bits:
    """A mask (H W) in a bit a pixel, read by [rows] or [rows, columns]."""

    def __init__(self, height: int, width: int) -> None:
        self.shape, self.dtype = (height, width), np.dtype(np.bool_)
        self._bits = np.zeros((height, -(-width // 8)), np.uint8)

    def set_rows(self, start: int, part: NDArray[np.bool_]) -> None:
        self._bits[start : start + len(part)] = np.packbits(part, axis=1)

    def __getitem__(self, window: Any, /) -> NDArray[np.bool_]:
        rows, columns = window if isinstance(window, tuple) else (window, slice(None))
        bits = self._bits[rows]
        return np.unpackbits(bits, axis=1, count=self.shape[1]).view(np.bool_)[:, columns]

    def any(self) -> bool:
        return bool(self._bits.any())

    def keep(self, other: Bits) -> None:
        """Only what the other holds too, of the same size."""
        self._bits &= other._bits


@dataclass(frozen=True)
class WindowedImage:
    """An image H W C in 0..255 whose windows are read when they are asked for: image[rows, columns] or image[rows]."""

    path: Path
    shape: tuple[int, int, int]
    spec: InputSpec
    samples: SampleMeaning
    kind: str
    masked: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    @property
    def ndim(self) -> int:
        return 3

    def __getitem__(self, window: Any) -> NDArray[Any]:  # -> h w C
        raster = self._raster(*self._spans(window))
        return in_channels(raster, self.spec, str(self.path))[0]

    def small(self, side: int = 1024) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The image (H W C) at most so large, from its overviews where it has them, and where that holds data."""
        height, width = self.shape[:2]
        step = max(1, -(-max(height, width) // side))
        size = -(-height // step), -(-width // step)
        mask = mask_overview_of(self.path, size) if self.masked else None
        return in_channels(self.samples.raster(overview_of(self.path, size), mask), self.spec, str(self.path))

    def valid(self) -> Bits | None:  # H W
        """Where it holds data; None: everywhere."""
        if not (self.samples.can_be_absent or self.masked) and self.kind != "f":
            return None
        height, width = self.shape[:2]
        whole, everywhere = Bits(height, width), True
        for start in range(0, height, ROWS):
            stop = min(start + ROWS, height)
            part = channels_in(self._raster((start, stop), (0, width)), self.spec.channels, str(self.path)).valid()
            whole.set_rows(start, np.ones((stop - start, width), np.bool_) if part is None else part)
            everywhere &= part is None
        return None if everywhere else whole

    def _spans(self, window: Any) -> Iterator[tuple[int, int]]:
        parts = [part for part in (window if isinstance(window, tuple) else (window,)) if part is not Ellipsis]
        for length, part in zip(self.shape[:2], [*parts, slice(None)][:2], strict=True):
            start, stop, _ = part.indices(length)
            yield start, max(start, stop)

    def _raster(self, rows: tuple[int, int], columns: tuple[int, int]) -> Raster:
        mask = mask_of(self.path, rows, columns) if self.masked else None
        return self.samples.raster(window_of(self.path, rows, columns), mask)


def by_windows(path: Path) -> bool:
    """Whether rasterio's windows of a file are the pixels of the whole."""
    try:
        return kind_of(path) != "tiff" or samples_by_windows(path) is not None
    except ImageUnreadable:  # reported where its pixels are read
        return False


def _described(path: Path) -> Described:
    """A raster's header; of a TIFF, its samples by the rules of `read_tiff`."""
    file = described(path)
    samples = samples_by_windows(path) if kind_of(path) == "tiff" else None
    if samples is None:
        return file
    own = file.samples
    return replace(file, samples=replace(samples, bands=own.bands, nodata=own.nodata, rgb=own.rgb))


def region_in_windows(path: Path, *, lossy: bool) -> Bits:  # H W
    """Where a raster is not black; where its index is not 0, if its palette has no black beside other colours.

    lossy: where it is lighter than half
    Errors: MissingExtra, ImageUnreadable.
    """
    file = _described(path)
    shown, mixed = _region(path, file, file.samples, above=127 if lossy else 0)
    if lossy or mixed or file.samples.palette is None:
        return shown
    by_index, mixed = _region(path, file, file.samples.stored())
    return by_index if mixed else shown


def _region(path: Path, file: Described, samples: SampleMeaning, above: int = 0) -> tuple[Bits, bool]:
    """Where a raster is not black by a meaning of its samples, and whether that is some of it, not all or nothing."""
    region, inside = Bits(file.height, file.width), 0
    for start in range(0, file.height, ROWS):
        raw = window_of(path, (start, min(start + ROWS, file.height)), (0, file.width))
        shown = not_black(samples.raster(raw), above=above)
        region.set_rows(start, shown)
        inside += int(shown.sum())
    return region, 0 < inside < file.height * file.width


def windowed(path: Path, spec: InputSpec) -> WindowedImage:
    """A raster by its windows, which `by_windows` allows.

    Errors: MissingExtra without rasterio; ImageUnreadable for other bands or no white, and for more pixels than
    `--max-pixels` or the card says; what is read by default has no limit here, since windows take little memory.
    """
    file = _described(path)
    height, width = file.height, file.width
    if states_pixels(spec.max_pixels):
        check_pixels(path, (height, width), spec.max_pixels)
    image = WindowedImage(path, (height, width, spec.pixel_planes), spec, file.samples, file.kind, file.masked)
    image[0:1, 0:1]  # what its bands or values would be refused for
    log.info("%s is read a window at a time: %d x %d pixels.", path, height, width)
    return image
