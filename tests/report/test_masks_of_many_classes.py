"""A pixel without data is never taken for a class, also where the classes fill 8 bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.estimation.estimate import Estimate
from segment.files.exports.geotiff import write_tifs
from segment.files.exports.volumes import PlacedImage, write_volumes
from segment.images.find import Source
from segment.images.placing.geometry import Geometry, stacked
from segment.images.read import read_label
from segment.pictures.heatmaps import scale_of
from segment.pictures.palettes import palette
from segment.report.run_files.image_files import ImageResult, render
from segment.report.run_files.style import PictureStyle
from segment.uncertainty.class_indices import index_type, mask_type, no_class

SIZE = (20, 24)
PLACED = Geometry(crs=rasterio.crs.CRS.from_epsg(32633).to_wkt(), transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5.4e6))


class Below:
    """The files of an image, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, image_id: str, name: str) -> Path:
        return self.folder / image_id / name

    def relative(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def result(classes: int, valid: NDArray[np.bool_] | None) -> tuple[NDArray[np.int64], ImageResult]:
    """A mask with every class in it, and what is written of it."""
    labels = (np.arange(SIZE[0] * SIZE[1]) % classes).reshape(SIZE)
    maps = {"variance": np.zeros(SIZE, np.float32)}
    style = PictureStyle(
        "variance",
        {"variance": scale_of("variance", classes, "softmax")},
        palette(classes),
        tuple(f"class {k}" for k in range(classes)),
        "softmax",
        {"variance": "default"},
    )
    estimate = Estimate(labels.astype(mask_type(classes)), None, maps, draws=2)
    picture = np.zeros((*SIZE, 3), np.uint8)
    return labels, ImageResult(Source("image", Path("image.png")), picture, estimate, style, ("prediction",), 0, valid)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [255, 256, 257])
@pytest.mark.parametrize("gaps", [False, True])
def test_every_file_holds_the_classes_and_the_same_index_where_there_are_no_data(
    classes: int, tmp_path: Path, *, gaps: bool
) -> None:
    valid = np.ones(SIZE, np.bool_)
    valid[-3:, :9] = False  # an area of the last class among others
    labels, written = result(classes, valid if gaps else None)
    expected = np.where(valid, labels, no_class(classes)) if gaps else labels
    render(Below(tmp_path), written, ("png", "npz", "tif", "zarr"))
    folder = tmp_path / "image"
    with tifffile.TiffFile(folder / "prediction.tif") as file:
        page = file.pages.first
        assert ("GDAL_NODATA" in page.tags) == gaps
        assert not gaps or float(page.tags["GDAL_NODATA"].value) == no_class(classes)
        plain = file.asarray()
    stored = zarr.open_group(folder / "maps.zarr", mode="r")["prediction"]
    assert isinstance(stored, zarr.Array)
    assert not gaps or stored.fill_value == no_class(classes)
    masks = {
        "npz": np.load(folder / "maps.npz")["prediction"],
        "tif": plain,
        "zarr": np.asarray(stored[:]),
        "png": read_label(folder / "prediction.png"),
    }
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, expected, err_msg=name)
    assert {masks[name].dtype for name in ("npz", "tif", "zarr")} == {mask_type(classes)}

    write_tifs(lambda name: tmp_path / name, replace(written.exported(), geometry=PLACED))
    with rasterio.open(tmp_path / "prediction.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), expected)
        np.testing.assert_array_equal(raster.dataset_mask() > 0, valid | (not gaps))
        if classes <= 256:
            assert raster.colormap(1)[classes - 1][:3] == tuple(palette(classes)[-1].tolist())


@pytest.mark.parametrize("classes", [255, 256, 257])
def test_a_slice_that_is_missing_from_a_volume_is_of_no_class(classes: int, tmp_path: Path) -> None:
    labels, written = result(classes, None)
    render(Below(tmp_path), written, ("npz",))
    there = Geometry(volume="scan.nii", axis=2, index=0, count=2)
    write_volumes(
        tmp_path, [PlacedImage("image", tmp_path / "image", there)], classes=[f"class {k}" for k in range(classes)]
    )
    volume = np.asanyarray(nibabel.load(tmp_path / "prediction.nii.gz").dataobj)  # type: ignore[attr-defined]
    expected = stacked([labels, np.full_like(labels, no_class(classes))], 2)
    np.testing.assert_array_equal(volume, expected)


def test_no_class_is_above_every_class_and_fits_the_type_of_the_mask() -> None:
    for classes in (1, 2, 254, 255, 256, 257, 65534, 65535):
        assert classes <= no_class(classes) <= np.iinfo(mask_type(classes)).max
    assert [no_class(classes) for classes in (2, 255, 256)] == [255, 255, 65535]
    assert index_type(65536) == np.uint16
    with pytest.raises(WrongUse, match="at most 65535 classes"):
        mask_type(65536)
