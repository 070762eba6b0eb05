"""Label values that are no class ids, classes that no label holds, and test images that were seen before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from console import NETWORKS, Ended, segment
from PIL import Image

from segment.files.writing import write_png
from segment.images.find import Source
from segment.jobs.labelled.leakage import copies

METHODS = ("--methods", "deterministic")


@pytest.fixture(autouse=True)
def vessels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and labels 0 and 255, as retinal vessels come; the same with 0 and 1."""
    (tmp_path / "label_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(3):
        image = rng.integers(0, 256, (32, 48, 3)).astype(np.uint8)
        vessel = (image[..., 0] > 200).astype(np.uint8)
        write_png(Path(f"images/v{number}.png"), image)
        write_png(Path(f"labels/v{number}.png"), vessel * 255)
        write_png(Path(f"classes/v{number}.png"), vessel)


def card(**changes: Any) -> Path:
    made = {"network": "py:label_networks:plain?outputs=2", "classes": ["background", "vessel"]} | changes
    path = Path("own.yaml")
    path.write_text(yaml.safe_dump(made))
    return path


def evaluated(model: Path, run: str, *more: object, labels: str = "labels") -> Ended:
    return segment("evaluate", model, "--trust", "--images", "images", "--labels", labels, *METHODS, "-o", run, *more)


def warned(ended: Ended) -> list[str]:
    """Its warnings, without the one that a process gives once of a card that has no `input:`."""
    lines = [line.removeprefix("Warning: ") for line in ended.err.splitlines() if line.startswith("Warning: ")]
    return [line for line in lines if not line.startswith("Nothing says how the images of own were prepared")]


def scored(run: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "scores.json").read_text())
    for method in content["methods"].values():
        method.pop("seconds")
    return content


def test_white_that_is_no_class_is_refused_with_the_key_that_maps_it() -> None:
    ended = evaluated(card(), "run")
    assert ended.code == 1
    assert "None of the 3 images can be scored" in ended.err
    assert "holds 255; known are 0..1" in ended.err
    assert "`labels: {255: 1}`" in ended.err.splitlines()[-1]


def test_labels_that_the_card_maps_score_as_the_classes_they_stand_for() -> None:
    ended = evaluated(card(labels={255: 1}), "mapped")
    assert (ended.code, ended.err) == (0, "")
    assert evaluated(card(), "ids", labels="classes").code == 0
    assert scored("mapped") == scored("ids")
    assert scored("ids")["methods"]["deterministic"]["per_class"]["vessel"]["pixels"] > 0
    fit = ("--validation-images", "images", "--validation-labels")
    assert evaluated(card(labels={255: 1}), "a", *fit, "labels", "--methods", "temperature").code == 0
    assert evaluated(card(), "b", *fit, "classes", "--methods", "temperature", labels="classes").code == 0
    assert scored("a") == scored("b"), "validation labels are mapped too"


def test_a_class_that_void_swallows_is_said_in_the_first_lines() -> None:
    ended = evaluated(card(void=255), "run", "--report", "report.md")
    assert ended.code == 0
    (first,) = warned(ended)
    assert first.startswith("No label holds the class 'vessel' (id 1)")
    assert "Where a method predicts such a class, its IoU and Dice are 0 and count in mIoU and Dice" in first
    (method,) = scored("run")["methods"].values()
    ious = [of_class["iou"] for of_class in method["per_class"].values()]
    assert ious[1] == 0, "no label holds a vessel, and the network predicts some"
    assert method["scores"]["miou"]["value"] == pytest.approx(np.mean(ious))
    share = np.mean([np.asarray(Image.open(path)) == 255 for path in Path("labels").iterdir()])
    assert f"{share:.1%} of the label pixels are void (255)" in first
    assert "`labels: {255: 1}`" in first
    assert scored("run")["warnings"] == [first]
    assert "**Warning**: No label holds" in Path("report.md").read_text().partition("## own")[2].splitlines()[2]
    again = segment(
        "evaluate",
        "own.yaml",
        "--trust",
        "--images",
        "images",
        "--labels",
        "labels",
        *METHODS,
        "-o",
        "run",
        "--resume",
        "--json",
    )
    assert again.json["warnings"] == scored("run")["warnings"], "counted once, also by a run that goes on"


def test_a_set_that_holds_every_class_and_was_not_seen_has_no_warning() -> None:
    ended = evaluated(card(labels={255: 1}, images="words about images"), "run")
    assert warned(ended) == scored("run")["warnings"] == []


def test_test_images_that_are_validation_or_training_images_are_said_whatever_they_are_called() -> None:
    Path("seen").mkdir()
    Path("labels_seen").mkdir()
    shutil.copy("images/v1.png", "seen/other.png")
    shutil.copy("labels/v1.png", "labels_seen/other.png")
    model = card(labels={255: 1}, images="seen")
    ended = evaluated(model, "run", "--validation-images", "seen", "--validation-labels", "labels_seen")
    first, second = warned(ended)
    assert first.startswith("1 of 3 test images are validation images too (v1)")
    assert second.startswith("1 of 3 test images are training images (v1)")
    assert len(scored("run")["warnings"]) == 2
    same_size = bytearray(Path("seen/other.png").read_bytes())
    same_size[-5] ^= 1
    Path("seen/other.png").write_bytes(same_size)
    assert warned(evaluated(model, "apart")) == []


def test_training_images_that_are_not_where_the_card_says_are_warned_of() -> None:
    (warning,) = warned(evaluated(card(labels={255: 1}, images="data/trian"), "run"))
    assert warning.startswith(
        "The card's `images:` reads as a path, and gives no training images to compare with: 'data/trian' is not there"
    )
    (warning,) = warned(evaluated(card(labels={255: 1}, images="train.csv"), "listed"))
    assert "'train.csv' is not there" in warning
    described = card(labels={255: 1}, images="CamVid [Brostow 2009] train/val")
    assert warned(evaluated(described, "described")) == []


def test_copies_of_an_image_are_said_to_be_no_further_images() -> None:
    for folder in ("images", "labels"):
        shutil.copy(f"{folder}/v1.png", f"{folder}/again.png")
    model = card(labels={255: 1})
    (first,) = warned(evaluated(model, "run"))
    assert first.startswith("1 of 4 test images are copies of others (v1): intervals, tests and guarantees")
    assert scored("run")["warnings"] == [first]


def test_quiet_commands_keep_the_warnings_of_their_results() -> None:
    for folder in ("images", "labels"):
        for number in range(6):
            shutil.copy(f"{folder}/v1.png", f"{folder}/again{number}.png")
    model = card(labels={255: 1})
    copied = "6 of 9 test images are copies of others"
    scores = evaluated(model, "run", "--quiet")
    assert (scores.code, scores.out, copied in scores.err) == (0, "", True), scores.err
    triage = segment("triage", "run", "--method", "deterministic", "--max-error", ".9", "-o", "triage.json", "--quiet")
    assert (triage.code, triage.out, copied in triage.err) == (0, "", True), triage.err
    settings = (
        "--train",
        "images",
        "--transforms",
        "plain",
        "--batches",
        2,
        "--draws",
        1,
        "--methods",
        "deterministic",
    )
    sources = ("--images", "images", "--labels", "labels")
    sweep = segment("sweep", model, "--trust", *sources, *settings, *METHODS, "-o", "swept", "--quiet")
    assert (sweep.code, sweep.out, copied in sweep.err) == (0, "", True), sweep.err


def test_copies_are_the_same_image_of_the_same_bytes_and_no_two_unreadable_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copy("images/v1.png", tmp_path / f"{name}.png")
    for name in ("gone1", "gone2"):
        os.mkfifo(tmp_path / name)
    a, b, gone1, gone2 = (tmp_path / name for name in ("a.png", "b.png", "gone1", "gone2"))
    sources = [
        *(Source("a", a), Source("again", a), Source("b", b)),
        *(Source("page 0", b, part=0), Source("page 1", b, part=1), Source("the same page", a, part=1)),
        *(Source("gone1", gone1), Source("gone2", gone2), Source("in memory 1", Path("x 1")), Source("2", Path("x 2"))),
    ]
    assert copies(sources) == ["again", "b", "the same page"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {255: 1}, "void": 255}, "labels says what 255 stands for, and void says"),
        ({"labels": {255: 2}}, "labels leads to 2, which is none of 0..1"),
        ({"labels": {"#12": 1}}, "no colour"),
        ({"labels": {255: "vessel"}}, "labels"),
        ({"labels": {1.5: 1}}, "labels"),
        ({"labels": [1]}, "labels"),
    ],
)
def test_labels_that_cannot_be_are_refused_by_the_card(changes: dict[str, Any], message: str) -> None:
    ended = evaluated(card(**changes), "run")
    assert ended.code == 2
    assert message in ended.error
    assert not Path("run").exists()


def test_an_evaluation_goes_on_to_the_scores_of_the_images_as_they_are_now() -> None:
    model = card(labels={255: 1})
    assert evaluated(model, "run").code == 0
    before = scored("run")
    assert evaluated(model, "run", "--resume").code == 0
    assert scored("run") == before
    for change in ("image", "label", "namesake", "gone"):
        if change == "image":
            shutil.copy("images/v0.png", "images/v1.png")
        if change == "label":
            write_png(Path("labels/v2.png"), np.zeros((32, 48), np.uint8))
        if change == "namesake":
            Image.open("images/v2.png").rotate(180).save("images/v0.bmp")
            Image.open("labels/v2.png").save("labels/v0.bmp")
        if change == "gone":
            Path("images/v2.png").unlink()
        evaluated(model, "run", "--resume")
        evaluated(model, f"fresh_{change}")
        resumed, fresh = scored("run"), scored(f"fresh_{change}")
        if change == "namesake":  # ids are given in another order, and they seed the intervals
            assert resumed["pixels"] == fresh["pixels"]
        else:
            assert resumed["images"] == fresh["images"], change
            assert resumed["pixels"] == fresh["pixels"], change
        assert _values(resumed) == pytest.approx(_values(fresh)), change


def _values(content: dict[str, Any]) -> dict[str, float]:
    """Pooled over pixels, so that no id matters."""
    scores = content["methods"]["deterministic"]["scores"]
    return {name: scores[name]["value"] for name in ("nll", "miou", "accuracy", "brier", "ece")}


def test_another_card_of_an_evaluation_is_named_key_by_key() -> None:
    assert evaluated(card(labels={255: 1}), "run").code == 0
    ended = evaluated(card(labels={255: 0}, drop_outputs=[1], head="sigmoid"), "run", "--resume")
    assert ended.code == 2
    assert "card.labels.255 is 1 there, 0 asked" in ended.error
    assert "card.drop_outputs is [] there, [1] asked" in ended.error
    assert "card.head is 'softmax' there, 'sigmoid' asked" in ended.error


def test_image_files_for_a_network_of_four_channels_are_refused_by_every_command() -> None:
    model = card(network="py:label_networks:plain?outputs=2&inputs=4")
    for ended in (
        evaluated(model, "run"),
        segment("fit", model, "--trust", "--images", "images", "--batch", "2", "-o", "bank.safetensors"),
    ):
        assert ended.code == 1
        assert "holds 3 bands, where 4 channels are asked for" in ended.error
    assert segment("inspect", model, "--trust", "--json").json["classes"] == 2
    assert not Path("bank.safetensors").exists()


def test_images_without_label_maps_are_refused_with_the_option_that_names_them() -> None:
    for given, wanted in (
        ((), "Give --labels (of validation images --validation-labels), a folder"),
        (("--labels", "nobody"), "'nobody'"),
    ):
        Path("nobody").mkdir(exist_ok=True)
        write_png(Path("nobody/x.png"), np.zeros((32, 48), np.uint8))
        options = ("--images", "images", *given, "--trust", *METHODS, "-o", "none")
        refused = segment("evaluate", card(), *options)
        assert (refused.code, wanted in refused.err) == (2, True), refused.err
