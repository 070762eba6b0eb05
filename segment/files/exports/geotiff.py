"""Maps as float32 TIFFs: cloud-optimised GeoTIFFs by rasterio where the source has a georeference, else by tifffile.

Must not know a network. A map is read and written some rows at a time, so that it need not be in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from segment.axes import Plane
from segment.errors import imported, one_line
from segment.files.exports.image import UNCLAIMED, ExportedImage
from segment.files.writing import fresh_path, unwritable
from segment.images.formats.georeference import quiet_gdal
from segment.uncertainty.class_indices import mask_type, no_class

TILE, SIDE = 512, 256
"""Rows and columns of a tile: of a GeoTIFF, of a plain TIFF."""
_NODATA = 42113
"""GDAL's tag for the value of a pixel without data."""


def write_tifs(path: Callable[[str], Path], image: ExportedImage) -> None:
    """prediction.tif (class indices), a .tif for each measure, probability.tif (a band a class)."""
    if image.prediction is not None:
        kind = mask_type(len(image.classes))
        if len(image.prediction.shape) == 3:
            _write(
                path("prediction.tif"),
                image,
                list(_planes(image.prediction)),
                list(image.classes),
                kind,
                float(UNCLAIMED),
            )
        else:
            none = float(no_class(len(image.classes)))
            _write(path("prediction.tif"), image, [image.prediction], ["prediction"], kind, none)
    for name, values in image.maps.items():
        _write(path(f"{name}.tif"), image, [values], [name], np.dtype(np.float32), np.nan)
    if image.probability is not None:
        planes = list(_planes(image.probability))
        _write(path("probability.tif"), image, planes, list(image.classes), np.dtype(np.float32), np.nan)


def _planes(array: Plane) -> Iterator[Plane]:
    return (array[index] for index in range(array.shape[0]))


def _write(
    path: Path,
    image: ExportedImage,
    bands: list[Plane],
    names: list[str],
    kind: np.dtype[Any],
    nodata: float | None,
) -> None:
    nodata = nodata if image.absent or image.geometry.nodata is not None else None
    if not image.geometry.placed:
        _write_plain(path, bands, names, kind, nodata)
    else:
        _write_geotiff(path, image, bands, names, kind, nodata)


def _write_geotiff(
    path: Path,
    image: ExportedImage,
    bands: list[Plane],
    names: list[str],
    kind: np.dtype[Any],
    nodata: float | None,
) -> None:
    """By way of a tiled GeoTIFF beside it, because GDAL writes a cloud-optimised one only as a copy."""
    rasterio = imported("rasterio", extra="geo", what="GeoTIFFs")
    imported("rasterio.shutil", extra="geo", what="GeoTIFFs")
    windows = imported("rasterio.windows", extra="geo", what="GeoTIFFs")
    height, width = image.shape
    profile: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width, "count": len(bands)}
    profile |= {"dtype": kind.name, "tiled": True, "blockxsize": TILE, "blockysize": TILE, "BIGTIFF": "IF_SAFER"}
    if image.geometry.crs is not None:
        profile["crs"] = rasterio.crs.CRS.from_wkt(image.geometry.crs)
    if image.geometry.transform is not None:
        profile["transform"] = rasterio.Affine(*image.geometry.transform)
    if image.geometry.gcps:
        point = imported("rasterio.control", extra="geo", what="GeoTIFFs").GroundControlPoint
        profile["gcps"] = [point(*values, id=str(number)) for number, values in enumerate(image.geometry.gcps, 1)]
    if nodata is not None:
        profile["nodata"] = nodata
    real = np.issubdtype(kind, np.floating)
    with (
        fresh_path(path) as place,
        fresh_path(path.with_suffix(".tiled.tif")) as tiled,
        quiet_gdal(),
        _refusing(path),
    ):
        with rasterio.open(tiled, "w", **profile) as raster:
            raster.descriptions = names
            for number, band in enumerate(bands, start=1):
                for start in range(0, height, TILE):
                    block = np.asarray(band[start : min(height, start + TILE)]).astype(kind)
                    raster.write(block, number, window=windows.Window(0, start, width, len(block)))
            if not real and len(bands) == 1 and len(image.palette) <= 256:
                raster.write_colormap(
                    1, {index: (*map(int, colour), 255) for index, colour in enumerate(image.palette)}
                )
        rasterio.shutil.copy(
            tiled,
            place,
            driver="COG",
            compress="DEFLATE",
            predictor="YES" if real else "NO",
            blocksize=TILE,
            overview_resampling="average" if real else "nearest",
            bigtiff="IF_SAFER",
        )
        tiled.unlink()


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What rasterio and GDAL raise where the disk is full, as the refusal of the file. Errors: WrongUse."""
    rasterio = imported("rasterio", extra="geo", what="GeoTIFFs")
    gdal = imported("rasterio._err", extra="geo", what="GeoTIFFs")  # the only place of the errors of GDAL itself
    try:
        yield
    except (rasterio.errors.RasterioError, gdal.CPLE_BaseError) as error:
        why = one_line(error.__cause__ or error, 200).rstrip(".")  # rasterio's own says to see the cause
        raise unwritable(path, OSError(why)) from error


def _write_plain(path: Path, bands: list[Plane], names: list[str], kind: np.dtype[Any], nodata: float | None) -> None:
    """In tiles, each band a plane; the names of the bands stand in the description."""
    height, width = bands[0].shape[-2:]

    def tiles() -> Iterator[NDArray[Any]]:
        for band in bands:
            for top in range(0, height, SIDE):
                rows = np.asarray(band[top : min(height, top + SIDE)]).astype(kind)
                padded = np.pad(rows, ((0, SIDE - len(rows)), (0, -width % SIDE)), mode="edge")
                for left in range(0, width, SIDE):
                    yield np.ascontiguousarray(padded[:, left : left + SIDE])

    tags = [] if nodata is None else [(_NODATA, "s", 0, str(nodata), True)]
    with fresh_path(path) as place:
        tifffile.imwrite(
            place,
            tiles(),
            shape=(len(bands), height, width) if len(bands) > 1 else (height, width),
            dtype=kind,
            tile=(SIDE, SIDE),
            photometric="minisblack",
            planarconfig="separate" if len(bands) > 1 else None,
            compression="zlib",
            description=json.dumps({"bands": names}),
            metadata=None,
            extratags=tags,
            bigtiff=len(bands) * height * width * kind.itemsize > 2**31,
        )
