"""Arrays that are not in memory read as those that are, and leave no file behind."""

from __future__ import annotations

import gc
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import photographs

from segment.axes import Plane
from segment.errors import SegmentError, WrongUse
from segment.files.lazy_arrays import ComputedRows, FileArray, blocks
from segment.files.runs.map_summary import summary
from segment.files.writing import write_map_png, write_npz, write_palette_png, write_png
from segment.images.find import Source
from segment.images.prepare import Normalised, normalise
from segment.images.read import read_image, size_of
from segment.images.specs import InputSpec
from segment.jobs.fit import fit_bank
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network
from segment.pictures.heatmaps import beside, heatmap, legend_beside, scale_of
from segment.pictures.overlays import (
    class_overlay_rows,
    uncertainty_overlay,
    uncertainty_overlay_rows,
)
from segment.pictures.palettes import palette
from segment.regions.components import regions_of
from segment.scores.functional.image_level import aggregate


def test_what_is_written_window_by_window_is_read_back(tmp_path: Path) -> None:
    expected = np.random.default_rng(0).random((3, 300, 70)).astype(np.float32)
    written = FileArray(tmp_path, expected.shape, np.float32)
    for rows in (slice(0, 100), slice(100, 300)):
        for columns in (slice(0, 33), slice(33, 70)):
            written[..., rows, columns] = expected[..., rows, columns]
    np.testing.assert_array_equal(written[..., 20:280, :], expected[..., 20:280, :])
    np.testing.assert_array_equal(written[..., 290:999, 3:9], expected[..., 290:999, 3:9])
    np.testing.assert_array_equal(written[2][10:20], expected[2, 10:20])
    np.testing.assert_array_equal(np.concatenate(list(blocks(written[1]))), expected[1])


def test_an_array_in_a_file_leaves_nothing_in_its_folder(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    array = FileArray(tmp_path, (4, 5), np.uint8)
    array[..., 1:3, 2:4] = np.ones((2, 2))
    assert int(array[0:4].sum()) == 4
    plane = FileArray(tmp_path, (2, 4, 5), np.uint8)[1]  # a plane keeps its file
    assert int(plane[0:4].sum()) == 0
    del array, plane
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_files_of_an_array_that_is_not_in_memory_are_those_of_one_that_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    values, labels = rng.random((600, 50)).astype(np.float32), rng.integers(0, 9, (600, 50)).astype(np.uint8)
    p = rng.random((3, 600, 50)).astype(np.float32)
    kept = {name: _kept(tmp_path, array) for name, array in (("v", values), ("l", labels), ("p", p))}
    both: dict[str, tuple[Plane, ...]] = {"memory": (values, labels, p), "file": (kept["v"], kept["l"], kept["p"])}
    for folder, (v, k, q) in both.items():
        write_map_png(tmp_path / folder / "v.png", v, measure="variance", unit="", high=1.0)
        write_palette_png(tmp_path / folder / "l.png", k, palette(9))
        write_png(tmp_path / folder / "grey.png", k)
        write_npz(tmp_path / folder / "maps.npz", {"variance": v, "prediction": k, "probability": q})
        (tmp_path / folder / "summary").write_text(str(summary(v)))
    for path in (tmp_path / "memory").iterdir():
        assert path.read_bytes() == (tmp_path / "file" / path.name).read_bytes(), path.name


def _kept(folder: Path, array: np.ndarray[Any, Any]) -> FileArray:
    windowed = FileArray(folder, array.shape, array.dtype)
    windowed[..., :, :] = array
    return windowed


@given(st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=300), st.integers(0, 3))
def test_a_summary_has_the_mean_and_percentile_that_numpy_gives(values: list[float], absent: int) -> None:
    array = np.array([values], np.float32)
    numbers = summary(np.array([[*values, *([math.nan] * absent)]], np.float32))
    scale = float(np.abs(array).max())
    assert numbers["mean"] == pytest.approx(array.mean(dtype=np.float64), rel=1e-9, abs=1e-9 * scale)
    assert numbers["p95"] == pytest.approx(np.percentile(array.astype(np.float64), 95), rel=1e-9, abs=1e-9 * scale)


def test_small_values_keep_their_order_and_are_those_of_an_evaluation() -> None:
    values = np.random.default_rng(0).exponential(size=(64, 64)).astype(np.float32)
    maps = [values * np.float32(scale) for scale in (4e-9, 5e-9, 1.5e-7)]
    numbers = [summary(each)["p95"] for each in maps]
    assert numbers == sorted(set(numbers))
    for each, number in zip(maps, numbers, strict=True):
        assert number == aggregate(each, np.ones(each.shape, bool), None)[1]


def test_an_overlay_made_some_rows_at_a_time_is_the_one_made_at_once() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 255, (1500, 1300, 3)).astype(np.uint8)  # lines are two pixels wide
    labels = np.kron(rng.integers(0, 5, (30, 26)), np.ones((50, 50), int)).astype(np.uint8)
    entropy = rng.random((1500, 1300)).astype(np.float32)
    regions = regions_of(labels)
    how: dict[str, Any] = {"palette": palette(5), "classes": 5}
    whole = class_overlay_rows(image, regions, slice(0, 1500), **how)
    warm = uncertainty_overlay_rows(image, entropy, slice(0, 1500), high=1.0)
    np.testing.assert_array_equal(uncertainty_overlay(image, entropy, high=1.0), warm)
    for rows in (slice(0, 1), slice(48, 53), slice(700, 1500)):
        np.testing.assert_array_equal(class_overlay_rows(image, regions, rows, **how), whole[rows])
        np.testing.assert_array_equal(uncertainty_overlay_rows(image, entropy, rows, high=1.0), warm[rows])


def test_a_picture_made_as_it_is_written_is_the_picture(tmp_path: Path) -> None:
    heat = heatmap(np.random.default_rng(3).random((700, 40)), high=1.0)
    picture = beside(heat, legend_beside(700, 40, scale_of("margin", 4)), slice(0, 700))
    write_png(tmp_path / "made.png", ComputedRows(picture.shape, picture.dtype, lambda rows: picture[rows]))
    np.testing.assert_array_equal(read_image(tmp_path / "made.png"), picture)


@pytest.mark.parametrize("pad", ["reflect", "edge", "zero"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", "grey"])
@pytest.mark.parametrize("size", [(5, 3), (45, 70), (64, 32)])
def test_an_image_normalised_a_window_at_a_time_is_the_normalised_image(
    pad: Any, channels: Any, size: tuple[int, int]
) -> None:
    spec = InputSpec(mean=(0.4,), std=(0.2,), channels=channels, stride=16, pad=pad)
    spec = spec if channels == "grey" else replace(spec, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
    image = np.random.default_rng(4).integers(0, 255, (*size, 3)).astype(np.uint8)
    whole = normalise(image, spec)[None]
    normalised = Normalised(image, spec)
    assert normalised.shape == whole.shape
    assert torch.equal(normalised[..., :, :], whole)
    rows, columns = whole.shape[-2:]
    for window in ((slice(0, 16), slice(0, 16)), (slice(rows // 2, rows), slice(columns // 2, columns))):
        assert torch.equal(normalised[(..., *window)], whole[(..., *window)])


def test_the_size_of_an_image_is_known_before_it_is_decoded(tmp_path: Path) -> None:
    (path,) = photographs(tmp_path / "images", 1, 30, 50).iterdir()
    assert size_of(Source("a", path)) == (30, 50)
    path.write_bytes(path.read_bytes()[:20])
    assert size_of(Source("a", path)) is None
    assert size_of(Source("a", tmp_path / "none.png")) is None


def test_a_disk_that_fills_up_under_the_maps_of_tiles_is_reported_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network("segment:tiny?classes=4")
    images = photographs(tmp_path / "images", 1, 160, 224)
    bank = fit_bank(network, str(images), batch=1, draws=2)
    plan = PredictPlan(tile=128, precision="fp32")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(FileArray, "_seek", full)
        with pytest.raises(WrongUse, match="No space left") as refusal:
            predict(network, str(images), bank, tmp_path / "run", plan)
    assert isinstance(refusal.value, SegmentError)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "manifest.jsonl", "run.json"]
    ended = predict(network, str(images), bank, tmp_path / "run2", plan)
    line = json.loads((ended.folder / "manifest.jsonl").read_text())
    assert line["status"] == "done"
    there = [path for path in (ended.folder / line["id"]).rglob("*") if path.is_file()]
    assert sorted(path.relative_to(ended.folder).as_posix() for path in there) == sorted(line["files"])
