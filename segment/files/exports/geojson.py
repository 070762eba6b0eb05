"""Segments as GeoJSON polygons along the pixels' edges, in the source's CRS; in pixels where it has none.

Must not know how a segment was found. Source: RFC 7946; the member "crs" is that of GeoJSON 2008, which GDAL reads,
because RFC 7946 knows WGS 84 only.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import imported
from segment.files.exports.image import ExportedImage, Segment
from segment.files.writing import fresh
from segment.images.formats.georeference import quiet_gdal
from segment.images.placing.geometry import Geometry

FILE = "segments.geojson"


def write_polygons(path: Path, image: ExportedImage) -> None:
    """A feature a segment, with holes. Coordinates without a transform are x = column, y = row, downwards."""
    features = imported("rasterio.features", extra="geo", what="GeoJSON files")
    geometry = image.geometry
    with quiet_gdal() as rasterio, fresh(path) as stream:  # it warns of polygons in pixels
        transform = rasterio.Affine(*geometry.transform) if geometry.transform else rasterio.Affine.identity()
        head: dict[str, Any] = {"type": "FeatureCollection", "name": image.id}
        if geometry.crs is not None and not geometry.gcps:  # coordinates are pixels then
            head["crs"] = {"type": "name", "properties": {"name": _name_of(rasterio.crs.CRS, geometry)}}
        stream.write((json.dumps(head, ensure_ascii=False)[:-1] + ', "features": [').encode())
        separator = "\n"
        for regions, segments in zip(image.regions, image.segments, strict=True):
            numbers = np.asarray(regions.numbers[0 : image.shape[0]])
            polygons: dict[int, list[Any]] = defaultdict(list)
            for shape, value in features.shapes(numbers, mask=numbers >= 0, connectivity=4, transform=transform):
                polygons[int(value)].append(shape["coordinates"])
            for index, segment in enumerate(segments):
                feature = {"type": "Feature", "id": segment.number, "properties": _properties(segment)}
                feature["geometry"] = {"type": "Polygon", "coordinates": polygons[index][0]}
                stream.write((separator + json.dumps(feature, ensure_ascii=False)).encode())
                separator = ",\n"
        stream.write(b"\n]}\n")


def _properties(segment: Segment) -> dict[str, Any]:
    numbers: dict[str, float] = {"expected_accuracy": segment.accuracy}
    for name, (mean, most, p95) in segment.measures.items():
        numbers |= {f"mean_{name}": mean, f"max_{name}": most, f"p95_{name}": p95}
    known = {name: None if math.isnan(value) else value for name, value in numbers.items()}
    return {"class": segment.name, "class_id": segment.label, "area_pixels": segment.area} | known


def _name_of(crs: Any, geometry: Geometry) -> str:
    """The CRS as a URN of its authority where that is the same CRS, else as WKT."""
    own = crs.from_wkt(geometry.crs)
    authority = own.to_authority()  # also of one that differs, as in its datum shift
    if authority is None or crs.from_authority(*authority) != own:
        return str(geometry.crs)
    return f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"
