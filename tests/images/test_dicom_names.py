"""DICOM files are found whatever their names: without a suffix, among other files, beside other images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom
from pydicom.uid import generate_uid

from segment.errors import WrongUse
from segment.images.find import Source, find_images
from segment.images.labels.names import matching
from segment.images.read import decode

PIXELS = np.arange(80, dtype=np.uint16).reshape(8, 10)


def series(folder: Path, *names: str) -> Path:
    """A series whose slices lie above each other in the order of the names."""
    uid = generate_uid()
    place: dict[str, Any] = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
    for height, name in enumerate(names):
        dicom(folder / name, PIXELS + height, SeriesInstanceUID=uid, ImagePositionPatient=[0, 0, height], **place)
    return folder


def ids(src: Path | str) -> list[str]:
    return [source.id for source in find_images(src)]


def test_each_folder_by_itself_says_whether_its_files_without_a_suffix_are_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    series(tmp_path / "a", "IM1", "IM0")
    series(tmp_path / "b", "i0.dcm", "i1.dcm")
    (tmp_path / "preview.png").touch()
    with caplog.at_level(logging.WARNING):
        assert ids(tmp_path) == ["a/IM1", "a/IM0", "b/i0", "b/i1", "preview"]
    assert not caplog.records


def test_files_without_a_suffix_beside_other_images_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("a", "b"):
        (series(tmp_path / folder, "IM0", "IM1", "IM2") / "preview.png").touch()
    for _ in range(2):
        assert ids(tmp_path) == ["a/preview", "b/preview"]
    (record,) = caplog.records
    assert record.getMessage().startswith("6 DICOM files without a suffix are left out")
    assert all(repr(str(tmp_path / folder)) in record.getMessage() for folder in ("a", "b"))
    assert "by a glob" in record.getMessage()
    assert ids(f"{tmp_path}/a/*") == ["IM0", "IM1", "IM2", "preview"]


def test_dicom_files_with_and_without_a_suffix_may_lie_in_one_folder(tmp_path: Path) -> None:
    assert ids(series(tmp_path, "IM0", "IM1.dcm", "IM2")) == ["IM0", "IM1", "IM2"]


def test_a_dicomdir_is_no_image(tmp_path: Path) -> None:
    series(tmp_path, "DICOMDIR", "a/IM0")
    assert ids(tmp_path) == ["a/IM0"]
    (tmp_path / "a/IM0").unlink()
    with pytest.raises(WrongUse, match="Found 1 without suffix"):
        find_images(tmp_path)


def test_dicom_files_that_are_called_by_a_uid_are_found_with_their_whole_names(tmp_path: Path) -> None:
    names = [f"CT.1.2.840.113619.2.55.{number}" for number in (1, 10, 2)]
    series(tmp_path, *names)
    (tmp_path / "import.log.1").write_text("three files")
    assert ids(tmp_path) == ids(f"{tmp_path}/CT*") == names
    for height, name in enumerate(names):
        (alone,) = find_images(tmp_path / name)
        assert alone.id == name
        np.testing.assert_array_equal(decode(alone.path).raw[..., 0], PIXELS + height)


def test_a_file_of_annotations_may_name_dicom_files_by_a_uid() -> None:
    second = Source("ct/CT.1.2.2", Path("/set/ct/CT.1.2.2"))
    assert matching(["ct/CT.1.2.1", "ct/CT.1.2.2"], [second]) == {second.id: "ct/CT.1.2.2"}
