"""Every command that lists images leaves out the pictures of runs below the folder, and says so."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_files import dicom
from plain import random_bank

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.image_pool import ImagePool
from segment.errors import WrongUse
from segment.files.writing import write_png
from segment.images.find import find_images
from segment.images.listing.parts import Listing
from segment.images.outside_runs import images_outside_runs
from segment.jobs.doctor import compare_passes
from segment.jobs.evaluate import evaluate_into
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.watch import WatchPlan
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Grid
from segment.jobs.sweeping.inputs import input_hashes
from segment.jobs.sweeping.states import SweepPlan
from segment.networks.load import Network
from segment.scenes.scene import TEST, scene
from segment.stores.requests import put


@pytest.fixture
def labels(tmp_path: Path) -> Labels:
    """Three labelled images, and below their folder a run with a picture of its own."""
    made = Labels(tmp_path / "images", tmp_path / "labels")
    for seed in TEST[:3]:
        write_png(tmp_path / "images" / f"{seed}.png", scene(seed).image)
        write_png(tmp_path / "labels" / f"{seed}.png", scene(seed).label)
    run = Path(made.images) / "run"
    write_png(run / "a" / "overlay.png", scene(TEST[0]).image)
    for name in ("manifest.jsonl", "run.json"):
        (run / name).write_text("{}")
    return made


@pytest.mark.parametrize("column", ["", "label"])
def test_region_masks_of_a_list_are_reported_and_warned_of_where_they_may_be_label_maps(
    labels: Labels, column: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    label = f"labels/{TEST[0]}.png"
    rows = [["image", "mask", "label"], [f"images/{TEST[0]}.png", label, label], [f"images/{TEST[1]}.png", "", ""]]
    (tmp_path / "list.csv").write_text("".join(",".join(row[: 3 if column else 2]) + "\n" for row in rows))
    with caplog.at_level(logging.INFO, logger="segment"):
        images_outside_runs(tmp_path / "list.csv")
        images_outside_runs(tmp_path / "list.csv", warn=False)
    (record,) = caplog.records
    assert record.levelno == (logging.INFO if column else logging.WARNING)
    assert "1 of 2 images have a region mask in the column `mask` of" in record.getMessage()


def test_an_axis_that_dicom_slices_are_not_cut_along_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for height in range(2):
        place: dict[str, Any] = {"ImagePositionPatient": [0, 0, height], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        dicom(tmp_path / f"{height}.dcm", np.zeros((8, 10), np.uint8), PixelSpacing=[1, 1], **place)
    assert len(images_outside_runs(tmp_path, Listing(axis=0))) == 2
    assert caplog.text.count("--axis 0 cuts volumes of NIfTI: 2 images of DICOM files stay the slices") == 1
    caplog.clear()
    images_outside_runs(tmp_path)
    assert not caplog.records


LISTED: dict[str, Callable[[Network, Labels], Any]] = {
    "fit, distill, sweep --train, tune --train": lambda network, labels: ImagePool(network, labels.images).sources,
    "fit of several folders": lambda network, labels: ImagePool(network, [labels.images]).sources,
    "fit of a glob": lambda network, labels: ImagePool(network, f"{labels.images}/**/*.png").sources,
    "evaluate, sweep, tune": lambda network, labels: labels.sources(network),
    "doctor": lambda network, labels: compare_passes(network, labels.images).images,
}


@pytest.mark.parametrize("command", LISTED)
def test_the_pictures_of_a_run_below_the_folder_are_no_images(
    network: Network, labels: Labels, command: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(find_images(labels.images)) == 4
    with caplog.at_level(logging.WARNING, logger="segment"):
        assert len(LISTED[command](network, labels)) == 3
    assert caplog.text.count("1 files of runs below") == 1


def test_a_sweep_is_of_the_same_images_after_a_run_was_made_among_them(network: Network, labels: Labels) -> None:
    before = input_hashes(str(labels.images), (), {})
    shutil.rmtree(Path(labels.images) / "run")
    assert input_hashes(str(labels.images), (), {}) == before


def test_a_run_itself_is_a_folder_of_images_and_one_of_runs_alone_is_refused(labels: Labels) -> None:
    run = Path(labels.images) / "run"
    for pictures in (run, f"{run}/*/*.png", run / "a" / "overlay.png"):
        assert len(images_outside_runs(pictures)) == 1
    shutil.copytree(run, run.parent.parent / "runs" / "run")
    for pictures in (run.parent.parent / "runs", f"{run.parent.parent}/runs/*/*/*.png"):
        with pytest.raises(WrongUse, match="holds the pictures of runs and no other image"):
            images_outside_runs(pictures)


@pytest.mark.parametrize(
    ("source", "images"), [("", 2), ("/**/*.png", 2), ("/*/*/*/*.png", 1), ("/day/run/*/*.png", 1)]
)
def test_the_pictures_of_a_run_on_a_store_are_no_images(labels: Labels, source: str, images: int) -> None:
    names = ("day/a.png", "day/one/two/b.png", "day/run/a/overlay.png", "day/run/manifest.jsonl", "day/run/run.json")
    top, some = Path("memory://outside_runs"), next(Path(labels.images).glob("*.png"))
    put([(some, top / name) for name in names])
    assert len(images_outside_runs(f"memory://outside_runs{source}")) == images


def bank_of(network: Network) -> Bank:
    return random_bank(bn_network_of(network))


INTO: dict[str, Callable[[Network, Labels, Path], Any]] = {
    "predict": lambda network, labels, folder: predict(network, labels.images, bank_of(network), folder),
    "predict of a glob": lambda network, labels, folder: predict(
        network, f"{labels.images}/*.png", bank_of(network), folder
    ),
    "predict --watch": lambda network, labels, folder: predict(
        network, labels.images, bank_of(network), folder, watch=WatchPlan()
    ),
    "evaluate": lambda network, labels, folder: evaluate_into(network, labels, folder),
    "sweep": lambda network, labels, folder: sweep(
        network, labels, labels.images, folder, SweepPlan(grid=Grid(batches=(2,), draws=(1,)))
    ),
}


@pytest.mark.parametrize("command", INTO)
def test_no_run_is_made_in_the_very_folder_of_its_images(network: Network, labels: Labels, command: str) -> None:
    images = Path(labels.images)
    before = sorted(images.rglob("*"))
    with pytest.raises(WrongUse, match=r"is the folder of the images.*images/run'"):
        INTO[command](network, labels, images.parent / "labels" / ".." / "images")
    assert sorted(images.rglob("*")) == before
