"""Where an image lies: on a map, in a volume or in a video; what its file says beside the pixels.

Must not know how a file is read, nor what is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Transform = tuple[float, float, float, float, float, float]

Affine = tuple[tuple[float, ...], ...]
"""Four rows of four."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where an image lies, by its file; None or 0 where that does not say.

    `segment.images.placing.of_source.geometry_of(source)` reads it.

    crs: coordinate reference system of a raster, as WKT
    transform: (a, b, c, d, e, f), as rasterio's Affine: the corner of pixel (row, column) lies at
        x = a column + b row + c, y = d column + e row + f, in units of `crs`
    gcps: ground control points (row, column, x, y, z), in units of `crs`, of a raster without a transform
    nodata: raw value of a pixel that holds no data; one a band where they differ, NaN of a band without
    bands: names of the bands, in the file's order
    rgb: the bands of red, green and blue, from 0, where the file says that they are in another order
    volume: what all slices of one volume share, a path or a DICOM series' UID; "" for a plain image or a video
    affine: of a volume: voxel (i, j, k) -> (x, y, z) in mm, right-anterior-superior as nibabel has it
    affine_said: False where the file does not say the affine, which is then nibabel's guess or the identity
    axis: the voxel axis (0, 1, 2) that the slices lie along
    video: the video's path; "" for no video
    frame_rate: frames a second of a video; `index` counts all of its frames, also with `--every N`
    index, count: the number of this slice, frame or page, from 0, and how many the file has
    """

    crs: str | None = None
    transform: Transform | None = None
    gcps: tuple[tuple[float, ...], ...] = ()
    nodata: float | tuple[float, ...] | None = None
    bands: tuple[str, ...] = ()
    rgb: tuple[int, ...] = ()
    volume: str = ""
    affine: Affine | None = None
    affine_said: bool = True
    axis: int = 0
    video: str = ""
    frame_rate: float = 0.0
    index: int = 0
    count: int = 1

    @property
    def placed(self) -> bool:
        """Whether it is known where on a map it lies."""
        return self.crs is not None or self.transform is not None or bool(self.gcps)


def upright_geometry(geometry: Geometry, orientation: int, height: int, width: int) -> Geometry:
    """The geometry of an image once its EXIF orientation is undone. height, width: of the image upright.

    >>> turned = upright_geometry(Geometry(transform=(1, 0, 500, 0, -1, 900)), 6, height=40, width=30)
    >>> turned.transform  # rows were columns from the left, columns rows from below
    (0.0, 1.0, 500.0, 1.0, 0.0, 870.0)
    """
    if orientation == 1:
        return geometry
    stored = np.eye(3)  # upright (column, row, 1) -> stored
    if orientation in {2, 3, 6, 7}:
        stored = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) @ stored
    if orientation in {3, 4, 7, 8}:
        stored = np.array([[1.0, 0, 0], [0, -1, height], [0, 0, 1]]) @ stored
    if orientation in {5, 6, 7, 8}:
        stored = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]) @ stored
    transform = geometry.transform
    if transform is not None:
        a, b, c, d, e, f = (np.array([*transform, 0, 0, 1.0]).reshape(3, 3) @ stored)[:2].ravel().tolist()
        transform = (a, b, c, d, e, f)
    upright = np.linalg.inv(stored)
    points = [(*(upright @ [column, row, 1])[1::-1].tolist(), *place) for row, column, *place in geometry.gcps]
    return replace(geometry, transform=transform, gcps=tuple(points))


def stacked(slices: Sequence[NDArray[Any]], axis: int) -> NDArray[Any]:  # each H W -> i j k
    """Slices of a volume, in order, back in the order of its voxels: the inverse of `slice_of`.

    >>> stacked([slice_of(np.ones((4, 5, 2)), 2, k) for k in range(2)], 2).shape
    (4, 5, 2)
    """
    return np.stack([part.T for part in slices], axis=axis)


def slice_of(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:  # i j k -> H W
    """One slice of a volume: of the two axes that are left, the second runs down and the first to the right.

    Along the last axis, rows are y and columns are x, as in DICOM and SimpleITK.

    >>> slice_of(np.arange(24).reshape(2, 3, 4), 2, 0).tolist()
    [[0, 12], [4, 16], [8, 20]]
    """
    return np.take(volume, index, axis=axis).swapaxes(0, 1)
