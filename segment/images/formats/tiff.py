"""TIFF by tifffile: any number type, planar or not, strips or tiles, compressed; pages of a stack, not its pyramid.

A plain picture of 8 bits (palette, CMYK, YCbCr, RGB, grey) is Pillow's, which converts its colours.

Must not know what the planes are used for.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segment.errors import SegmentError, one_line
from segment.images.contents.states import FileState, state_of
from segment.images.formats.beside import placed_beside
from segment.images.formats.georeference import placed_by_tags, tiff_geometry
from segment.images.formats.pictures import (
    contents,
    read_picture,
    several,
    turned,
    undecodable,
    unknown_pixels,
    upright,
)
from segment.images.formats.raster import Raster, SampleMeaning
from segment.images.formats.tiff_pages import MASK, NOT_A_PAGE, TiffImage, images_in, is_below, opened_tiff
from segment.images.isolation import contained
from segment.images.limits import check_bytes, is_file
from segment.images.placing.geometry import Geometry
from segment.stores.ranges import failure
from segment.stores.urls import is_url

log = logging.getLogger(__name__)

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a damaged tag is a line on stderr each

_PILLOWS = frozenset({0, 1, 2, 3, 5, 6, 8})  # photometric: white is 0, black is 0, RGB, palette, CMYK, YCbCr, CIE Lab
_METADATA, _NODATA = 42112, 42113  # GDAL's tags: names of bands, the value without data
_ERRORS = (Exception,)  # tifffile and its codecs raise of every class for a damaged file


def tiff_images(path: Path) -> int:
    """How many images a file holds: pages of a stack, without the smaller copies; 1 for what does not open."""
    try:
        with opened_tiff(path) as file:
            return len(images_in(file))
    except _ERRORS:
        return 1


def tiff_size(path: Path, number: int | None = None) -> tuple[int, int] | None:
    """Height and width of an image, by the header."""
    return dict(enumerate(_sizes(path, state_of(path)))).get(number or 0)


@lru_cache(maxsize=8)
def _sizes(path: Path, state: FileState | None) -> tuple[tuple[int, int], ...]:
    """Sizes of all images of a file in that state, since pages are asked for one by one; none if it does not open."""
    try:
        with opened_tiff(path) as file:
            pages: list[Any] = [image.series.keyframe for image in images_in(file)]
            return tuple((int(page.imagelength), int(page.imagewidth)) for page in pages)
    except _ERRORS:
        return ()


def read_tiff(path: Path, number: int | None = None, *, stored: bool = False) -> Raster:
    """One image of a TIFF. Errors: ImageUnreadable for what does not decode, and for several where none is named.

    stored: the samples as they are, an index in place of its colour
    """
    try:
        with opened_tiff(path) as file:
            images = images_in(file)
            if len(images) > 1 and number is None:
                raise several(path, len(images))
            image = images[number or 0]
            page: Any = image.page.aspage()  # its own tags, not those of the first
            orientation = _orientation(page)
            mask = None if stored else _mask(path, file, page)
            if not stored and _is_picture(path, file, page, images):
                picture = read_picture(path, None if len(file.pages) == 1 else page.index)
                return picture if mask is None else replace(picture, mask=upright(mask, orientation))
            check_bytes(path, math.prod(page.shape) * len(image.pages) * page.dtype.itemsize)
            raw = image.planes()
            geometry = _place_of(path, page)
            samples = _samples(page, raw.shape[2], geometry.placed or placed_by_tags(page))
    except SegmentError:
        raise
    except _ERRORS as error:
        raise undecodable(path, contents(path), error) from None
    if raw.ndim != 3 or 0 in raw.shape:
        raise undecodable(path, contents(path), ValueError(f"its shape is {raw.shape}"))
    if raw.dtype.kind not in "buif":
        raise unknown_pixels(path, str(raw.dtype))
    nodata = geometry.nodata
    if isinstance(nodata, tuple) and len(nodata) != raw.shape[2]:  # of the first page alone, of several
        nodata = nodata[0]
    samples = replace(samples, bands=geometry.bands, nodata=nodata, rgb=geometry.rgb)
    return turned((samples.stored() if stored else samples).raster(raw, mask), orientation)


def tiff_place(path: Path, number: int) -> Geometry:
    """Where one image of a TIFF lies. Errors: as `tiff_geometry`."""
    if is_url(path):
        return tiff_geometry(path)
    try:
        with opened_tiff(path) as file:
            return _place_of(path, images_in(file)[number].page)
    except SegmentError:
        raise
    except _ERRORS as error:  # reported where its pixels are read
        log.info("%s: no geometry: %s", path, one_line(error, 200))
        return Geometry()


def _place_of(path: Path, page: Any) -> Geometry:
    return Geometry() if is_below(page) else tiff_geometry(path, page.index)


@contained
def samples_by_windows(path: Path) -> SampleMeaning | None:
    """What the samples mean that rasterio reads of the first page, without its bands' names and nodata.

    None where they are not those of the image as `read_tiff` gives it: turned, of other colours, of several pages.
    Errors: ImageUnreadable where rasterio does not open it; those of a store.
    """
    try:
        with opened_tiff(path) as file:
            images = images_in(file)
            page: Any = file.pages.first
            image = images[0]
            alone = len(images) == len(image.pages) == 1 and image.series.keyframe.index == page.index
            if not alone or _orientation(page) != 1 or not (_is_plain(page) or _is_photograph(page)):
                return None
            placed = placed_by_tags(page) or tiff_geometry(path).placed
            return _samples(page, int(page.samplesperpixel), placed)
    except SegmentError:
        raise
    except _ERRORS as error:  # reported where its pixels are read
        if isinstance(failed := failure() if is_url(path) else None, SegmentError):
            raise failed from None
        log.info("%s: not by windows: %s", path, one_line(error, 200))
        return None


def _samples(page: Any, count: int, georeferenced: bool) -> SampleMeaning:  # noqa: FBT001
    """What the samples of a page mean. count: how many planes its image has."""
    extra = [int(kind) for kind in page.extrasamples]
    photometric, bits = int(page.photometric), int(page.bitspersample)
    alpha = next((count - len(extra) + place for place, kind in enumerate(extra) if kind in (1, 2)), None)
    multiplied = alpha is not None and extra[alpha - count] == 1
    clear = georeferenced and alpha is not None
    guessed = photometric == 2 and count == 4 and extra in ([], [0], [2])  # GDAL marks the fourth of four bands so
    if guessed:
        alpha = 3
    palette = _palette(page) if photometric in (1, 3) and count == 1 else None  # GDAL may write 1 beside a colour map
    whole_numbers = int(page.sampleformat) == 1
    return SampleMeaning(
        palette=palette,
        black=2**bits - 1 if photometric == 0 and whole_numbers else None,
        bit=bits == 1 and count == 1 and palette is None,
        alpha=alpha,
        clear=clear,
        white=2**bits - 1 if 2 <= bits <= 7 and whole_numbers and palette is None else None,
        multiplied=multiplied,
        guessed=guessed,
    )


def _palette(page: Any) -> NDArray[np.uint8] | None:  # -> P 3
    """A colour for every index, black where the file has none for it; TIFF 6.0 stores them in 16 bits.

    A map of 8-bit values in that place is taken for what it is, as by libtiff and GDAL.
    """
    bits = int(page.bitspersample)
    if page.colormap is None or bits > 16 or page.dtype.kind not in "bu":
        return None
    unused = 0 if _has_small_colours(page) else 8
    colours = (np.reshape(page.colormap, (3, -1)).T[: 2**bits] >> unused).astype(np.uint8)
    return np.pad(colours, ((0, 2**bits - len(colours)), (0, 0)))


def _has_small_colours(page: Any) -> bool:
    return page.colormap is not None and bool(np.max(page.colormap) < 256)


def _orientation(page: Any) -> int:
    return int(page.tags.valueof(274, default=1))


def _mask(path: Path, file: tifffile.TiffFile, page: Any) -> NDArray[np.bool_] | None:  # H W
    """Where a page holds data by the mask that GDAL writes after it, or into a file of its own beside it."""
    size = page.imagelength, page.imagewidth
    inside = _mask_page(file, page)
    if inside is not None:
        return np.reshape(inside.asarray(), size) != 0
    beside = path.with_name(f"{path.name}.msk")
    if page.index > 0 or not is_file(beside):
        return None
    with tifffile.TiffFile(beside) as masks:
        values = masks.pages.first.asarray()
    return values != 0 if values.shape == size else None


def _mask_page(file: tifffile.TiffFile, page: Any) -> Any:
    pages: Any = file.pages
    for other in islice(pages, page.index + 1, None):
        kind = int(getattr(other, "subfiletype", 0))
        if not kind & NOT_A_PAGE:
            break
        if kind & MASK and (other.imagelength, other.imagewidth) == (page.imagelength, page.imagewidth):
            return other
    return None


def _is_picture(path: Path, file: tifffile.TiffFile, page: Any, images: list[TiffImage]) -> bool:
    """Whether Pillow reads it as it is: 8 bits or fewer, up to 4 samples of one page."""
    if is_below(page):
        return False
    if (_is_plain(page) or _is_photograph(page)) and (
        not {_NODATA, _METADATA}.isdisjoint(page.tags.keys())
        or placed_by_tags(page)
        or placed_beside(path)
        or _mask_page(file, page) is not None
    ):
        return False  # Pillow does not give the samples that nodata is one of, and opens no file with a mask
    plain = int(page.bitspersample) <= 8 and int(page.samplesperpixel) <= 4 and int(page.sampleformat) == 1
    named = [int(kind) for kind in page.extrasamples]
    if _is_plain(page) and 1 in [int(kind) for kind in page.extrasamples]:
        return False  # Pillow divides by alpha, also where that is taken as a band
    if page.colormap is not None and (int(page.photometric) == 1 or _has_small_colours(page)):
        return False
    colours = {0: 1, 1: 1, 2: 3}.get(int(page.photometric), 4)
    bands = int(page.samplesperpixel) > colours and not (set(named) & {1, 2})
    planar = int(page.planarconfig) == 2
    known = int(page.photometric) in _PILLOWS and all(len(image.pages) == 1 and not image.stacked for image in images)
    return plain and known and not (page.is_geotiff or bands or planar)


def _is_plain(page: Any) -> bool:
    """Whether a `SampleMeaning` says all of its colours: values or a palette, of whole bytes or, alone, one bit."""
    bits, alone = int(page.bitspersample), int(page.samplesperpixel) == 1
    colours = {0: alone, 1: True, 2: bits > 1, 3: alone}.get(int(page.photometric), False)
    return colours and (bits >= 8 or (bits == 1 and alone)) and page.dtype is not None and page.dtype.kind in "buif"


def _is_photograph(page: Any) -> bool:
    """Whether every decoder gives RGB for it."""
    return int(page.photometric) == 6 and int(page.compression) == 7
