"""`--format` of a whole run: what is asked for is there, listed, joined, and made again by a resume."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pandas
import pytest
import rasterio
import tifffile
import zarr
from plain import random_bank
from processes import photographs
from pycocotools.coco import COCO
from small_networks import network_of

from segment.batch_norm.network import bn_network_of
from segment.errors import MissingExtra, WrongUse
from segment.files.exports.formats import FORMATS, checked
from segment.files.exports.volumes import PlacedImage
from segment.files.writing import write_png
from segment.images.read import read_image, read_label
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.report.run_files import exported_files

NETWORK = network_of()
BANK = random_bank(bn_network_of(NETWORK))
IMAGE_FORMATS = ("npz", "tif", "zarr", "csv", "parquet", "coco", "labelstudio", "geojson")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_every_format_of_a_run_is_whole_listed_and_equal(tmp_path: Path) -> None:
    images = photographs(tmp_path / "images", 3, 40, 64)
    run = tmp_path / "run"
    plan = PredictPlan(formats=IMAGE_FORMATS, border=2)
    predict(NETWORK, str(images), BANK, run, plan)
    lines = [json.loads(line) for line in (run / "manifest.jsonl").read_text().splitlines()]
    record = json.loads((run / "run.json").read_text())
    joined = {"segments.csv", "images.csv", "segments.parquet", "images.parquet"}
    assert set(record["files"]) == {*joined, "coco.json", "labelstudio.json", "labelstudio.xml"}
    coco, segments = COCO(str(run / "coco.json")), pandas.read_csv(run / "segments.csv")
    table = pandas.read_parquet(run / "images.parquet").set_index("image")
    for number, line in enumerate(lines, start=1):
        folder, maps = run / line["id"], np.load(run / line["id"] / "maps.npz")
        assert set(line["files"]) >= {f"{line['id']}/maps.zarr/zarr.json", f"{line['id']}/variance.tif"}
        np.testing.assert_array_equal(tifffile.imread(folder / "variance.tif"), maps["variance"])
        group = zarr.open_group(folder / "maps.zarr", mode="r")
        np.testing.assert_array_equal(np.asarray(group["variance"][:]), maps["variance"])  # type: ignore[index]
        painted = np.full((40, 64), -1)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[number])):
            painted[coco.annToMask(annotation) > 0] = annotation["category_id"] - 1
        np.testing.assert_array_equal(painted, maps["prediction"])
        of_image = segments[segments["image"] == int(line["id"])]
        assert of_image["area"].sum() == 40 * 64
        accuracy = (of_image["expected_accuracy"] * of_image["area"]).sum() / (40 * 64)
        assert 0.25 <= accuracy <= 1
        assert table.loc[line["id"], "mean_variance"] == pytest.approx(np.nanmean(maps["variance"]), rel=1e-6)
        assert table.loc[line["id"], "expected_accuracy"] == line["expected"]["expected_accuracy"]
        polygons = json.loads((folder / "segments.geojson").read_text())["features"]
        assert len(polygons) == len(of_image)
    assert len(json.loads((run / "labelstudio.json").read_text())) == 3
    assert all(pandas.api.types.is_numeric_dtype(table[name]) for name in table.columns.drop("source"))

    before = {path: path.read_bytes() for path in run.rglob("segments.csv")}
    (run / "001" / "variance.tif").unlink()  # the image is done again
    (run / "segments.csv").unlink()
    predict(NETWORK, str(images), BANK, run, plan, resume=True)
    assert {path: path.read_bytes() for path in run.rglob("segments.csv")} == before
    assert not list(run.rglob(".*.part*"))


def test_a_geotiff_comes_out_where_it_came_in(tmp_path: Path) -> None:
    (image,) = photographs(tmp_path / "images", 1, 40, 64).iterdir()
    pixels = read_image(image).transpose(2, 0, 1).clip(1)
    pixels[:, :7] = 0  # nodata
    image.unlink()
    place = rasterio.Affine(2.0, 0, 400_000, 0, -2.0, 5_000_000)
    with rasterio.open(
        tmp_path / "images" / "tile.tif",
        "w",
        driver="GTiff",
        height=40,
        width=64,
        count=3,
        dtype="uint8",
        crs="EPSG:32632",
        transform=place,
        nodata=0,
        photometric="RGB",
    ) as raster:
        raster.write(pixels)
    plan = PredictPlan(formats=("tif", "geojson", "png", "npz"))
    assert predict(NETWORK, str(tmp_path / "images"), BANK, tmp_path / "run", plan).done == 1
    folder = tmp_path / "run" / "tile"
    with rasterio.open(folder / "variance.tif") as raster:
        assert (raster.crs.to_epsg(), raster.transform) == (32632, place)
        values = raster.read(1)
    assert np.isnan(values[:7]).all()
    np.testing.assert_array_equal(values, np.load(folder / "maps.npz")["variance"])
    with rasterio.open(folder / "prediction.tif") as raster:
        assert raster.nodata == 255
        mask = raster.read(1)
    assert (mask[:7] == 255).all()
    assert mask[7:].max() < 4
    np.testing.assert_array_equal(mask, read_label(folder / "prediction.png"))
    collection = json.loads((folder / "segments.geojson").read_text())
    assert collection["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    assert sum(each["properties"]["area_pixels"] for each in collection["features"]) == 33 * 64
    x, y = np.array(collection["features"][0]["geometry"]["coordinates"][0]).T
    assert 400_000 <= x.min() <= x.max() <= 400_128
    assert 5_000_000 - 80 <= y.min() <= y.max() <= 5_000_000


def test_a_volume_and_a_video_come_out_as_such(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([1.5, 2.0, 3.0, 1.0])
    (tmp_path / "in").mkdir()
    voxels = rng.integers(0, 255, (64, 40, 3)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "in" / "scan.nii.gz")
    writer = cv2.VideoWriter(str(tmp_path / "in" / "film.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (64, 40))
    for shade in (40, 120, 200):
        writer.write(np.full((40, 64, 3), shade, np.uint8))
    writer.release()
    plan = PredictPlan(formats=("nii", "video"))
    assert plan.formats == ("png", "npz", "nii", "video"), "what they are made from is written too"
    for name, source in (("v", "film.mp4"), ("n", "scan.nii.gz")):
        summary = predict(NETWORK, str(tmp_path / "in" / source), BANK, tmp_path / name, plan)
        assert (summary.done, dict(summary.failed)) == (3, {})
    record = json.loads((tmp_path / "v" / "run.json").read_text())
    assert set(record["files"]) >= {"film/overlay.mp4", "film/overlay_uncertainty.mp4", "film/variance.mp4"}
    capture = cv2.VideoCapture(str(tmp_path / "v" / "film" / "overlay.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.0)
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    capture.release()
    volume = nibabel.load(tmp_path / "n" / "scan" / "prediction.nii.gz")
    assert volume.shape == (64, 40, 3)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(volume.affine, affine)  # type: ignore[attr-defined]
    ids = [json.loads(line)["id"] for line in (tmp_path / "n" / "manifest.jsonl").read_text().splitlines()]
    for k, id in enumerate(sorted(ids)):
        mask = read_label(tmp_path / "n" / id / "prediction.png")
        np.testing.assert_array_equal(np.asarray(volume.dataobj)[..., k].T, mask)  # type: ignore[attr-defined]


@pytest.mark.parametrize("listed", [False, True])
def test_images_of_a_folder_become_a_video_in_the_order_of_their_numbers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    listed: bool,  # noqa: FBT001
) -> None:
    kept: list[list[str]] = []

    def noted(folder: Path, parts: Sequence[PlacedImage], names: Sequence[str]) -> list[Path]:
        kept.append([part.id for part in parts])
        return []

    monkeypatch.setattr(exported_files, "write_videos", noted)
    names = ["f10", "f2", "f1"]
    for name in names:
        write_png(tmp_path / "in" / f"{name}.png", np.zeros((32, 32, 3), np.uint8))
    (tmp_path / "in.txt").write_text("".join(f"in/{name}.png\n" for name in names))
    plan = PredictPlan(formats=("video",))
    predict(NETWORK, str(tmp_path / ("in.txt" if listed else "in")), BANK, tmp_path / "run", plan)
    assert kept == [[f"in/{name}" for name in names] if listed else ["f1", "f2", "f10"]]


def test_the_documentation_lists_every_format_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text()
    for name, entry in FORMATS.items():
        needs = f"`{entry.extra}`" if entry.extra else "" if not entry.implies else f"writes {entry.implies[0]} too"
        extra = f"`{entry.extra}`, writes {entry.implies[0]} too" if entry.extra and entry.implies else needs
        assert f"| `{name}` | {entry.what} | {extra} |".replace("|  |", "| |") in text, name


def test_a_format_that_needs_an_extra_names_it_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, entry in FORMATS.items():
        if entry.library:
            monkeypatch.setitem(sys.modules, entry.library, None)
            with pytest.raises(MissingExtra, match=rf"--format {name} need.*mcbn-segment\[{entry.extra}\]"):
                PredictPlan(formats=(name,))
    with pytest.raises(WrongUse, match="Near: 'geojson'"):
        checked(["geojsn"])
    with pytest.raises(WrongUse, match="No format is named"):
        replace(PredictPlan(), formats=())
