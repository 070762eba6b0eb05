"""Banks, scores, sweeps, reports and rasters on an object store, and the processes of Ray that read and write it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from console import contents, fitted, photographs, segment, training
from labelled_scenes import written
from s3_server import S3Server
from test_runs_on_s3 import same, uploaded

from segment.errors import StoreUnreachable
from segment.files.banks.bank_file import load_bank
from segment.files.runs.manifest import MANIFEST, SHARDS, Entry, Lines
from segment.files.runs.shards import begin_shards, merge_shards
from segment.images import windowed
from segment.images.find import Source
from segment.images.read import read_source
from segment.images.specs import InputSpec
from segment.report.run_files.saved_run import load_run
from segment.scenes.scene import TEST
from segment.stores import requests
from segment.stores.ranges import RangedFile


def test_a_bank_recorded_from_and_to_a_store_has_the_bits_of_one_here(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = training(tmp_path / "train")
    here = fitted(tmp_path / "bank.safetensors", images)
    url = uploaded(server, images, "train")
    monkeypatch.setenv("SEGMENT_CACHE", str(tmp_path / "cache"))
    command = ("fit", "scenes", "--images", url, "--batch", 2, "--draws", 4, "-o")
    ended = segment(*command, "s3://bucket/bank.safetensors")
    assert ended.code == 0, ended.err
    there = load_bank("s3://bucket/bank.safetensors")
    ours = load_bank(here)
    assert there.mean.keys() == ours.mean.keys()
    assert all(torch.equal(there.mean[layer], ours.mean[layer]) for layer in ours.mean)
    assert all(torch.equal(there.var[layer], ours.var[layer]) for layer in ours.var)
    assert there.provenance["images_sha256"] == ours.provenance["images_sha256"]
    assert [name for name in server.files("bucket") if "partial" in name] == []
    (first,) = list(images.glob("*.png"))[:1]
    server.put("bucket", f"train/{first.name}", (images / sorted(images.iterdir())[1].name).read_bytes())
    assert segment(*command, "s3://bucket/other.safetensors").code == 0  # the cache knows the change
    assert load_bank("s3://bucket/other.safetensors").provenance["images_sha256"] != ours.provenance["images_sha256"]


def test_scores_of_a_store_are_those_of_here_and_go_on(server: S3Server, tmp_path: Path, bank: Path) -> None:
    written(tmp_path / "data", TEST[:3])
    url = uploaded(server, tmp_path / "data", "data")
    options = ("--bank", bank, "--methods", "deterministic,mcbn", "--draws", 2, "-o")
    of = ("evaluate", "scenes", "--images", f"{url}/images", "--labels", f"{url}/labels", *options)
    here = segment(
        "evaluate", "scenes", "--images", tmp_path / "data/images", "--labels", tmp_path / "data/labels", *options,
        tmp_path / "scores",
    )  # fmt: skip
    there = segment(*of, "s3://bucket/scores")
    assert (here.code, there.code) == (0, 0), there.err
    files, local = server.files("bucket", "scores/"), contents(tmp_path / "scores")
    assert set(files) == set(local)
    assert files["per_image.csv"] == local["per_image.csv"]
    assert without_seconds(files["scores.json"]) == without_seconds(local["scores.json"])
    again = segment(*of, "s3://bucket/scores", "--resume")
    assert again.code == 0
    assert without_seconds(server.files("bucket", "scores/")["scores.json"]) == without_seconds(files["scores.json"])
    selected = segment("select", "s3://bucket/scores", "--top", 2)
    assert selected.code == 0, selected.err
    assert "s1" in server.files("bucket", "scores/")["select.csv"].decode()


def without_seconds(data: bytes) -> Any:
    content = json.loads(data)
    return {name: of["scores"] for name, of in content["methods"].items()}


def test_a_sweep_on_a_store_goes_on_with_the_banks_that_are_there(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMENT_CACHE", str(tmp_path / "cache"))
    written(tmp_path / "data", TEST[:2])
    train = training(tmp_path / "train")
    command = (
        "sweep", "scenes", "--images", tmp_path / "data/images", "--labels", tmp_path / "data/labels", "--train", train,
        "--batches", 2, "--draws", "1,2", "--seeds", 0, "--no-plots", "-o",
    )  # fmt: skip
    assert segment(*command, tmp_path / "sweep").code == 0
    ended = segment(*command, "s3://bucket/sweep")
    assert ended.code == 0, ended.err
    files = server.files("bucket", "sweep/")
    assert set(files) == set(contents(tmp_path / "sweep"))
    assert [name for name in files if name.startswith("banks/")]
    begun = len(server.requests)
    assert segment(*command, "s3://bucket/sweep", "--resume").code == 0
    assert not [path for method, path in server.requests[begun:] if method == "PUT" and "/banks/" in path]


def test_a_report_and_python_read_a_run_on_a_store(server: S3Server, tmp_path: Path, bank: Path) -> None:
    url = uploaded(server, photographs(tmp_path / "photos", 2), "shown")
    assert segment("predict", "scenes", url, "--bank", bank, "-o", "s3://bucket/shown-run").code == 0
    saved = load_run("s3://bucket/shown-run")
    assert list(saved) == ["a", "b"]
    assert saved["a"].maps["variance"].shape == (64, 96)
    ended = segment("report", "s3://bucket/shown-run", "-o", "s3://bucket/report.html")
    assert ended.code == 0, ended.err
    assert server.files("bucket")["report.html"].startswith(b"<!DOCTYPE html>")


@pytest.mark.parametrize("command", [("tune", "scenes", "--train", "a", "--images", "b"), ("demo",)])
def test_a_command_that_writes_a_folder_here_says_so(command: tuple[str, ...]) -> None:
    ended = segment(*command, "-o", "s3://bucket/folder")
    assert ended.code == 2
    assert "--output s3://bucket/folder: this command writes to a folder here" in ended.error


def test_a_raster_is_read_by_ranges_and_gives_the_pixels_of_the_file(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (3, 1500, 1400)).astype(np.uint8)
    pixels[:, :100, :90] = 0
    path = tmp_path / "large.tif"
    shape = {"driver": "GTiff", "height": 1500, "width": 1400, "count": 3, "dtype": "uint8", "nodata": 0}
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(
        path, "w", crs="EPSG:32632", transform=place, tiled=True, blockxsize=256, blockysize=256, **shape
    ) as file:
        file.write(pixels)
    server.put("bucket", "rasters/large.tif", path.read_bytes())
    spec = InputSpec()
    monkeypatch.setattr(windowed, "LARGEST", 1000)
    here = read_source(Source("large", path), spec)
    begun = len(server.requests)
    there = read_source(Source("large", Path("s3://bucket/rasters/large.tif")), spec)
    np.testing.assert_array_equal(there.pixels[200:300, 100:400], here.pixels[200:300, 100:400])
    np.testing.assert_array_equal(there.pixels[:], here.pixels[:])
    assert there.valid is not None
    assert here.valid is not None
    np.testing.assert_array_equal(there.valid[:], here.valid[:])
    assert len([1 for method, _ in server.requests[begun:] if method == "GET"]) > 3  # parts of it


def test_a_store_that_fails_while_a_raster_is_read_is_an_error_of_the_store(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "PATIENCE", 0.1)
    monkeypatch.setattr(windowed, "LARGEST", 1000)
    path = tmp_path / "failing.tif"
    shape = {"driver": "GTiff", "height": 300, "width": 200, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        path, "w", crs="EPSG:32632", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **shape
    ) as file:
        file.write(np.ones((3, 300, 200), np.uint8))
    server.put("bucket", "rasters/failing.tif", path.read_bytes())
    image = read_source(Source("failing", Path("s3://bucket/rasters/failing.tif")), InputSpec()).pixels
    failing = RangedFile._fetch_range

    def fetch(self: RangedFile, start: int, end: int) -> bytes:
        raise StoreUnreachable("s3://bucket/rasters/failing.tif cannot be reached.")

    monkeypatch.setattr(RangedFile, "_fetch_range", fetch)
    with pytest.raises(StoreUnreachable, match="cannot be reached"):
        image[0:100, 0:100]
    with pytest.raises(StoreUnreachable, match="cannot be reached"):
        read_source(Source("failing", Path("s3://bucket/rasters/failing.tif")), InputSpec())
    monkeypatch.setattr(RangedFile, "_fetch_range", failing)
    assert (image[0:100, 0:100] == 1).all()


def test_the_last_line_of_a_writer_counts_and_done_counts_more_between_writers(tmp_path: Path) -> None:
    begin_shards(tmp_path)
    (tmp_path / MANIFEST).touch()
    shards = tmp_path / SHARDS
    for name, id, status in (
        ("one-000001", "a", "done"),
        ("one-000002", "a", "failed"),
        ("one-000001", "b", "done"),
        ("two-000001", "b", "failed"),
    ):
        Lines(shards / f"{name}.jsonl").add(Entry(id=id, source=id, status=status, error=None))  # type: ignore[arg-type]
    merged = merge_shards(tmp_path, ["a", "b"])
    assert merged is not None
    assert {id: line["status"] for id, line in merged.items()} == {"a": "failed", "b": "done"}


def test_processes_of_ray_read_and_write_the_store_themselves(
    server: S3Server, ray: Any, tmp_path: Path, bank: Path
) -> None:
    photos = photographs(tmp_path / "photos", 8)
    (photos / "broken.png").write_bytes(b"not a png")
    url = uploaded(server, photos, "spread")
    command = ("predict", "scenes", url, "--bank", bank, "--draws", 2, "--format", "npz,csv", "-o")
    assert segment(*command, tmp_path / "run").code == 1
    server.failing = 0.05
    try:
        ended = segment(*command, "s3://bucket/spread-run", "--runner", "ray", "--actors", 2)
    finally:
        server.failing = 0.0
    assert ended.code == 1, ended.err
    same(server, tmp_path / "run", "spread-run")
    assert len({path for method, path in server.requests if method == "PUT" and "/spread-run/.shards/" in path}) > 1
    assert os.environ["AWS_ENDPOINT_URL"] == server.endpoint
