"""What commands say of a run: right numbers of right things, words for every reason, and no word of Python's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from console import DRAWS, photographs, segment

from segment.files.writing import write_png
from segment.report.run_files.saved_run import load_run
from segment.scenes.scene import TEST, scene


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photographs(tmp_path / "photos", 2)


def predict(photos: Path, bank: Path, *more: object, run: str = "run") -> str:
    ended = segment(
        *("predict", "scenes", photos, "--bank", bank, "-o", photos.parent / run, "--precision", "fp32"),
        *("--format", "npz", *more),
    )
    assert ended.code == 0, ended.err
    return " ".join(ended.out.split())


def test_images_that_do_not_reach_the_tolerance_are_counted(photos: Path, bank: Path) -> None:
    text = predict(photos, bank, "--draws", "auto", "--tolerance", 1e-6)
    assert f"In 2 of 2 images all {DRAWS} draws do not reach the tolerance of 1e-06" in text
    found = json.loads(predict(photos, bank, "--draws", "auto", "--tolerance", 1e-6, "--json", run="again"))
    assert found["missed_tolerance"] == 2
    assert "tolerance" not in predict(photos, bank, "--draws", "auto", "--tolerance", 0.5, run="enough")


def test_one_draw_is_one_draw(tmp_path: Path, photos: Path, bank: Path, statistics: Path) -> None:
    assert "1 draw each" in predict(photos, bank, "--draws", 1)
    one = tmp_path / "one.safetensors"
    ended = segment("fit", "scenes", "--images", statistics, "--batch", 2, "--draws", 1, "-o", one)
    assert "1 draw of 14 BN layers" in " ".join(ended.out.split())


def test_the_draws_of_the_whole_bank_are_the_default_on_resume_too(photos: Path, bank: Path) -> None:
    predict(photos, bank)
    predict(photos, bank, "--draws", DRAWS, "--resume")
    predict(photos, bank, "--draws", DRAWS, run="other")
    predict(photos, bank, "--resume", run="other")
    fewer = segment(
        *("predict", "scenes", photos, "--bank", bank, "-o", photos.parent / "run", "--precision", "fp32"),
        *("--format", "png", "--draws", 2, "--heat-max", 1, "--resume"),
    )
    assert fewer.code == 2
    assert "draws is all there, 2 asked" in fewer.error
    assert "heat_max is none given there, 1.0 asked" in fewer.error
    assert "formats is ['npz'] there, ['png'] asked" in fewer.error
    assert "palette" not in fewer.error, "what only one of the formats shows"
    assert "None" not in fewer.error


def test_the_maps_of_a_failed_image_say_why_it_failed(photos: Path, bank: Path) -> None:
    (photos / "broken.png").write_bytes(b"no picture")
    ended = segment(
        *("predict", "scenes", photos, "--bank", bank, "-o", photos.parent / "run", "--precision", "fp32"),
        *("--format", "npz", "--draws", 1),
    )
    assert ended.code == 1
    run = load_run(photos.parent / "run")
    with pytest.raises(KeyError, match=r"The image 'broken' failed: .*broken.png") as caught:
        run["broken"].maps["variance"]
    assert "There are" not in str(caught.value)
    with pytest.raises(KeyError, match=r"There are: .*prediction"):
        run["a"].maps["margin"]


def test_scores_are_no_images_and_labels_of_no_meaning_name_no_none(tmp_path: Path, photos: Path, bank: Path) -> None:
    for name, seed in zip("ab", TEST, strict=False):
        write_png(tmp_path / "labels" / f"{name}.png", scene(seed, size=(64, 96)).label)
    scored = (
        *("evaluate", "scenes", "--images", photos, "--labels", tmp_path / "labels", "--bank", bank, "--draws", 2),
        *("--methods", "mcbn,deterministic", "--measures", "predictive_entropy", "--precision", "fp32"),
    )
    assert segment(*scored, "-o", tmp_path / "scores").code == 0
    ended = segment("report", tmp_path / "scores", "-o", tmp_path / "report.html")
    assert (ended.code, "scores and no images" in " ".join(ended.out.split())) == (0, True), ended.err
    label = scene(TEST[0], size=(64, 96)).label
    label[0] = 77
    shutil.rmtree(tmp_path / "labels")
    for name in "ab":
        write_png(tmp_path / "labels" / f"{name}.png", label)
    ended = segment(*scored, "-o", tmp_path / "none")
    assert "holds 77" in ended.error
    assert "void none, unseen " in ended.error
