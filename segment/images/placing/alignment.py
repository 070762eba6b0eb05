"""Whether an image and its label map or region mask lie in one place, by what both files say of it.

Their pixels are compared by row and column, so files of one size that lie elsewhere would be compared in silence.
Must not know what the pixels stand for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, imported
from segment.images.find import Source
from segment.images.placing.geometry import Geometry
from segment.images.placing.of_source import geometry_of
from segment.stores.urls import url_of

APART = 0.1
"""Pixels that corners of one place may lie apart: rounding of float32 affines moves them by less than 0.001."""

UNITS = (1.0, 1e-3, 1e3)
"""Volumes whose affines differ by such a factor alone lie in one place: a file need not name its unit."""

Size = tuple[int, int]
"""H, W."""

Points = NDArray[np.float64]
"""A point a column."""


def check_same_place(image: Source, other: Path, part: int | str | None, size: Size, what: str) -> None:
    """Errors: ImageUnreadable where both files say where they lie, and a corner lies elsewhere by more than APART.

    other, part: the file of `what` ("label map", "region mask"), and which image of it; size: of both. A region mask of
        one slice is that of any slice of a volume
    """
    place = geometry_of(Source("", other, part=part, axis=image.axis))
    if _matrix(place) is None:
        return
    apart = _apart(geometry_of(image), place, size, any_slice=what == "region mask")
    if apart is not None and not apart <= APART:
        by, tool = "georeferences", "gdalwarp -r near"
        if place.affine is not None:
            by, tool = "affines", "nibabel.processing.resample_from_to with order=0"
        raise ImageUnreadable(
            f"The {what} {url_of(other)!r} lies elsewhere than its image {url_of(image.path)!r}: by their {by}, "
            f"corners are up to {apart:.4g} pixels apart. Resample the {what} to the image's grid ({tool})."
        )


def _apart(image: Geometry, other: Geometry, size: Size, *, any_slice: bool = False) -> float | None:
    """How far corners of equal row and column lie apart, in pixels of the image; None where that is not known.

    >>> image, other = Geometry(transform=(10, 0, 500, 0, -10, 900)), Geometry(transform=(10, 0, 505, 0, -10, 900))
    >>> _apart(image, other, (4, 4))
    0.5
    """
    to_place, to_other = _matrix(image), _matrix(other)
    if to_place is None or to_other is None or len(to_place) != len(to_other):
        return None
    points, pixels, to_pixels = to_other @ _corners(other, size), _corners(image, size), np.linalg.inv(to_place)
    if image.affine is None:
        return float(np.abs(to_pixels @ _converted(points, other.crs, image.crs) - pixels).max())
    in_units = [to_pixels @ (np.array([[unit], [unit], [unit], [1.0]]) * points) for unit in UNITS]
    far = [np.abs(voxels - pixels) for voxels in in_units]
    if any_slice and other.count == 1 < image.count:  # which lies in the place of one of them
        far = [np.delete(each, image.axis, axis=0) for each in far]
    apart = [float(each.max()) for each in far]
    return min(apart) if min(apart) <= APART else apart[0]


def _matrix(geometry: Geometry) -> NDArray[np.float64] | None:
    """From pixels (column, row, 1) or voxels (i, j, k, 1) to the place; None where the file does not say it."""
    if geometry.affine is not None:
        matrix = np.array(geometry.affine)
        said = geometry.affine_said
    elif geometry.transform is not None:
        matrix = np.array([*geometry.transform, 0, 0, 1.0]).reshape(3, 3)
        said = not np.array_equal(matrix, np.eye(3))  # GDAL's, where only a CRS is known
    else:
        return None
    return matrix if said and np.isfinite(matrix).all() and np.linalg.det(matrix) != 0 else None


def _corners(geometry: Geometry, size: Size) -> Points:
    """The corners of an image as (column, row, 1), of a slice as the voxels (i, j, k, 1)."""
    height, width = size
    if geometry.affine is None:
        return np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float).T
    across, down = (axis for axis in range(3) if axis != geometry.axis)  # as `geometry.slice_of` lays them
    corners = np.ones((4, 4))
    corners[across] = [0, width - 1, 0, width - 1]
    corners[down] = [0, 0, height - 1, height - 1]
    corners[geometry.axis] = geometry.index
    return corners


def _converted(points: Points, crs: str | None, to: str | None) -> Points:
    """Points (x, y, 1) in another CRS; as they are where a file says none, or PROJ does not know the way."""
    if crs is None or to is None or crs == to:
        return points
    rasterio: Any = imported("rasterio", extra="geo", what="Rasters with a georeference")
    warp: Any = imported("rasterio.warp", extra="geo", what="Rasters with a georeference")
    ours, theirs = rasterio.CRS.from_wkt(crs), rasterio.CRS.from_wkt(to)
    if ours == theirs:
        return points
    try:
        x, y = warp.transform(ours, theirs, *points[:2].tolist())
    except rasterio.errors.RasterioError:  # a CRS of a site or a drawing
        return points
    return np.array([x, y, points[2]])
