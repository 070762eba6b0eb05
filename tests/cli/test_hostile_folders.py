"""Folders that nobody would wish on a run: every odd file is named, every other image done, nothing lies elsewhere."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console import DRAWS, NETWORKS, Ended, contents, fitted, lines, photographs, segment, training
from PIL import Image

import segment as library
from segment.images.isolation import isolated

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and names of any bytes")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photos", 3, (32, 48))


def predicted(photos: Path, bank: Path, run: Path, *more: object) -> Ended:
    words = ("--bank", bank, "--draws", 2, "--precision", "fp32", "-o", run)
    return segment("predict", "scenes", photos, *words, *more)


def statuses(run: Path) -> dict[str, str]:
    return {name: line["status"] for name, line in lines(run).items()}


def test_odd_files_fail_by_name_and_the_other_images_are_as_ever(tmp_path: Path, photos: Path, bank: Path) -> None:
    assert predicted(photos, bank, tmp_path / "plain").code == 0
    os.mkfifo(photos / "pipe.png")
    (photos / "zero.png").symlink_to("/dev/zero")
    (photos / "empty.jpg").touch()
    (photos / "gone.png").symlink_to("nowhere.png")
    (photos / "half.png").write_bytes((photos / "a.png").read_bytes()[:200])
    Image.new("RGB", (9000, 9000)).save(photos / "large.png")
    shutil.copy(photos / "b.png", photos / "new\nline\u202e.png")
    outside = photographs(tmp_path / "outside", 1, (32, 48))
    (photos / "link").symlink_to(outside)
    before = {path.name for path in tmp_path.iterdir()}
    for more in ((), ("--isolate",)):
        run = photos / f"run{len(more)}"  # within the source
        ended = predicted(photos, bank, run, "--max-pixels", 10_000, *more)
        assert ended.code == 1
        failed = {name for name, status in statuses(run).items() if status == "failed"}
        assert failed == {"pipe", "zero", "empty", "gone", "half", "large"}
        assert set(statuses(run)) - failed == {"a", "b", "c", "new_line_", "link/a"}
        assert "more than the 10000 pixels that --max-pixels allows" in lines(run)["large"]["error"]
        assert "6 of 11 images failed" in ended.error
        plain = {name: data for name, data in contents(tmp_path / "plain").items() if "/" in name}
        assert plain.items() <= contents(run).items()
        again = predicted(photos, bank, run, "--max-pixels", 10_000, *more, "--resume")
        assert again.code == 1
        assert set(statuses(run)) == {*failed, "a", "b", "c", "new_line_", "link/a"}, "a run is no image"
    assert {path.name for path in tmp_path.iterdir()} == before
    assert {path.name for path in outside.iterdir()} == {"a.png"}


def test_a_link_from_the_source_into_a_run_brings_none_of_its_pictures(
    tmp_path: Path, photos: Path, bank: Path
) -> None:
    run = tmp_path / "run"
    assert predicted(photos, bank, run).code == 0
    (photos / "whole").symlink_to(run)
    (photos / "image").symlink_to(run / "a")
    again = predicted(photos, bank, tmp_path / "again")
    assert again.code == 0
    assert "files of runs below" in again.err
    assert set(statuses(tmp_path / "again")) == {"a", "b", "c"}


def test_a_link_in_a_run_that_leads_out_is_refused_and_nothing_is_written_there(
    tmp_path: Path, photos: Path, bank: Path
) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run.mkdir()
    (run / "b").symlink_to(elsewhere)
    ended = predicted(photos, bank, run)
    assert ended.code == 2
    assert "leads out of" in ended.error
    assert not list(elsewhere.iterdir())
    (run / "b").unlink()
    assert predicted(photos, bank, run, "--resume").code == 0


def test_a_file_that_may_not_be_read_half_way_fails_alone(
    tmp_path: Path, photos: Path, bank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def denied(path: Path, *arguments: Any, **named: Any) -> Any:
        if path.name == "b.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", denied)
        ended = predicted(photos, bank, tmp_path / "run")
    assert ended.code == 1
    assert statuses(tmp_path / "run") == {"a": "done", "b": "failed", "c": "done"}
    assert "Permission denied" in lines(tmp_path / "run")["b"]["error"]
    assert predicted(photos, bank, tmp_path / "run", "--resume").code == 0
    assert statuses(tmp_path / "run")["b"] == "done"


def test_a_folder_that_changes_while_it_is_read_loses_no_other_image(tmp_path: Path, photos: Path, bank: Path) -> None:
    assert predicted(photos, bank, tmp_path / "plain").code == 0
    shutil.copytree(photos, tmp_path / "kept")
    for name in "defg":
        shutil.copy(photos / "a.png", photos / f"{name}.png")

    def change(stage: str, done: int, total: int, draws: int = 0) -> None:
        if done == 1 and stage == "predicting":
            (photos / "f.png").unlink()
            (photos / "g.png").write_bytes(b"half an im")
            shutil.copy(photos / "a.png", photos / "new.png")

    plan = library.PredictPlan(draws=2, precision="fp32")
    network = library.load_network("scenes")
    summary = library.predict(network, photos, library.load_bank(bank), tmp_path / "run", plan, progress=change)
    assert set(summary.failed) == {"f", "g"}
    assert summary.done == 5
    plain = {name: data for name, data in contents(tmp_path / "plain").items() if "/" in name}
    assert plain.items() <= contents(tmp_path / "run").items()
    again = library.predict(network, photos, library.load_bank(bank), tmp_path / "run", plan, resume=True)
    assert set(again.failed) == {"g"}, "what is gone is not asked for, what is new is done"
    assert statuses(tmp_path / "run")["new"] == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="no limit on address space")
def test_an_image_that_fills_the_decoders_memory_fails_alone(tmp_path: Path, photos: Path, bank: Path) -> None:
    Image.new("RGB", (13_000, 13_000)).save(photos / "bomb.png")
    network, plan = library.load_network("scenes"), library.PredictPlan(draws=2, precision="fp32")
    with isolated(memory=10**9):
        summary = library.predict(network, photos, library.load_bank(bank), tmp_path / "run", plan)
    assert set(summary.failed) == {"bomb"}
    assert "memory" in summary.failed["bomb"]
    assert summary.done == 3


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "folder_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    return "py:folder_networks:plain"


def test_neither_tiles_nor_the_order_of_files_changes_a_map_by_more_than_1e_4(tmp_path: Path, own_network: str) -> None:
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "train"), own_network, "--size", "32x32")
    photos = photographs(tmp_path / "photos", 3, (280, 560))
    (photos / "list.txt").write_text("c.png\na.png\nb.png\n")
    words = ("--bank", bank, "--draws", DRAWS, "--precision", "fp32", "--format", "npz")
    for run, source, tile in (("off", photos, "off"), ("256", photos / "list.txt", 256), ("512", photos, 512)):
        assert segment("predict", own_network, source, *words, "--tile", tile, "-o", run).code == 0
    for run in ("256", "512"):
        for name in "abc":
            with np.load(Path("off", name, "maps.npz")) as whole, np.load(Path(run, name, "maps.npz")) as maps:
                assert set(maps.files) == set(whole.files)
                assert (maps["prediction"] != whole["prediction"]).mean() < 1e-4
                for key in set(maps.files) - {"prediction"}:
                    np.testing.assert_allclose(maps[key], whole[key], atol=1e-4, rtol=0)
