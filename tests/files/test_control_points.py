"""A source with ground control points gives outputs with the same; GeoJSON stays in pixels."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
import zarr
from test_exports import UTM, exported, into

from segment.files.exports import geojson
from segment.files.exports.geotiff import write_tifs
from segment.files.exports.zarr_group import write_group
from segment.images.placing.geometry import Geometry

POINTS = ((0.0, 0.0, 5e5, 4e6, 7.0), (0.0, 43.0, 5.1e5, 4e6, 0.0), (48.0, 0.0, 5e5, 3.9e6, 0.0))


def test_ground_control_points_come_to_the_outputs(tmp_path: Path) -> None:
    image = exported(Geometry(crs=UTM.to_wkt(), gcps=POINTS))
    write_tifs(into(tmp_path), image)
    for name in (*image.maps, "prediction", "probability"):
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            points, crs = file.gcps
            assert crs == UTM
            assert tuple((point.row, point.col, point.x, point.y, point.z) for point in points) == POINTS
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(tmp_path / "variance.tif") as file:
        np.testing.assert_array_equal(file.read(1), image.maps["variance"])
    geojson.write_polygons(tmp_path / "a.geojson", image)
    collection = json.loads((tmp_path / "a.geojson").read_text())
    assert "crs" not in collection
    x, y = np.concatenate([ring for each in collection["features"] for ring in each["geometry"]["coordinates"]]).T
    assert (x.max(), y.max()) == image.shape[::-1]
    write_group(into(tmp_path), image)
    group = zarr.open_group(next(tmp_path.glob("*.zarr")), mode="r")
    assert group.attrs["gcps"] == [list(point) for point in POINTS]
