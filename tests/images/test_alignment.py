"""A label map or region mask that says that it lies elsewhere than its image is refused, not compared by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from image_files import NORTH_UP, geotiff
from numpy.typing import NDArray
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import Affine

from segment.errors import ImageUnreadable
from segment.images import read
from segment.images.find import Source
from segment.images.labels.read import read_label_ids
from segment.images.labels.scheme import LabelScheme
from segment.images.read import read_source
from segment.images.specs import InputSpec
from segment.jobs.labelled.labels import read_labelled_image
from segment.networks.load import load_network

RNG = np.random.default_rng(0)
LPS = np.array([[-0.7, 0, 0, 20.3], [0, -0.7, 0, 31.1], [0, 0, 3, -7], [0, 0, 0, 1.0]])
VOXELS, SPEC = (40, 44, 3), InputSpec(channels=1, white=255)


def nifti(path: Path, voxels: NDArray[Any], affine: NDArray[Any] | None, *, canonical: bool = False) -> Path:
    image = nibabel.Nifti1Image(voxels, affine)
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.as_closest_canonical(image) if canonical else image, path)
    return path


@pytest.fixture
def volume(tmp_path: Path) -> Source:
    voxels = RNG.integers(0, 255, VOXELS).astype(np.int16)
    return Source("p/0001", nifti(tmp_path / "images" / "p.nii.gz", voxels, LPS), part=1)


@pytest.fixture
def raster(tmp_path: Path) -> Source:
    return Source("t", geotiff(tmp_path / "images" / "t.tif", RNG.integers(0, 255, (3, 32, 40), np.uint8), NORTH_UP))


def ids(label: Path, image: Source, size: tuple[int, int]) -> NDArray[np.int64]:
    return read_label_ids(label, image.part, image.axis, size, LabelScheme(), image=image)


def test_a_nifti_label_in_another_voxel_order_is_refused(volume: Source, tmp_path: Path) -> None:
    stored = RNG.integers(0, 4, VOXELS).astype(np.int16)
    turned = nifti(tmp_path / "labels" / "p.nii.gz", stored, LPS, canonical=True)
    with pytest.raises(ImageUnreadable, match="by their affines, corners are up to 43 pixels apart") as refused:
        ids(turned, volume, (44, 40))
    assert str(turned) in str(refused.value)
    assert str(volume.path) in str(refused.value)


def test_a_nifti_label_of_the_same_place_or_of_none_is_read(volume: Source, tmp_path: Path) -> None:
    stored = RNG.integers(0, 4, VOXELS).astype(np.int16)
    rounded = LPS * (1 + 1e-6)
    for number, affine in enumerate((LPS, rounded, None, np.eye(4))):
        label = nifti(tmp_path / str(number) / "p.nii.gz", stored, affine)
        np.testing.assert_array_equal(ids(label, volume, (44, 40)), stored[:, :, 1].T)


def test_a_nifti_label_need_not_name_the_unit_of_its_image(volume: Source, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(RNG.integers(0, 255, VOXELS).astype(np.int16), LPS)
    image.header.set_xyzt_units("micron")
    nibabel.save(image, volume.path)
    stored = RNG.integers(0, 4, VOXELS).astype(np.int16)
    label = nifti(tmp_path / "labels" / "p.nii.gz", stored, LPS)
    np.testing.assert_array_equal(ids(label, volume, (44, 40)), stored[:, :, 1].T)


def test_a_nifti_label_is_not_compared_with_an_image_without_a_place(tmp_path: Path) -> None:
    bare = nifti(tmp_path / "images" / "p.nii.gz", RNG.integers(0, 255, VOXELS).astype(np.int16), None)
    stored = RNG.integers(0, 4, VOXELS).astype(np.int16)
    label = nifti(tmp_path / "labels" / "p.nii.gz", stored, LPS)
    np.testing.assert_array_equal(ids(label, Source("p/0001", bare, part=1), (44, 40)), stored[:, :, 1].T)


def test_a_region_mask_in_another_voxel_order_is_refused(volume: Source, tmp_path: Path) -> None:
    inside = np.zeros(VOXELS, np.uint8)
    inside[:10] = 1
    for canonical in (False, True):
        mask = nifti(tmp_path / f"masks-{canonical}" / "p.nii.gz", inside, LPS, canonical=canonical)
        masked = Source("p/0001", volume.path, part=1, mask=mask, mask_part=1)
        if canonical:
            with pytest.raises(ImageUnreadable, match=r"The region mask .* lies elsewhere than its image"):
                read_source(masked, SPEC)
        else:
            np.testing.assert_array_equal(read_source(masked, SPEC).valid, inside[:, :, 1].T != 0)


def test_one_slice_is_the_region_mask_of_all_slices_of_its_columns(volume: Source, tmp_path: Path) -> None:
    inside = np.zeros((*VOXELS[:2], 1), np.uint8)
    inside[:10] = 1
    mask = nifti(tmp_path / "m.nii.gz", inside, LPS)
    valid = read_source(Source("p/0001", volume.path, part=1, mask=mask), SPEC).valid
    np.testing.assert_array_equal(valid, inside[:, :, 0].T != 0)


def test_the_label_map_of_one_slice_is_that_of_no_other_slice(volume: Source, tmp_path: Path) -> None:
    stored = RNG.integers(0, 4, VOXELS).astype(np.int16)
    for number in range(2):
        place = LPS.copy()
        place[:3, 3] = (LPS @ [0, 0, number, 1])[:3]
        label = nifti(tmp_path / str(number) / "l.nii.gz", stored[:, :, number : number + 1], place)
        if number == 1:
            found = read_label_ids(label, None, 2, (44, 40), LabelScheme(), image=volume)
            np.testing.assert_array_equal(found, stored[:, :, 1].T)
        else:
            with pytest.raises(ImageUnreadable, match=r"The label map .* lies elsewhere .* corners are up to 1 pixels"):
                read_label_ids(label, None, 2, (44, 40), LabelScheme(), image=volume)


@pytest.mark.parametrize(
    ("place", "apart"),
    [(Affine(10, 0, 500000, 0, 10, 5200000 - 320), 32), (Affine(10, 0, 500000 - 200, 0, -10, 5200000), 20)],
)
def test_a_geotiff_label_stored_upside_down_or_of_another_tile_is_refused(
    place: Affine, apart: int, raster: Source, tmp_path: Path
) -> None:
    label = geotiff(tmp_path / "labels" / "t.tif", np.ones((1, 32, 40), np.uint8), place)
    labelled = Source("t", raster.path, label=label)
    error = read_labelled_image(labelled, load_network("scenes")).error
    assert f"by their georeferences, corners are up to {apart} pixels apart" in error
    with pytest.raises(ImageUnreadable, match=r"The region mask .* lies elsewhere than its image"):
        read_source(Source("t", raster.path, mask=label), InputSpec())


def test_a_large_image_refuses_a_region_mask_that_lies_elsewhere(
    raster: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "in_windows", lambda *_: True)
    inside = np.ones((1, 32, 40), np.uint8)
    mask = geotiff(tmp_path / "masks" / "t.tif", inside, NORTH_UP @ Affine.translation(1, 0))
    with pytest.raises(ImageUnreadable, match="corners are up to 1 pixels apart"):
        read_source(Source("t", raster.path, mask=mask), InputSpec())
    geotiff(mask, inside, NORTH_UP)
    assert read_source(Source("t", raster.path, mask=mask), InputSpec()).valid is not None


def test_a_geotiff_label_of_the_same_place_or_of_none_is_read(raster: Source, tmp_path: Path) -> None:
    stored = RNG.integers(0, 4, (1, 32, 40)).astype(np.uint8)
    same = NORTH_UP @ Affine.translation(0.01, 0)
    named_otherwise = CRS.from_wkt(CRS.from_epsg(32632).to_wkt(version="WKT1_ESRI"))
    for number, (place, crs) in enumerate(
        [(same, "EPSG:32632"), (NORTH_UP, named_otherwise), (NORTH_UP, "EPSG:25832"), (NORTH_UP, None), (None, None)]
    ):
        label = geotiff(tmp_path / str(number) / "t.tif", stored, place, crs)
        np.testing.assert_array_equal(ids(label, raster, (32, 40)), stored[0])
    Image.fromarray(stored[0]).save(tmp_path / "t.png")
    np.testing.assert_array_equal(ids(tmp_path / "t.png", raster, (32, 40)), stored[0])


def test_a_label_in_another_crs_is_compared_in_that_of_the_image(raster: Source, tmp_path: Path) -> None:
    label = geotiff(tmp_path / "labels" / "t.tif", np.ones((1, 32, 40), np.uint8), NORTH_UP, "EPSG:32633")
    with pytest.raises(ImageUnreadable, match="pixels apart"):
        ids(label, raster, (32, 40))
