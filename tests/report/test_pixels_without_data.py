"""Pixels outside a region mask are void in every file, of one class a pixel or of many, and in no mean of the image."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from plain import random_bank
from small_networks import network_of

from segment.batch_norm.network import bn_network_of
from segment.files.exports.image import UNCLAIMED
from segment.images.read import read_label
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import Network
from segment.pictures.heatmaps import ABSENT
from segment.pictures.palettes import NO_CLASS

SIZE = (64, 80)
FORMATS = ("png", "npz", "tif", "zarr", "csv")
LABELS = ("vessel", "disc", "lesion", "other")


def fundus(folder: Path) -> tuple[Path, Path, NDArray[np.bool_]]:
    """A generated fundus image in its round field of view, and the mask of that field."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (rows - 32) ** 2 + (columns - 40) ** 2 < 30**2
    picture = np.zeros((*SIZE, 3), np.uint8)
    picture[inside] = (170, 80, 40)
    cv2.circle(picture, (55, 30), 7, (240, 210, 140), -1)
    for bend in range(-20, 21, 8):
        cv2.line(picture, (55, 30), (25, 32 + bend), (110, 25, 20), 2)
    picture[~inside] = 0
    for name, content in (("images", picture), ("masks", inside.astype(np.uint8) * 255)):
        (folder / name).mkdir()
        Image.fromarray(content).save(folder / name / "eye.png")
    return folder / "images", folder / "masks", inside


def headed(head: str) -> Network:
    network = network_of()
    card = replace(network.card, head=head, classes=LABELS)  # type: ignore[arg-type]
    return replace(network, card=card)


@pytest.mark.parametrize("head", ["softmax", "multilabel"])
def test_the_corners_of_a_fundus_image_are_void_in_every_file_and_in_no_mean(head: str, tmp_path: Path) -> None:
    images, masks, inside = fundus(tmp_path)
    network = headed(head)
    plan = PredictPlan(formats=FORMATS, maps=("prediction", "probability", "variance", "predictive_entropy"))
    run = tmp_path / "run"
    summary = predict(network, str(images), random_bank(bn_network_of(network)), run, plan, masks=masks)
    assert (summary.done, dict(summary.failed)) == (1, {})
    folder = run / "eye"
    maps = dict(np.load(folder / "maps.npz"))
    group = zarr.open_group(folder / "maps.zarr", mode="r")
    for name in ("variance", "predictive_entropy", "probability"):
        written = {
            "npz": maps[name],
            "tif": tifffile.imread(folder / f"{name}.tif"),
            "zarr": np.asarray(group[name][:]),  # type: ignore[index]
        }
        for kind, values in written.items():
            assert np.isnan(values[..., ~inside]).all(), (name, kind)
            assert np.isfinite(values[..., inside]).all(), (name, kind)
    line = json.loads((run / "manifest.jsonl").read_text())
    for name in ("variance", "predictive_entropy"):
        assert line[name]["mean"] == pytest.approx(float(maps[name][inside].mean()), rel=1e-5)
    masks_written = [maps["prediction"], np.asarray(group["prediction"][:])]  # type: ignore[index]
    with tifffile.TiffFile(folder / "prediction.tif") as file:
        assert float(file.pages.first.tags["GDAL_NODATA"].value) == UNCLAIMED
        masks_written.append(file.asarray())
    pngs = sorted(folder.glob("prediction*.png"))
    masks_written += [np.stack([read_label(path) for path in pngs]) if head == "multilabel" else read_label(pngs[0])]
    for labels in masks_written:
        assert (labels[..., ~inside] == UNCLAIMED).all()
        assert labels[..., inside].max() <= (1 if head == "multilabel" else 3)
        np.testing.assert_array_equal(labels, masks_written[0])
    segments = pandas.read_csv(folder / "segments.csv")
    claimed = (masks_written[0] == 1).sum() if head == "multilabel" else inside.sum()
    assert segments["area"].sum() == claimed
    sheet = np.asarray(Image.open(run / "sheet.png").convert("RGB"))
    found = sum(int((sheet == colour).all(axis=-1).sum()) for colour in {ABSENT, NO_CLASS[0]})
    assert found >= 3 * (~inside).sum()  # in the prediction and two measures
    grey = np.asarray(Image.open(folder / "overlay_uncertainty.png"))
    assert len(np.unique(grey[~inside], axis=0)) == 1
