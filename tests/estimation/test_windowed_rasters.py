"""A raster that is read a window at a time has the pixels, the valid part and the maps of the raster in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from plain import calibrated, seeded
from rasterio.enums import Resampling
from small_networks import Small
from torch import nn

import segment
from segment.errors import ImageUnreadable
from segment.images import read, windowed
from segment.images.find import Source
from segment.images.specs import InputSpec
from segment.images.windowed import Bits, WindowedImage
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import Network, load_network

SPEC = InputSpec(channels=("red", "nir", "green", "blue"), white=10000.0, stride=4)
SIZE = (300, 280)


class Bands(Small):
    """Four bands in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, padding=1, stride=2)


@pytest.fixture
def network() -> Network:
    network = load_network(calibrated(seeded(Bands), (64, 64), channels=4))
    return replace(network, card=replace(network.card, input=SPEC, assumed=False))


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    path = tmp_path / "images" / "scene.tif"
    path.parent.mkdir()
    pixels: NDArray[np.uint16] = np.random.default_rng(0).integers(1, 10000, (4, *SIZE)).astype(np.uint16)
    pixels[:, :20, :50] = 0
    shape = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 4, "dtype": "uint16", "nodata": 0}
    tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(path, "w", crs="EPSG:32632", transform=place, **shape, **tiled) as file:
        file.write(pixels)
        file.descriptions = ("blue", "green", "red", "nir")
        file.build_overviews([2, 4], Resampling.average)
    return path


def test_windows_are_the_pixels_of_the_whole(raster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read.read_source(Source("a", raster), SPEC)
    monkeypatch.setattr(windowed, "LARGEST", 1000)
    image = read.read_source(Source("a", raster), SPEC)
    assert isinstance(image.pixels, WindowedImage)
    assert image.pixels.shape == whole.pixels.shape
    np.testing.assert_array_equal(image.pixels[:], whole.pixels)
    np.testing.assert_array_equal(image.pixels[10:200, 30:70], whole.pixels[10:200, 30:70])
    assert image.valid is not None
    assert whole.valid is not None
    np.testing.assert_array_equal(image.valid[:], whole.valid)
    np.testing.assert_array_equal(image.valid[10:30, 20:70], whole.valid[10:30, 20:70])
    small, _ = image.pixels.small(100)
    assert small.shape == (100, 94, 4)


@pytest.mark.parametrize("kind", ["grey.tif", "palette.png", "colours.png", "alpha.png", "bits.png", "mask.gif"])
def test_a_region_mask_of_a_raster_in_windows_is_the_one_in_memory(
    kind: str, raster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inside = (rows - 60) ** 2 + (columns - 60) ** 2 < 90**2
    grey = Image.fromarray((inside * 7).astype(np.uint8))
    if kind == "palette.png":
        grey.putpalette([0, 0, 0] * 256)  # by index, not by colour
    elif kind != "grey.tif":
        modes = {"colours.png": "RGB", "alpha.png": "LA", "bits.png": "1", "mask.gif": "P"}
        grey = grey.point(lambda value: 255 * bool(value)).convert(modes[kind])
    path = tmp_path / kind
    grey.save(path)
    whole = read.read_source(Source("a", raster, mask=path), SPEC)
    assert whole.valid is not None
    assert 0 < whole.valid[:].sum() < inside.sum(), "some of the region holds no data"
    monkeypatch.setattr(windowed, "LARGEST", 1000)
    if kind != "mask.gif":
        monkeypatch.setattr(read, "_mask_of", None)  # never whole
    image = read.read_source(Source("a", raster, mask=path), SPEC)
    assert isinstance(image.valid, Bits)
    np.testing.assert_array_equal(image.valid[:], whole.valid)
    for size, message in (((9, 9), "is 9x9, its image"), (SIZE[::-1], "0 everywhere")):
        wrong = tmp_path / f"wrong_{kind}"
        Image.new("L", size).save(wrong)
        with pytest.raises(ImageUnreadable, match=message):
            read.read_source(Source("a", raster, mask=wrong), SPEC)


def test_a_run_by_windows_is_the_run_in_memory(
    raster: Path, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patches = np.random.default_rng(1).integers(1, 10000, (4, 64, 64, 4)).astype(np.uint16)
    bank = segment.fit_bank(network, patches, batch=2, draws=2)
    plan = PredictPlan(precision="fp32", tile=160)
    segment.predict(network, raster.parent, bank, tmp_path / "whole", plan)
    monkeypatch.setattr(windowed, "LARGEST", 1000)
    summary = segment.predict(network, raster.parent, bank, tmp_path / "windows", plan)
    assert (summary.done, len(summary.failed)) == (1, 0)
    whole, windows = (np.load(tmp_path / name / "scene" / "maps.npz") for name in ("whole", "windows"))
    for name in whole.files:
        np.testing.assert_array_equal(windows[name], whole[name], err_msg=name)
    record = json.loads((tmp_path / "windows" / "run.json").read_text())
    assert record["display"]["bands"] == [1, 2, 3]
