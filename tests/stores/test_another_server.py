"""A run on a server that speaks S3 which nobody here wrote, and that is not moto: the bytes of a run here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from compared_runs import without_places
from console import fitted, photographs, segment, training

from benchmarks.rclone import rclone_s3
from segment.images import windowed
from segment.images.find import Source
from segment.images.read import read_source
from segment.images.specs import InputSpec
from segment.stores.requests import fetch, put


def test_a_run_has_the_bytes_of_one_here(tmp_path: Path) -> None:
    photos, store = photographs(tmp_path / "photos", 4), tmp_path / "store"
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "train"))
    (store / "bucket").mkdir(parents=True)
    photos.rename(store / "bucket" / "photos")
    command = ["predict", "scenes", "--bank", bank, "--draws", 2, "--format", "npz,png"]
    with rclone_s3(store):
        there = segment(*command, "s3://bucket/photos", "-o", "s3://bucket/run")
        refused = segment(*command, "s3://bucket/photos", "-o", "s3://bucket/run")
        again = segment(*command, "s3://bucket/photos", "-o", "s3://bucket/run", "--resume")
    here = segment(*command, store / "bucket" / "photos", "-o", tmp_path / "run")
    assert [ended.code for ended in (there, refused, again, here)] == [0, 2, 0, 0], there.err
    assert without_places(tmp_path / "run") == without_places(store / "bucket" / "run")


def test_a_file_that_is_brought_in_parts_is_whole(tmp_path: Path) -> None:
    (tmp_path / "store" / "bucket").mkdir(parents=True)
    sent, brought = tmp_path / "sent", tmp_path / "brought"
    sent.write_bytes(np.random.default_rng(0).bytes(60 * 2**20))  # sent in one part, brought in two
    with rclone_s3(tmp_path / "store"):
        put([(sent, Path("s3://bucket/large.bin"))])
        fetch([(Path("s3://bucket/large.bin"), brought)])
    assert brought.read_bytes() == sent.read_bytes()


def test_a_raster_is_read_by_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "store" / "bucket" / "large.tif"
    path.parent.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(1, 255, (3, 700, 600)).astype(np.uint8)
    profile = {"driver": "GTiff", "height": 700, "width": 600, "count": 3, "dtype": "uint8"}
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(
        path, "w", crs="EPSG:32632", transform=place, tiled=True, blockxsize=256, blockysize=256, **profile
    ) as file:
        file.write(pixels)
    monkeypatch.setattr(windowed, "LARGEST", 1000)
    with rclone_s3(tmp_path / "store"):
        there = read_source(Source("large", Path("s3://bucket/large.tif")), InputSpec()).pixels
        np.testing.assert_array_equal(there[100:300, 50:400], pixels[:, 100:300, 50:400].transpose(1, 2, 0))
