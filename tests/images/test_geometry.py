"""Where an image lies is what its file says, as other libraries wrote it."""

from __future__ import annotations

from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from segment.images.find import Source
from segment.images.formats.video import frame_count, read_frame
from segment.images.formats.volumes import read_slice
from segment.images.placing.geometry import Geometry, slice_of, stacked
from segment.images.placing.of_source import geometry_of


def test_a_geotiff_says_its_crs_transform_nodata_and_bands(tmp_path: Path) -> None:
    path, place = tmp_path / "a.tif", from_origin(500000, 5400000, 10, 10)
    profile = {"driver": "GTiff", "width": 5, "height": 4, "count": 2, "dtype": "uint16", "nodata": 7}
    with rasterio.open(path, "w", crs="EPSG:32632", transform=place, **profile) as raster:
        raster.write(np.arange(40, dtype=np.uint16).reshape(2, 4, 5))
        raster.descriptions = ("B4", "B8")
    geometry = geometry_of(Source("a", path))
    assert geometry.crs is not None
    assert rasterio.CRS.from_wkt(geometry.crs) == rasterio.CRS.from_epsg(32632)
    assert geometry.transform == (10, 0, 500000, 0, -10, 5400000)
    assert (geometry.nodata, geometry.bands) == (7, ("B4", "B8"))


def test_a_plain_picture_has_no_geometry(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
        assert geometry_of(Source("a", tmp_path / name)) == Geometry()


@pytest.mark.parametrize(("unit", "millimetres"), [("mm", 1), ("micron", 1e-3), ("meter", 1e3), ("unknown", 1)])
def test_an_affine_is_in_millimetres_whatever_the_unit_of_the_file(
    tmp_path: Path, unit: str, millimetres: float
) -> None:
    affine = np.array([[-1, 0, 0, 9], [0, 2, 0, -8], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    volume = nibabel.Nifti1Image(np.zeros((3, 4, 2), np.uint8), affine)
    volume.header.set_xyzt_units(unit)
    nibabel.save(volume, tmp_path / "a.nii")
    found = np.array(geometry_of(Source("a", tmp_path / "a.nii", part=0, axis=2)).affine)
    np.testing.assert_allclose(found[:3], millimetres * affine[:3])
    np.testing.assert_array_equal(found[3], affine[3])


def test_a_nifti_slice_knows_its_volume_and_affine(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    affine = np.array([[-1, 0, 0, 9], [0, 2, 0, -8], [0, 0, 3, 7], [0, 0, 0, 1.0]])
    for name in ("v.nii", "v.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / name)
        geometry = geometry_of(Source("v/0003", tmp_path / name, part=3, axis=1))
        assert np.array_equal(np.array(geometry.affine), affine)
        assert (geometry.axis, geometry.index, geometry.count) == (1, 3, 6)
        slices = [read_slice(tmp_path / name, k, 1)[..., 0] for k in range(6)]
        assert slices[0].shape == (7, 5)
        np.testing.assert_array_equal(slices[2], voxels[:, 2, :].T)
        np.testing.assert_array_equal(stacked(slices, 1), voxels)
        assert slices[0].dtype == np.int16


def test_slices_along_any_axis_stack_back() -> None:
    voxels = np.random.default_rng(1).random((3, 4, 5))
    for axis in range(3):
        slices = [slice_of(voxels, axis, k) for k in range(voxels.shape[axis])]
        np.testing.assert_array_equal(stacked(slices, axis), voxels)


def test_a_video_says_its_rate_and_gives_any_frame_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (48, 32))
    for number in range(9):
        writer.write(np.full((32, 48, 3), (0, 0, 25 * number), np.uint8))
    writer.release()
    geometry = geometry_of(Source("a/000004", path, part=4))
    assert (geometry.frame_rate, geometry.index, geometry.count) == (12.5, 4, 9)
    assert frame_count(path) == 9
    for number in (4, 2, 8, 8, 0):
        frame = read_frame(path, number)
        assert abs(float(frame[..., 0].mean()) - 25 * number) < 4
        assert frame[..., 2].mean() < 4
