"""DICOM slices and frames of a run come out as their volumes, each whole and its own."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from dicom_files import dicom
from numpy.typing import NDArray
from plain import random_bank
from small_networks import network_of

from segment.batch_norm.network import bn_network_of
from segment.files.runs.places import STOP
from segment.images.find import find_images
from segment.images.listing.parts import Listing
from segment.jobs.predict import predict
from segment.jobs.prediction import watch
from segment.jobs.prediction.plan import PredictPlan
from segment.report.run_files import exported_files
from segment.report.run_files.saved_run import load_run

NETWORK = network_of()
BANK = random_bank(bn_network_of(NETWORK))
PLAN = PredictPlan(formats=("nii",), maps=("prediction", "variance"))
FRAMES = np.random.default_rng(0).integers(0, 255, (6, 40, 64)).astype(np.uint8)


def slice_at(path: Path, height: int, series: str = "1.8") -> Path:
    place: dict[str, Any] = {"ImagePositionPatient": [0, 0, height], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    return dicom(path, FRAMES[height], SeriesInstanceUID=series, PixelSpacing=[2, 3], **place)


def volume(path: Path) -> NDArray[Any]:
    return np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]


def of_images(run: Path, ids: list[str]) -> NDArray[Any]:
    return np.stack([np.load(run / id / "maps.npz")["variance"].T for id in ids], axis=2)


def test_two_clips_of_one_series_are_two_volumes(tmp_path: Path) -> None:
    for name, frames in (("a", FRAMES[:3]), ("b", FRAMES[3:])):
        dicom(tmp_path / "in" / f"{name}.dcm", frames, SeriesInstanceUID="1.9")
    run = tmp_path / "run"
    predict(NETWORK, str(tmp_path / "in"), BANK, run, PLAN)
    for name in "ab":
        expected = of_images(run, [f"{name}/{frame:04d}" for frame in range(3)])
        np.testing.assert_array_equal(volume(run / name / "variance.nii.gz"), expected)


def test_a_series_in_two_folders_is_one_volume_above_them(tmp_path: Path) -> None:
    for name, height in (("a/0", 0), ("a/1", 1), ("b/2", 2), ("b/3", 3)):
        slice_at(tmp_path / "in" / f"{name}.dcm", height)
    run = tmp_path / "run"
    predict(NETWORK, str(tmp_path / "in"), BANK, run, PLAN)
    np.testing.assert_array_equal(volume(run / "variance.nii.gz"), of_images(run, ["a/0", "a/1", "b/2", "b/3"]))
    assert not list(run.glob("[ab]/*.nii.gz"))


def scan(path: Path, voxels: NDArray[Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


@pytest.mark.parametrize(("axis", "masked"), [(0, False), (0, True), (2, True)])
@pytest.mark.parametrize("depth", [1, 3])
def test_a_saved_run_reads_the_slices_that_it_was_made_of(axis: int, depth: int, tmp_path: Path, masked: bool) -> None:  # noqa: FBT001
    shape = [40, 64]
    shape.insert(axis, depth)
    voxels = np.random.default_rng(axis).integers(0, 255, shape).astype(np.uint8)
    scan(tmp_path / "in" / "p.nii", voxels)
    masks = scan(tmp_path / "masks" / "p.nii", (voxels > 9).astype(np.uint8)).parent if masked else None
    listing = Listing(axis=axis)
    plan = PredictPlan(formats=("npz",))
    predict(NETWORK, str(tmp_path / "in"), BANK, tmp_path / "run", plan, masks=masks, listing=listing)
    run = load_run(tmp_path / "run")
    assert len(run) == depth
    for index, image in enumerate(run.values()):
        expected = np.take(voxels, index, axis).T
        np.testing.assert_array_equal(image.image, expected[..., None].repeat(3, axis=2))


def test_two_series_of_one_folder_do_not_share_a_file(tmp_path: Path) -> None:
    for name, height, series in (("a", 0, "1.1"), ("b", 1, "1.1"), ("c", 2, "1.2"), ("d", 3, "1.2")):
        slice_at(tmp_path / "in" / f"{name}.dcm", height, series)
    run = tmp_path / "run"
    predict(NETWORK, str(tmp_path / "in"), BANK, run, PLAN)
    np.testing.assert_array_equal(volume(run / "a_variance.nii.gz"), of_images(run, ["a", "b"]))
    np.testing.assert_array_equal(volume(run / "c_variance.nii.gz"), of_images(run, ["c", "d"]))
    files = json.loads((run / "run.json").read_text())["files"]
    assert {name for name in files if name.endswith("variance.nii.gz")} == {"a_variance.nii.gz", "c_variance.nii.gz"}


def test_slices_that_are_dropped_one_after_the_other_are_one_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox, run = tmp_path / "in", tmp_path / "run"
    waiting = [("c", 1), ("a", 2)]
    slice_at(inbox / "b.dcm", 0)

    def drop_another(_: float) -> None:
        if waiting:
            name, height = waiting.pop(0)
            slice_at(inbox / f"{name}.dcm", height)
        else:
            (run / STOP).touch()

    monkeypatch.setattr(watch, "time", SimpleNamespace(sleep=drop_another, monotonic=time.monotonic))
    summary = predict(NETWORK, inbox, BANK, run, PLAN, watch=watch.WatchPlan())
    assert (summary.done, dict(summary.failed)) == (3, {})
    np.testing.assert_array_equal(volume(run / "variance.nii.gz"), of_images(run, ["b", "c", "a"]))


def test_slices_in_one_place_are_a_warning_in_place_of_a_volume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sources = [find_images(slice_at(tmp_path / "in" / f"{name}.dcm", 0))[0] for name in "ab"]
    monkeypatch.setattr(exported_files, "slices_of", lambda paths: [])
    run = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        predict(NETWORK, sources, BANK, run, PLAN)
    assert "Images 'a' and 'b' are both slice 0 of one volume. It is not written." in caplog.text
    assert not list(run.glob("*.nii.gz"))


def test_a_series_whose_slices_lie_upon_each_other_claims_no_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for phase in range(2):
        for height in range(2):
            slice_at(tmp_path / "in" / f"{phase}{height}.dcm", height)
    with caplog.at_level(logging.WARNING):
        predict(NETWORK, str(tmp_path / "in"), BANK, tmp_path / "run", PLAN)
    header = nibabel.load(tmp_path / "run" / "variance.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (0, 0)  # type: ignore[index]
    assert header.get_xyzt_units()[0] == "unknown"  # type: ignore[attr-defined]
    assert "No affine says where the voxels of 1 volume lie (the first is 1.8)" in caplog.text


def test_a_volume_that_does_not_say_where_it_lies_keeps_the_codes_and_sizes_of_its_file(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(FRAMES, None)
    image.header.set_zooms((2, 3, 4))
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / "scan.nii")
    predict(NETWORK, str(tmp_path / "in"), BANK, tmp_path / "run", PLAN)
    header = nibabel.load(tmp_path / "run" / "scan" / "variance.nii.gz").header
    assert (header["sform_code"], header["qform_code"]) == (0, 0)  # type: ignore[index]
    assert header.get_zooms() == (2, 3, 4)  # type: ignore[attr-defined]
