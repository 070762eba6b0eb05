"""DICOM files of several frames: units and places by their functional groups; each is a volume of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom, group
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from segment.errors import ImageUnreadable
from segment.images.find import Source, find_images
from segment.images.placing.of_source import geometry_of
from segment.images.read import decode, read_label, read_source
from segment.images.specs import InputSpec

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 4096, (4, 8, 10)).astype(np.uint16)
AXES = [1, 0, 0, 0, 0.6, 0.8]
NORMAL = np.cross(AXES[:3], AXES[3:])


def units(slope: float, intercept: float) -> Dataset:
    return group(RescaleSlope=slope, RescaleIntercept=intercept, RescaleType="HU")


def enhanced(path: Path, heights: Sequence[float], **attributes: Any) -> Path:
    """A CT of one file, whose frames lie at these heights along the normal."""
    shared = group(
        PixelValueTransformationSequence=units(1, -1024),
        PlaneOrientationSequence=group(ImageOrientationPatient=AXES),
        PixelMeasuresSequence=group(PixelSpacing=[0.5, 0.75], SliceThickness=2),
    )
    own = [
        group(PlanePositionSequence=group(ImagePositionPatient=[float(value) for value in height * NORMAL + [1, 2, 3]]))
        for height in heights
    ]
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": own}
    return dicom(path, FRAMES[: len(heights)], SeriesInstanceUID=generate_uid(), **groups | attributes)


def test_frames_are_in_the_units_that_their_functional_groups_say(tmp_path: Path) -> None:
    path = enhanced(tmp_path / "a.dcm", [0, 1, 2, 3])
    for number in range(4):
        np.testing.assert_array_equal(decode(path, number).raw[..., 0], FRAMES[number].astype(np.float32) - 1024)
    own = [group(PixelValueTransformationSequence=units(0.5 + number, 7 * number)) for number in range(4)]
    path = enhanced(tmp_path / "b.dcm", [0, 1, 2, 3], PerFrameFunctionalGroupsSequence=own)
    for number in range(4):
        expected = FRAMES[number] * (0.5 + number) + 7 * number
        np.testing.assert_array_equal(decode(path, number).raw[..., 0], expected.astype(np.float32))


def test_frames_lie_where_their_functional_groups_say(tmp_path: Path) -> None:
    enhanced(tmp_path / "a.dcm", [6.0, 0.0, 4.0, 2.0])
    sources = find_images(tmp_path)
    assert [source.id for source in sources] == ["a/0001", "a/0003", "a/0002", "a/0000"]
    for index, source in enumerate(sources):
        geometry = geometry_of(source)
        assert (geometry.index, geometry.count, geometry.axis) == (index, 4, 2)
        # the standard's equation C.7.6.2.1-1, turned from left-posterior-superior to right-anterior-superior
        column, row = 3, 5
        place = (
            np.array([1, 2, 3])
            + 2 * index * NORMAL
            + 0.75 * column * np.array(AXES[:3])
            + 0.5 * row * np.array(AXES[3:])
        )
        np.testing.assert_allclose(
            np.array(geometry.affine) @ [column, row, index, 1], [-place[0], -place[1], place[2], 1]
        )


def test_slices_that_are_unevenly_spaced_have_no_affine_and_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enhanced(tmp_path / "a.dcm", [0.0, 2.5, 5.0, 10.0])
    sources = find_images(tmp_path)
    assert [geometry_of(source).affine for source in sources] == [None] * 4
    assert "2.5 to 5 mm apart" in caplog.text
    enhanced(tmp_path / "a.dcm", [0.0, 0.62, 1.25, 1.87])  # .625 mm, rounded
    assert geometry_of(find_images(tmp_path)[0]).affine is not None


def test_slices_of_another_size_are_a_volume_of_their_own(tmp_path: Path) -> None:
    series = generate_uid()
    for number in range(4):
        pixels = FRAMES[number] if number else FRAMES[0][:5, :6]
        place: dict[str, Any] = {
            "ImagePositionPatient": [0.0, 0.0, float(number)],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        }
        dicom(tmp_path / f"{number}.dcm", pixels, SeriesInstanceUID=series, PixelSpacing=[1, 1], **place)
    found = {source.path.stem: geometry_of(source) for source in find_images(tmp_path)}
    assert {found[name].volume for name in "123"} == {series}
    assert [found[name].count for name in "0123"] == [1, 3, 3, 3]
    assert found["0"].volume == f"{series} 5x6"


@pytest.mark.parametrize("heights", [[0, 0, 0], [0, 1, 1]])
def test_frames_that_lie_upon_each_other_keep_their_order_and_have_no_affine(
    heights: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    enhanced(tmp_path / "a.dcm", heights)
    sources = find_images(tmp_path)
    assert [source.part for source in sources] == [0, 1, 2]
    assert {geometry_of(source).affine for source in sources} == {None}
    assert "lie upon each other, as the phases of a series do" in caplog.text


def test_slices_that_are_not_parallel_have_no_affine_and_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, axes in enumerate(([1, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1])):
        place: dict[str, Any] = {"ImagePositionPatient": [0, 0, number], "ImageOrientationPatient": axes}
        dicom(tmp_path / f"{number}.dcm", FRAMES[0], SeriesInstanceUID="1.7", PixelSpacing=[1, 1], **place)
    assert {geometry_of(source).affine for source in find_images(tmp_path)} == {None}
    assert "The slices of volume 1.7 are not parallel: no affine gives" in caplog.text


@pytest.mark.parametrize(("kind", "bits", "top"), [(np.uint8, 0, 255), (np.uint16, 12, 4095), (np.int16, 0, -1)])
def test_values_whose_lowest_is_white_are_inverted_where_they_have_no_units(
    kind: type[np.generic], bits: int, top: int, tmp_path: Path
) -> None:
    values = (FRAMES[0] % 200).astype(kind)
    path = dicom(tmp_path / "a.dcm", values, "MONOCHROME1", bits=bits, RescaleSlope=1, RescaleIntercept=0)
    np.testing.assert_array_equal(decode(path).raw[..., 0], top - values.astype(int))
    np.testing.assert_array_equal(read_label(path), values)
    path = dicom(tmp_path / "b.dcm", values, "MONOCHROME1", bits=bits, RescaleSlope=2, RescaleIntercept=-5)
    np.testing.assert_array_equal(decode(path).raw[..., 0], 2 * values.astype(int) - 5)


def test_a_table_of_units_and_a_palette_are_looked_up(tmp_path: Path) -> None:
    index = (FRAMES[0] % 4).astype(np.uint8)
    units_of = np.array([10, 500, 30, 4000], np.uint16)
    table = group(LUTDescriptor=[4, 0, 16], ModalityLUTType="OD", LUTData=units_of.tobytes())
    path = dicom(tmp_path / "a.dcm", index, ModalityLUTSequence=[table])
    np.testing.assert_array_equal(decode(path).raw[..., 0], units_of[index])
    colours = np.array([[0, 0, 0], [255, 0, 9], [0, 250, 0], [1, 2, 255]], np.uint8)
    palette: dict[str, Any] = {}
    for plane, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = (colours[:, plane].astype(np.uint16) * 257).tobytes()
    path = dicom(tmp_path / "b.dcm", index, "PALETTE COLOR", **palette)
    np.testing.assert_array_equal(read_source(Source("a", path), InputSpec()).pixels, colours[index])
    np.testing.assert_array_equal(read_label(path), index)


def test_functional_groups_of_fewer_frames_are_refused_in_one_line(tmp_path: Path) -> None:
    own = [group(PixelValueTransformationSequence=units(1, 0))]
    enhanced(tmp_path / "a.dcm", [0, 1, 2], PerFrameFunctionalGroupsSequence=own)
    for source in find_images(tmp_path):
        with pytest.raises(ImageUnreadable, match=r"a\.dcm.*index out of range") as refused:
            read_source(source, InputSpec(channels=1, white=255))
        assert "\n" not in str(refused.value)


def test_one_image_of_several_frames_is_named(tmp_path: Path) -> None:
    enhanced(tmp_path / "a.dcm", [0, 1, 2])
    with pytest.raises(ImageUnreadable, match="holds 3 pages or frames"):
        decode(tmp_path / "a.dcm")


def test_files_of_several_frames_are_volumes_of_their_own_though_of_one_series(tmp_path: Path) -> None:
    for name in "ab":
        dicom(tmp_path / f"{name}.dcm", FRAMES[:3], SeriesInstanceUID="1.9")
    sources = find_images(tmp_path)
    assert [source.id for source in sources] == [f"{name}/{frame:04d}" for name in "ab" for frame in range(3)]
    places = [geometry_of(source) for source in sources]
    assert [place.index for place in places] == [0, 1, 2, 0, 1, 2]
    assert {place.count for place in places} == {3}
    assert len({place.volume for place in places}) == 2


def test_a_series_in_several_folders_is_one_and_stands_where_its_first_file_does(tmp_path: Path) -> None:
    for name, height in (("a/1", 3), ("a/2", 1), ("c/3", 2), ("c/4", 0)):
        position: dict[str, Any] = {
            "ImagePositionPatient": [0, 0, height],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        }
        dicom(tmp_path / f"{name}.dcm", FRAMES[0], SeriesInstanceUID="1.8", **position)
    np.save(tmp_path / "b.npy", FRAMES[0])
    dicom(tmp_path / "d.dcm", FRAMES[0], SeriesInstanceUID="1.7")
    sources = find_images(tmp_path)
    assert [source.id for source in sources] == ["c/4", "a/2", "c/3", "a/1", "b", "d"]
    assert [geometry_of(source).index for source in sources[:4]] == [0, 1, 2, 3]
    assert {geometry_of(source).count for source in sources[:4]} == {4}
