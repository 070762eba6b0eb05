"""Maps as one Zarr v3 group, in chunks; its attributes say what the image is and where it lies.

Must not know a network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segment.axes import Plane
from segment.errors import imported
from segment.files.exports.image import UNCLAIMED, ExportedImage
from segment.files.writing import fresh_folder
from segment.uncertainty.class_indices import mask_type, no_class

GROUP = "maps.zarr"
CHUNK = 512
"""Rows and columns of a chunk."""


def write_group(path: Callable[[str], Path], image: ExportedImage) -> None:
    """maps.zarr: an array for each map, float32, with `dimension_names` y, x (class before them for probability)."""
    zarr = imported("zarr", extra="zarr", what="Zarr groups")
    folder = path(f"{GROUP}/zarr.json").parent
    geometry = image.geometry
    attributes: dict[str, Any] = {"id": image.id, "source": image.source, "classes": list(image.classes)}
    if geometry.crs is not None:
        attributes["crs"] = geometry.crs
    if geometry.transform is not None:
        attributes["transform"] = list(geometry.transform)
    if geometry.gcps:
        attributes["gcps"] = [list(point) for point in geometry.gcps]
    with fresh_folder(folder) as place:
        group = zarr.create_group(store=str(place), zarr_format=3, attributes=attributes)
        for name, values in image.maps.items():
            _write(group, name, values, np.dtype(np.float32), float("nan"))
        if image.prediction is not None:
            classes = len(image.classes)
            none = UNCLAIMED if len(image.prediction.shape) == 3 else no_class(classes)
            _write(group, "prediction", image.prediction, mask_type(classes), none if image.absent else 0)
        if image.probability is not None:
            _write(group, "probability", image.probability, np.dtype(np.float32), float("nan"))


def _write(group: Any, name: str, values: Plane, kind: np.dtype[Any], fill: float) -> None:
    shape = tuple(values.shape)
    chunks = (*([1] * (len(shape) - 2)), *(min(CHUNK, side) for side in shape[-2:]))
    names = ("class", "y", "x")[-len(shape) :]
    array = group.create_array(name, shape=shape, chunks=chunks, dtype=kind, fill_value=fill, dimension_names=names)
    for index, plane in [(None, values)] if len(shape) == 2 else [(k, values[k]) for k in range(shape[0])]:
        for start in range(0, shape[-2], CHUNK):
            stop = min(shape[-2], start + CHUNK)
            place = slice(start, stop) if index is None else (index, slice(start, stop))
            array[place] = np.asarray(plane[start:stop]).astype(kind)
