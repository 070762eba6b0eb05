"""TIFF by tifffile: any number type, planar or not, strips or tiles, compressed; pages of a stack, not its pyramid.

A plain picture of 8 bits (palette, CMYK, YCbCr, RGB, grey) is Pillow's, which converts its colours.

Must not know what the planes are used for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from segment.errors import ImageUnreadable
from segment.images.formats.georeference import tiff_geometry
from segment.images.formats.pictures import (
    contents,
    read_picture,
    several,
    undecodable,
    unknown_pixels,
    upright,
)
from segment.images.formats.raster import Raster
from segment.images.limits import check_bytes

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a damaged tag is a line on stderr each

_NOT_A_PAGE = 1 | 4  # TIFF 6.0, NewSubfileType: a smaller copy of another page, a transparency mask
_PILLOWS = frozenset({0, 1, 2, 3, 5, 6, 8})  # photometric: white is 0, black is 0, RGB, palette, CMYK, YCbCr, CIE Lab
_CHANNEL_AXES = "CS"
BYTEORDER: Mapping[str, Literal["little", "big"]] = {"<": "little", ">": "big"}
_ERRORS = (Exception,)  # tifffile and its codecs raise of every class for a damaged file


@dataclass(frozen=True)
class _Image:
    """Where one image lies in a file: its series, and the pages of its channels."""

    series: Any
    pages: tuple[int, ...]
    samples: str


def tiff_images(path: Path) -> int:
    """How many images a file holds: pages of a stack, without the smaller copies; 1 for what does not open."""
    try:
        with tifffile.TiffFile(path) as file:
            _check_pages(file)
            return len(_images(file)) if len(file.pages) > 1 else 1
    except _ERRORS:
        return 1


def tiff_size(path: Path) -> tuple[int, int] | None:
    """Height and width of the first page, by the header."""
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages.first
            return int(page.imagelength), int(page.imagewidth)
    except _ERRORS:
        return None


def read_tiff(path: Path, number: int | None = None) -> Raster:
    """One image of a TIFF. Errors: ImageUnreadable for what does not decode, and for several where none is named."""
    try:
        with tifffile.TiffFile(path) as file:
            _check_pages(file)
            images = _images(file)
            if len(images) > 1 and number is None:
                raise several(path, len(images))
            image = images[number or 0]
            page: Any = image.series.keyframe
            if _is_picture(file, page, images):
                return read_picture(path, None if len(file.pages) == 1 else page.index)
            check_bytes(path, math.prod(page.shape) * len(image.pages) * page.dtype.itemsize)
            raw = _planes(file, image)
            orientation = int(page.tags.valueof(274, default=1))
            extra = [int(kind) for kind in page.extrasamples]
            white_is_zero = int(page.photometric) == 0 and raw.dtype.kind == "u"
            georeferenced, colour = bool(file.is_geotiff), int(page.photometric) == 2
    except (ImageUnreadable, OSError) as error:
        if isinstance(error, ImageUnreadable):
            raise
        raise undecodable(path, contents(path), error) from None
    except _ERRORS as error:
        raise undecodable(path, contents(path), error) from None
    if raw.ndim != 3 or 0 in raw.shape:
        raise undecodable(path, contents(path), ValueError(f"its shape is {raw.shape}"))
    if raw.dtype.kind not in "buif":
        raise unknown_pixels(path, str(raw.dtype))
    if white_is_zero:
        raw = np.iinfo(raw.dtype).max - raw
    alpha = next((raw.shape[2] - len(extra) + place for place, kind in enumerate(extra) if kind in (1, 2)), None)
    clear = georeferenced and alpha is not None
    if alpha is None and colour and raw.shape[2] == 4:
        alpha = 3  # not said what it is: alpha for a colour card, a band for a card of four
    geometry = tiff_geometry(path)
    return Raster(upright(raw, orientation), alpha, geometry.bands, geometry.nodata, clear)


def _check_pages(file: Any) -> None:
    """Raises ValueError where a page leads back to an earlier one: tifffile would go round for ever."""
    handle, form = file.filehandle, file.tiff
    place, seen = int(file.pages.first.offset), set[int]()
    while 0 < place < handle.size:
        if place in seen:
            raise ValueError("its pages lead back to one another")
        seen.add(place)
        handle.seek(place)
        count = handle.read(form.tagnosize)
        handle.seek(form.tagsize * int.from_bytes(count, BYTEORDER[form.byteorder]), 1)
        place = int.from_bytes(handle.read(form.offsetsize), BYTEORDER[form.byteorder])


def _images(file: tifffile.TiffFile) -> list[_Image]:
    return list(_images_of(file)) or [_Image(file.series[0], (0,), file.series[0].keyframe.axes)]


def _images_of(file: tifffile.TiffFile) -> Iterator[_Image]:
    """Every image, in order; channels that lie in pages of their own belong to one."""
    for series in file.series:
        page: Any = series.keyframe
        if int(page.subfiletype) & _NOT_A_PAGE:
            continue
        leading = series.axes[: max(0, len(series.axes) - len(page.axes))]
        lengths = series.shape[: len(leading)]
        if not leading:
            yield _Image(series, (0,), page.axes)
            continue
        order = np.arange(math.prod(lengths)).reshape(lengths)
        channels = [axis for axis, letter in enumerate(leading) if letter in _CHANNEL_AXES]
        order = np.moveaxis(order, channels, range(-len(channels), 0)) if channels else order[..., None]
        width = math.prod(lengths[axis] for axis in channels)
        for pages in order.reshape(-1, width):
            yield _Image(series, tuple(int(page) for page in pages), page.axes)


def _planes(file: tifffile.TiffFile, image: _Image) -> NDArray[Any]:  # -> H W B
    pages = [image.series.pages[number] for number in image.pages]
    planes = []
    for page in pages:
        values = page.asarray()
        if image.samples == "SYX":  # planar
            values = np.moveaxis(values, 0, -1)
        elif image.samples == "YX":
            values = values[..., None]
        elif image.samples != "YXS":
            raise ValueError(f"its axes are {image.samples}, not rows, columns and samples")
        planes.append(values)
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)


def _is_picture(file: tifffile.TiffFile, page: Any, images: list[_Image]) -> bool:
    """Whether Pillow reads it as it is: 8 bits or fewer, up to 4 samples of one page."""
    plain = int(page.bitspersample) <= 8 and int(page.samplesperpixel) <= 4 and int(page.sampleformat) == 1
    named = [int(kind) for kind in page.extrasamples]
    bands = int(page.photometric) in (0, 1) and int(page.samplesperpixel) > 1 and not (set(named) & {1, 2})
    planar = int(page.planarconfig) == 2
    known = int(page.photometric) in _PILLOWS and all(len(image.pages) == 1 for image in images)
    return plain and known and not (file.is_geotiff or bands or planar)
