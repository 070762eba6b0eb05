"""CRS, transform, nodata and band names of a raster, by rasterio (the extra `geo`).

Must not know what the pixels are used for.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, SegmentError, imported, one_line
from segment.images.formats.beside import placed_beside
from segment.images.formats.jpeg2000 import check_boxes
from segment.images.formats.pictures import orientation_and_size
from segment.images.formats.raster import SampleMeaning
from segment.images.isolation import contained
from segment.images.placing.geometry import Geometry, upright_geometry
from segment.stores.ranges import failure, opened_by_ranges
from segment.stores.urls import is_url, url_of

log = logging.getLogger(__name__)

GDAL_CACHE = 96 * 2**20
"""Bytes of decoded blocks that GDAL keeps, in place of a twentieth of the machine's memory: a row of blocks of 512 of a
raster of 20,000 columns and 4 bands of 16 bits."""

BROKEN = (ValueError, OverflowError, SystemError)
"""What damaged names and numbers make rasterio raise, beside its own errors: letters that are not UTF-8, say."""
BLOCK = 2**30
"""Bytes of the largest piece of a raster that is decoded at once, a value counted as `_ITEM` bytes."""
_ITEM = 4

_NODATA, _MODEL, _SCALE, _TIES = 42113, 34264, 33550, 33922
"""GDAL's tag; GeoTIFF: model transformation, pixel scale, tie points."""
_COLOURS = ("red", "green", "blue")


@contextmanager
def quiet_gdal() -> Iterator[Any]:
    """rasterio, with GDAL's messages and its cache kept small within the block. Errors: MissingExtra without it."""
    rasterio = imported("rasterio", extra="geo", what="Rasters with a georeference")
    unneeded = rasterio.errors.NotGeoreferencedWarning
    if not any(entry[0] == "ignore" and entry[2] is unneeded for entry in warnings.filters):
        warnings.simplefilter("ignore", unneeded)  # for good: to set filters back is not safe where threads read
    with rasterio.Env(CPL_LOG="/dev/null", GDAL_CACHEMAX=GDAL_CACHE):
        yield rasterio


def open_raster(path: Path, page: int = 0) -> Any:
    """A rasterio data set; of a TIFF, one of its pages.

    Errors: MissingExtra without rasterio; ImageUnreadable where GDAL does not open it, or a block of it is too large.
    """
    if not is_url(path):
        with suppress(OSError):  # which GDAL reports
            check_boxes(path)
    with quiet_gdal() as rasterio:
        try:
            if is_url(path):
                raster = rasterio.open(url_of(path), opener=opened_by_ranges)
            else:
                raster = rasterio.open(f"GTIFF_DIR:{page + 1}:{path}" if page else path)
        except (rasterio.errors.RasterioError, *BROKEN) as error:
            raise unreadable_raster(path, "does not open", error) from None
    together = raster.count if raster.profile.get("interleave") == "pixel" else 1
    rows, columns = max(raster.block_shapes, key=math.prod, default=(0, 0))
    if rows * columns * together * _ITEM > BLOCK:
        raster.close()
        raise ImageUnreadable(
            f"{str(path)!r} says that it stores {rows}x{columns} pixels in one piece, which is decoded whole. It is "
            "damaged, or has to be written anew in tiles: gdal_translate -co TILED=YES."
        )
    return raster


@contextmanager
def opened(path: Path, page: int = 0) -> Iterator[Any]:
    """A rasterio data set, open within a block. Errors: as `open_raster`; ImageUnreadable if the block meets damage."""
    with quiet_gdal() as rasterio, open_raster(path, page) as raster:
        try:
            yield raster
        except (rasterio.errors.RasterioError, *BROKEN) as error:
            raise unreadable_raster(path, "does not decode", error) from None


def unreadable_raster(path: Path, how: str, error: Exception) -> Exception:
    """What is wrong with a raster; with its store, where that has failed."""
    failed = failure() if is_url(path) else None
    if isinstance(failed, SegmentError):
        return failed
    return ImageUnreadable(f"{url_of(path)!r} {how} as a raster: {one_line(failed or error, 200)}.")


def raster_geometry(path: Path, page: int = 0) -> Geometry:
    """Where a raster lies by rasterio, which reads the files beside it too. Errors: MissingExtra, ImageUnreadable."""
    with opened(path, page) as raster:
        placed = raster.crs is not None or not raster.transform.is_identity
        points, crs = ([], raster.crs) if placed else raster.gcps
        a, b, c, d, e, f = (float(value) for value in raster.transform[:6])
        return Geometry(
            crs=crs.to_wkt() if crs is not None else None,
            transform=(a, b, c, d, e, f) if placed else None,
            gcps=tuple((point.row, point.col, point.x, point.y, point.z or 0.0) for point in points),
            nodata=_nodata(raster),
            bands=tuple(name or "" for name in raster.descriptions) if any(raster.descriptions) else (),
            rgb=_rgb(raster),
        )


def placed_by_tags(page: Any) -> bool:
    """Whether tags of a page of a TIFF say where it lies: a CRS, or a transform alone."""
    return bool(page.is_geotiff) or any(tag in page.tags for tag in (_MODEL, _SCALE, _TIES))


def tiff_geometry(path: Path, number: int = 0) -> Geometry:
    """Where a page of a TIFF, turned upright, lies by its own tags or a world file; by `.aux.xml`, the first only.

    Without rasterio its nodata, and a warning where a georeference is lost.
    """
    if is_url(path):
        return raster_geometry(path)
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[number]
            tags = page.tags
            placed = placed_by_tags(page) or placed_beside(path)
            if not placed and placed_by_tags(file.pages.first):
                _warn_of_pages_without_place(path)
            if not placed and _NODATA not in tags and 42112 not in tags:
                return Geometry()
            nodata = str(tags.valueof(_NODATA, default="")).strip("\x00 ")
            orientation = int(tags.valueof(274, default=1))
            size = (int(page.imagelength), int(page.imagewidth))[:: -1 if orientation > 4 else 1]
    except Exception as error:  # a damaged file is reported where its pixels are read
        log.info("%s: no geometry: %s", path, one_line(error, 200))
        return Geometry()
    if find_spec("rasterio") is not None:
        return upright_geometry(raster_geometry(path, number), orientation, *size)
    if placed:
        _warn_of_lost_georeference()
    return Geometry(nodata=float(nodata) if nodata else None)


def picture_geometry(path: Path) -> Geometry:
    """The place of a PNG, JPEG or other picture upright, by the files beside it. Errors: as `raster_geometry`."""
    if not placed_beside(path):
        return Geometry()
    if find_spec("rasterio") is None:
        _warn_of_lost_georeference()
        return Geometry()
    orientation, size = orientation_and_size(path)
    return upright_geometry(replace(raster_geometry(path), nodata=None, bands=(), rgb=()), orientation, *size)


@lru_cache(maxsize=1)
def _warn_of_lost_georeference() -> None:
    log.warning("CRS and transform of rasters are not read without rasterio: pip install 'mcbn-segment[geo]'.")


@lru_cache(maxsize=64)
def _warn_of_pages_without_place(path: Path) -> None:
    log.warning("%s: the first page has a place on a map. A later one has none, nor have the files made of it.", path)


@dataclass(frozen=True)
class Described:
    """What a raster's header says: H and W, the number type, what its samples mean, whether a mask goes with it."""

    height: int
    width: int
    kind: str
    samples: SampleMeaning
    masked: bool


@contained
def described(path: Path) -> Described:
    """Errors: MissingExtra, ImageUnreadable."""
    geometry = raster_geometry(path)
    with opened(path) as raster:
        kinds = [interpretation.name for interpretation in raster.colorinterp]
        samples = SampleMeaning(
            palette=_palette(raster) if kinds == ["palette"] else None,
            alpha=kinds.index("alpha") if "alpha" in kinds else None,
            bands=geometry.bands,
            nodata=geometry.nodata,
            clear=True,
            rgb=geometry.rgb,
        )
        masked = [flag.name for flag in raster.mask_flag_enums[0]] == ["per_dataset"]  # "alpha" stands beside it
        return Described(int(raster.height), int(raster.width), np.dtype(raster.dtypes[0]).kind, samples, masked)


def _nodata(raster: Any) -> float | tuple[float, ...] | None:
    """The value without data, one a band where they differ, NaN of a band that has none, as alpha."""
    values = raster.nodatavals
    if len(set(values)) == 1:
        return None if values[0] is None else float(values[0])
    return tuple(math.nan if value is None else float(value) for value in values)


def _rgb(raster: Any) -> tuple[int, ...]:
    """The bands of red, green and blue by their names, else colour interpretation; (): not said, or in that order."""
    names = [(name or "").casefold() for name in raster.descriptions]
    for said in (names, [interpretation.name for interpretation in raster.colorinterp]):
        if all(said.count(colour) == 1 for colour in _COLOURS):
            places = [said.index(colour) for colour in _COLOURS]
            return () if places == sorted(places) else tuple(places)
    return ()


def _palette(raster: Any) -> NDArray[np.uint8] | None:  # -> P 3
    """A colour for every index, black for those that have none; None where an index is not of 8 or 16 bits."""
    bits = {"uint8": 8, "uint16": 16}.get(raster.dtypes[0])
    if bits is None:
        return None
    palette = np.zeros((2**bits, 3), np.uint8)
    for index, colour in raster.colormap(1).items():
        if index < len(palette):
            palette[index] = colour[:3]
    return palette


@contained
def raster_files(path: Path) -> tuple[str, ...]:
    """The files that GDAL reads for a raster, itself among them: what lies beside it, and the sources of a `.vrt`.

    Of a source that is a `.vrt` its own are not among them. Errors: MissingExtra, ImageUnreadable.
    """
    with opened(path) as raster:
        return tuple(raster.files)


def raster_size(path: Path) -> tuple[int, int] | None:
    try:
        with opened(path) as raster:
            return int(raster.height), int(raster.width)
    except ImageUnreadable:
        return None
