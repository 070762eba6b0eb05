"""Maps as float32 TIFFs: cloud-optimised GeoTIFFs by rasterio where the source has a georeference, else by tifffile.

Must not know a network. A map is read and written some rows at a time, so that it need not be in memory.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from segment.pictures.palettes import no_class_colour
from segment.uncertainty.class_indices import mask_type, no_class

TILE, SIDE = 512, 256
"""Rows and columns of a tile: of a GeoTIFF, of a plain TIFF."""
_NODATA = 42113
"""GDAL's tag for the value of a pixel without data."""


@dataclass(frozen=True)
class _Bands:
    """The bands of one file.

    planes: H W each; names: theirs; kind: of the file's numbers; nodata: the value of a pixel without data
    colours: K 3, of class indices; None: no indices
    """

    planes: Sequence[Plane]
    names: Sequence[str]
    kind: np.dtype[Any]
    nodata: float
    colours: NDArray[np.uint8] | None = None


def write_tifs(path: Callable[[str], Path], image: ExportedImage) -> None:
    """prediction.tif (class indices), a .tif for each measure, probability.tif (a band a class).

    The indices have the classes' colours; the masks of a multi-label head hold 0, 1 and 255, and have none. A CRS that
    GeoTIFF has no keys for (a rotated pole, say) is in GDAL's file beside each, NAME.tif.aux.xml.
    """
    if image.prediction is not None:
        kind = mask_type(len(image.classes))
        if len(image.prediction.shape) == 3:
            masks = _Bands(list(_planes(image.prediction)), image.classes, kind, float(UNCLAIMED))
            _write(path, "prediction", image, masks)
        else:
            none = float(no_class(len(image.classes)))
            _write(path, "prediction", image, _Bands([image.prediction], ["prediction"], kind, none, image.palette))
    for name, values in image.maps.items():
        _write(path, name, image, _Bands([values], [name], np.dtype(np.float32), np.nan))
    if image.probability is not None:
        planes = list(_planes(image.probability))
        _write(path, "probability", image, _Bands(planes, image.classes, np.dtype(np.float32), np.nan))


def _planes(array: Plane) -> Iterator[Plane]:
    return (array[index] for index in range(array.shape[0]))


def _write(path: Callable[[str], Path], name: str, image: ExportedImage, bands: _Bands) -> None:
    nodata = bands.nodata if image.absent or image.geometry.nodata is not None else None
    if not image.geometry.placed:
        _write_plain(path(f"{name}.tif"), bands, nodata)
    else:
        _write_geotiff(path(f"{name}.tif"), image, bands, nodata, lambda: path(f"{name}.tif.aux.xml"))


def _write_geotiff(
    path: Path, image: ExportedImage, bands: _Bands, nodata: float | None, beside: Callable[[], Path]
) -> None:
    """By way of a tiled GeoTIFF beside it, because GDAL writes a cloud-optimised one only as a copy.

    beside: the path of the file for what a GeoTIFF cannot hold, asked for where GDAL writes one
    """
    rasterio = imported("rasterio", extra="geo", what="GeoTIFFs")
    imported("rasterio.shutil", extra="geo", what="GeoTIFFs")
    windows = imported("rasterio.windows", extra="geo", what="GeoTIFFs")
    height, width = image.shape
    profile: dict[str, Any] = {"driver": "GTiff", "height": height, "width": width, "count": len(bands.planes)}
    profile |= {"dtype": bands.kind.name, "tiled": True, "blockxsize": TILE, "blockysize": TILE, "BIGTIFF": "IF_SAFER"}
    if image.geometry.crs is not None:
        profile["crs"] = rasterio.crs.CRS.from_wkt(image.geometry.crs)
    if image.geometry.transform is not None:
        profile["transform"] = rasterio.Affine(*image.geometry.transform)
    if image.geometry.gcps:
        point = imported("rasterio.control", extra="geo", what="GeoTIFFs").GroundControlPoint
        profile["gcps"] = [point(*values, id=str(number)) for number, values in enumerate(image.geometry.gcps, 1)]
    if nodata is not None:
        profile["nodata"] = nodata
    real = np.issubdtype(bands.kind, np.floating)
    with (
        fresh_path(path) as place,
        _removed_after(place.with_suffix(".tiled.tif")) as tiled,
        _removed_after(_aux(tiled)),
        _removed_after(_aux(place)) as aux,
        quiet_gdal(),
        _refusing(path),
    ):
        with rasterio.open(tiled, "w", **profile) as raster:
            raster.descriptions = bands.names
            for number, plane in enumerate(bands.planes, start=1):
                for start in range(0, height, TILE):
                    block = np.asarray(plane[start : min(height, start + TILE)]).astype(bands.kind)
                    raster.write(block, number, window=windows.Window(0, start, width, len(block)))
            if bands.colours is not None and len(bands.colours) <= 256:
                colours = {index: (*map(int, colour), 255) for index, colour in enumerate(bands.colours)}
                raster.write_colormap(1, colours)
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
        if aux.exists():
            with fresh_path(beside()) as place_beside:
                shutil.copyfile(aux, place_beside)


def _aux(path: Path) -> Path:
    return path.with_name(f"{path.name}.aux.xml")


@contextmanager
def _removed_after(path: Path) -> Iterator[Path]:
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


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


def _write_plain(path: Path, bands: _Bands, nodata: float | None) -> None:
    """In tiles, each band a plane; the bands' names stand in the description. Colours are left out above 8 bits."""
    kind, count = bands.kind, len(bands.planes)
    height, width = bands.planes[0].shape[-2:]

    def tiles() -> Iterator[NDArray[Any]]:
        for plane in bands.planes:
            for top in range(0, height, SIDE):
                rows = np.asarray(plane[top : min(height, top + SIDE)]).astype(kind)
                padded = np.pad(rows, ((0, SIDE - len(rows)), (0, -width % SIDE)), mode="edge")
                for left in range(0, width, SIDE):
                    yield np.ascontiguousarray(padded[:, left : left + SIDE])

    palette = None if bands.colours is None or kind != np.uint8 else _colour_map(bands.colours)
    tags = [] if nodata is None else [(_NODATA, "s", 0, str(nodata), True)]
    with fresh_path(path) as place:
        tifffile.imwrite(
            place,
            tiles(),
            shape=(count, height, width) if count > 1 else (height, width),
            dtype=kind,
            tile=(SIDE, SIDE),
            photometric="minisblack" if palette is None else "palette",
            colormap=palette,
            planarconfig="separate" if count > 1 else None,
            compression="zlib",
            description=json.dumps({"bands": list(bands.names)}),
            metadata=None,
            extratags=tags,
            bigtiff=count * height * width * kind.itemsize > 2**31,
        )


def _colour_map(colours: NDArray[np.uint8]) -> NDArray[np.uint16]:  # K 3 -> 3 256
    """The colour map as a TIFF keeps it: 16 bits a channel. Indices of no class have the grey of pictures."""
    table = np.full((256, 3), no_class_colour(colours), np.uint16)
    table[: len(colours)] = colours
    return np.ascontiguousarray(table.T * np.uint16(257))
