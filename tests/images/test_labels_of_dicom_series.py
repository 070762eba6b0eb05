"""The labels of a DICOM series may be one NIfTI volume, whose slices are matched by their place."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from dicom_files import dicom
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from segment.errors import ImageUnreadable
from segment.images.find import find_images
from segment.images.labels.pairs import with_labels
from segment.images.labels.read import read_label_ids
from segment.images.labels.scheme import LabelScheme
from segment.jobs.labelled.labels import labelled

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, (4, 8, 10)).astype(np.uint8)  # slice row column
HEIGHTS = dict(zip(("IM2", "IM0", "IM3", "IM1"), (5.0, 7.5, 10.0, 12.5), strict=True))
AFFINE = np.array([[-0.75, 0, 0, 10], [0, -0.5, 0, 20], [0, 0, 2.5, 5], [0, 0, 0, 1]])
"""Of the slices in the order of their heights, with the axes of DICOM."""


def series(folder: Path, *, placed: bool = True) -> Path:
    uid = generate_uid()
    for number, (name, height) in enumerate(HEIGHTS.items(), start=1):
        said: dict[str, Any] = {"SeriesInstanceUID": uid, "InstanceNumber": number}
        if placed:
            said |= {"ImagePositionPatient": [-10, -20, height], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
            said |= {"PixelSpacing": [0.5, 0.75]}
        dicom(folder / name, RNG.integers(0, 9, (8, 10)).astype(np.uint16), **said)
    return folder


def volume(path: Path, slices: NDArray[np.uint8], affine: NDArray[np.float64] | None = AFFINE) -> Path:
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(slices.transpose(2, 1, 0), affine), path)
    return path


def read(images: Path, labels: Path | None, suffix: str = "") -> list[NDArray[np.int64] | None]:
    """The label map of each slice, in the order of their heights."""
    sources = labelled(images, labels, suffix)
    assert [source.id.rpartition("/")[2] for source in sources] == list(HEIGHTS)
    return [
        None
        if source.label is None
        else read_label_ids(source.label, source.label_part, source.axis, (8, 10), LabelScheme(), image=source)
        for source in sources
    ]


@pytest.mark.parametrize("name", ["p.nii.gz", "p.nii", "p_seg.nii.gz"])
def test_a_volume_called_as_the_folder_of_a_series_labels_each_slice(tmp_path: Path, name: str) -> None:
    volume(tmp_path / "labels" / name, LABELS)
    suffix = "_seg" if "seg" in name else ""
    for images in (series(tmp_path / "images" / "p").parent, tmp_path / "images" / "p"):
        np.testing.assert_array_equal(read(images, tmp_path / "labels", suffix), LABELS)


def test_slices_are_matched_by_place_whatever_their_order_and_number(tmp_path: Path) -> None:
    images = series(tmp_path / "images" / "p").parent
    turned = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1.0]])
    volume(tmp_path / "turned" / "p.nii.gz", LABELS[::-1], turned)
    np.testing.assert_array_equal(read(images, tmp_path / "turned"), LABELS)
    upper = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1.0]])
    volume(tmp_path / "upper" / "p.nii.gz", LABELS[2:], upper)
    first, second, *others = read(images, tmp_path / "upper")
    assert first is None
    assert second is None
    np.testing.assert_array_equal(others, LABELS[2:])


@pytest.mark.parametrize("placed", [False, True])
def test_slices_are_counted_where_one_side_has_no_place(tmp_path: Path, *, placed: bool) -> None:
    images = series(tmp_path / "images" / "p", placed=placed).parent
    volume(tmp_path / "labels" / "p.nii.gz", LABELS, None if placed else AFFINE)
    np.testing.assert_array_equal(read(images, tmp_path / "labels"), LABELS)


def test_a_list_may_name_the_volume_for_each_slice(tmp_path: Path) -> None:
    series(tmp_path / "p")
    volume(tmp_path / "labels" / "p.nii.gz", LABELS)
    rows = tmp_path / "list.csv"
    rows.write_text("image,label\n" + "".join(f"p/{name},labels/p.nii.gz\n" for name in sorted(HEIGHTS)))
    np.testing.assert_array_equal(read(rows, None), LABELS)


def test_a_volume_that_lies_elsewhere_labels_no_slice_and_one_whose_rows_are_turned_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = series(tmp_path / "images" / "p").parent
    above = AFFINE.copy()
    above[2, 3] += 100
    volume(tmp_path / "above" / "p.nii.gz", LABELS, above)
    with caplog.at_level(logging.WARNING):
        sources = with_labels(find_images(images), tmp_path / "above")
    assert all(source.label is None for source in sources)
    assert "No slice of the label volume" in caplog.text
    flipped = AFFINE @ np.array([[1, 0, 0, 0], [0, -1, 0, 7], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    volume(tmp_path / "flipped" / "p.nii.gz", LABELS[:, ::-1], flipped)
    with pytest.raises(ImageUnreadable, match="lies elsewhere than its image"):
        read(images, tmp_path / "flipped")
