"""Image-level ranking, unseen things, multi-label heads, and inputs that are refused or have a defined result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from segment.axes import Head
from segment.errors import ImageUnreadable, PredictionFailed, SegmentError, WrongUse
from segment.scores.functional import patches
from segment.scores.plan import OUTSIDE, ScorePlan
from segment.scores.scoreboard import Scoreboard


def certain(label: NDArray[np.int64], k: int, sure: float = 0.9) -> NDArray[np.float32]:  # H W -> K H W
    p = np.full((k, *label.shape), (1 - sure) / max(k - 1, 1), np.float32)
    np.put_along_axis(p, label[None], np.float32(sure), axis=0)
    return p


def test_a_measure_that_follows_the_mask_quality_ranks_images_by_it() -> None:
    rng = np.random.default_rng(0)
    plan = ScorePlan(classes=("a", "b"), measures=("good", "flat"), thresholds={"good": (0.2, 0.2, 0.2)})
    board = Scoreboard(plan)
    shares = {}
    for i in range(12):
        label = np.zeros((16, 16), np.int64)
        label[:, 8:] = 1
        wrong = rng.random((16, 16)) < 0.03 * i
        shares[f"{i:02}"] = wrong.mean()
        maps = {"good": wrong * 0.5, "flat": np.full((16, 16), 0.1)}
        board.update(f"{i:02}", certain(np.where(wrong, 1 - label, label), 2), maps, label)
    scores = board.compute()["scores"]
    assert scores["dice_rank_mean.good"]["value"] > 0.95
    assert scores["dice_rank_area.good"]["value"] > 0.95
    assert scores["dice_rank_mean.good"]["low"] is None, "a perfect rank correlation has no interval"
    assert "between -1 and 1" in scores["dice_rank_mean.good"]["why"]
    assert scores["dice_rank_mean.flat"]["value"] is None
    assert scores["dice_rank_area.flat"]["why"] == "no threshold was given for this measure"
    rows = board.per_image()
    assert [row["id"] for row in rows] == [f"{i:02}" for i in range(12)]
    by_measure = sorted(rows, key=lambda row: -row["mean.good"])
    assert [row["id"] for row in by_measure] == sorted(shares, key=lambda name: -shares[name])


@pytest.mark.parametrize("head", ["softmax", "multilabel"])
def test_an_image_without_data_has_no_number(head: Head) -> None:
    board = Scoreboard(ScorePlan(classes=("a", "b"), measures=("m",), thresholds={"m": (0.4, 0.4, 0.4)}, head=head))
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (2, 20, 20) if head == "multilabel" else (20, 20))
    p, values = np.full((2, 20, 20), 0.5, np.float32), rng.random((20, 20)).astype(np.float32)
    for name, seen in (("blank", np.full_like(label, OUTSIDE)), ("seen", label)):
        board.update(name, p, {"m": values}, seen)
    blank, seen_row = board.per_image()
    assert {key: value for key, value in blank.items() if value is not None} == {"id": "blank", "pixels": 0.0}
    assert seen_row["mean.m"] == pytest.approx(values.mean())
    alone = Scoreboard(board.plan)
    alone.update("seen", p, {"m": values}, label)
    assert alone.compute()["scores"]["accuracy"]["value"] == board.compute()["scores"]["accuracy"]["value"]


def test_a_row_holds_the_scores_of_its_image_alone() -> None:
    rng = np.random.default_rng(1)
    label, mask = rng.integers(0, 3, (14, 11)), rng.integers(0, 3, (14, 11))
    values = rng.random((14, 11)).astype(np.float32)
    board = Scoreboard(ScorePlan(classes=("a", "b", "c"), measures=("m",), thresholds={"m": (0.4, 0.4, 0.4)}))
    board.update("one", certain(mask, 3), {"m": values}, label)
    (row,) = board.per_image()
    scores = board.compute()["scores"]
    for column in ("accuracy", "miou", "dice", "nll", "brier", "error_auroc.m"):
        assert row[column] == pytest.approx(scores[column]["value"])
    assert row["error_auroc.m"] == pytest.approx(roc_auc_score((mask != label).ravel(), values.ravel()), abs=1e-3)
    assert (row["mean.m"], row["area.m"]) == (pytest.approx(values.mean()), pytest.approx((values > 0.4).mean()))
    assert row["p95.m"] == pytest.approx(np.percentile(values, 95))
    assert row["interior.m"] is None or row["interior.m"] > 0


def test_unseen_objects_are_detected_by_uncertainty_and_left_out_of_the_rest() -> None:
    rng = np.random.default_rng(2)
    label = rng.integers(0, 2, (40, 30))
    label[rng.random((40, 30)) < 0.2] = 9
    label[rng.random((40, 30)) < 0.1] = 255
    uncertainty = (rng.random((40, 30)) + 0.5 * (label == 9)).astype(np.float32)
    board = Scoreboard(ScorePlan(classes=("a", "b"), measures=("m",), void=255, unseen=(9,)))
    board.update("x", certain(np.zeros_like(label), 2), {"m": uncertainty}, label)
    scores = board.compute()["scores"]
    counted, novel = label != 255, label == 9
    assert board.pixels == (label < 2).sum()
    assert scores["accuracy"]["value"] == pytest.approx((label[label < 2] == 0).mean())
    assert scores["unseen_auroc.m"]["value"] == pytest.approx(
        roc_auc_score(novel[counted], uncertainty[counted]), abs=1e-3
    )
    ap = average_precision_score(novel[counted], uncertainty[counted])
    assert scores["unseen_ap.m"]["value"] == pytest.approx(ap, abs=2e-3)
    limit = np.quantile(uncertainty[novel], 0.05, method="lower")
    expected = (uncertainty[counted & ~novel] >= limit).mean()
    assert scores["unseen_fpr95.m"]["value"] == pytest.approx(expected, abs=3e-3)


def test_a_multi_label_head_is_the_mean_of_its_two_class_tasks() -> None:
    rng = np.random.default_rng(4)
    plan = ScorePlan(classes=("x", "y", "z"), head="multilabel", measures=("m",), void=255)
    alone = [Scoreboard(ScorePlan(classes=("no", "yes"), head="sigmoid", measures=("m",), void=255)) for _ in range(3)]
    board = Scoreboard(plan)
    for i in range(4):
        p = rng.random((3, 10, 8)).astype(np.float32)
        label = (rng.random((3, 10, 8)) < p).astype(np.int64)
        label[rng.random((3, 10, 8)) < 0.1] = 255
        maps = rng.random((3, 10, 8)).astype(np.float32)
        board.update(f"{i}", p, {"m": maps}, label)
        for k in range(3):
            alone[k].update(
                f"{i}", np.stack([1 - p[k], p[k]]), {"m": maps[k]}, label[k], (p[k] >= 0.5).astype(np.int64)
            )
    combined, parts = board.compute(), [board.compute() for board in alone]
    for name in ("miou", "nll", "brier", "ece", "error_auroc.m", "ause.m", "miou_at_90.m"):
        assert combined["scores"][name]["value"] == pytest.approx(
            np.mean([part["scores"][name]["value"] for part in parts])
        )
    for label_name, part in zip("xyz", parts, strict=True):
        assert combined["per_class"][label_name] == part["per_class"]["yes"]
        assert combined["curves"][f"reliability.{label_name}"] == part["curves"]["reliability"]
    assert board.confusion().shape == (3, 2, 2)


LABEL = np.array([[0, 1, 1], [2, 0, 255]])
GOOD: dict[str, Any] = {
    "probability": certain(np.array([[0, 1, 2], [2, 0, 0]]), 3),
    "maps": {"m": np.full((2, 3), 0.1, np.float32)},
    "label": LABEL,
}
PLAN = ScorePlan(classes=("a", "b", "c"), measures=("m",), void=255)


def with_nan(values: NDArray[np.float32]) -> NDArray[np.float32]:
    spoiled = values.copy()
    spoiled.flat[2] = np.nan
    return spoiled


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label": LABEL[:, :2]}, ImageUnreadable, "label of 'img' has the shape .2, 2., its prediction .2, 3."),
        ({"label": np.where(LABEL == 2, 4, LABEL)}, ImageUnreadable, "holds 4; known are 0..2, void 255"),
        ({"label": np.where(LABEL == 2, -1, LABEL)}, ImageUnreadable, "holds -1"),
        ({"label": LABEL.astype(np.float32)}, ImageUnreadable, "class ids are integers"),
        ({"maps": {"m": with_nan(GOOD["maps"]["m"])}}, PredictionFailed, "Map 'm' of 'img'.*1 values are not finite"),
        ({"maps": {"m": np.full((2, 3), np.inf)}}, PredictionFailed, "6 values are not finite"),
        ({"maps": {"m": np.full((2, 3), -0.1)}}, PredictionFailed, "not negative"),
        ({"maps": {"m": np.zeros((3, 2))}}, PredictionFailed, "Map 'm' of 'img' has the shape .3, 2."),
        ({"maps": {"n": np.zeros((2, 3))}}, WrongUse, "'img' came without it; given: n"),
        ({"probability": with_nan(GOOD["probability"])}, PredictionFailed, "1 values are not finite"),
        ({"probability": GOOD["probability"][:2]}, PredictionFailed, "3 classes .K H W. were promised"),
        ({"probability": GOOD["probability"] * 0.5}, PredictionFailed, "do not sum to 1"),
        ({"probability": GOOD["probability"] * 9 - 3}, PredictionFailed, "not all within 0..1"),
        ({"prediction": np.full((2, 3), 3)}, PredictionFailed, "ids within 0..2"),
    ],
)
def test_a_bad_image_is_refused_by_name_and_changes_nothing(
    change: dict[str, Any], error: type[SegmentError], message: str
) -> None:
    board = Scoreboard(PLAN)
    board.update("before", **GOOD)
    state = board.state()
    with pytest.raises(error, match=message) as refusal:
        board.update("img", **(GOOD | change))
    assert "\n" not in str(refusal.value)
    for name, value in board.state().items():
        np.testing.assert_array_equal(value, state[name])
    board.update("img", **GOOD)
    assert board.images == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ()}, "at least one class"),
        ({"classes": ("a", "a")}, "no name twice"),
        ({"head": "sigmoid"}, "two classes"),
        ({"head": "linear"}, "No head is called 'linear'"),
        ({"void": 5, "unseen": (5,)}, "both void and unseen"),
        ({"thresholds": {"variance": (0.1, 0.1, 0.1)}}, "not among"),
        ({"measures": ("m",), "thresholds": {"m": (0.1,)}}, "one threshold for each patch size"),
        ({"replicates": 1}, "2 or more"),
        ({"validation_accuracy": 1.2}, "within 0..1"),
        ({"validation_accuracy": (0.5, 0.6)}, "one a label"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        ScorePlan(**({"classes": ("a", "b", "c"), "measures": ("m",)} | change))


def test_an_image_of_void_alone_counts_nothing_and_is_defined() -> None:
    board = Scoreboard(PLAN)
    board.update("void", **(GOOD | {"label": np.full((2, 3), 255)}))
    scores = board.compute()["scores"]
    assert (board.images, board.pixels) == (1, 0)
    assert scores["miou"] == {"value": None, "low": None, "high": None, "why": "no pixel has a known label"}
    (row,) = board.per_image()
    assert row["pixels"] == 0
    assert row["dice"] is None
    board.update("seen", **GOOD)
    alone = Scoreboard(PLAN)
    alone.update("seen", **GOOD)
    assert board.compute()["scores"]["nll"]["value"] == alone.compute()["scores"]["nll"]["value"]


def test_one_class_leaves_nothing_to_detect() -> None:
    board = Scoreboard(ScorePlan(classes=("all",), measures=("m",), validation_accuracy=1.0))
    for name in ("x", "y"):
        board.update(name, np.ones((1, 4, 5), np.float32), {"m": np.zeros((4, 5))}, np.zeros((4, 5), np.int64))
    scores = board.compute()["scores"]
    assert (scores["accuracy"]["value"], scores["miou"]["value"], scores["nll"]["value"]) == (1, 1, 0)
    assert scores["error_auroc.m"]["why"] == "every pixel is right"
    assert scores["normalised_pll"]["why"] == "a single class leaves no uncertainty"
    assert scores["ause.m"]["value"] == 0


def test_everything_wrong_is_defined_too() -> None:
    board = Scoreboard(ScorePlan(classes=("a", "b"), measures=("m",), validation_accuracy=0.5))
    label = np.zeros((4, 5), np.int64)
    board.update("x", certain(1 - label, 2), {"m": np.full((4, 5), 0.3)}, label)
    scores = board.compute()["scores"]
    assert scores["accuracy"]["value"] == scores["miou"]["value"] == 0
    assert scores["aurc.m"]["value"] == 1
    assert scores["error_ap.m"]["why"] == "every pixel is wrong"


def test_torch_tensors_of_any_precision_score_as_arrays_do() -> None:
    p = torch.tensor(GOOD["probability"])
    first, second = Scoreboard(PLAN), Scoreboard(PLAN)
    first.update("x", p, {"m": torch.full((2, 3), 0.1)}, torch.tensor(LABEL), torch.tensor([[0, 1, 2], [2, 0, 0]]))
    second.update("x", **GOOD)
    assert first.compute() == second.compute()
    half = Scoreboard(PLAN)
    half.update("x", p.bfloat16(), {"m": torch.full((2, 3), 0.1).bfloat16()}, torch.tensor(LABEL, dtype=torch.uint8))
    assert half.compute()["scores"]["accuracy"] == first.compute()["scores"]["accuracy"]


def test_thresholds_of_validation_images_make_the_patch_scores_defined() -> None:
    rng = np.random.default_rng(8)
    label = rng.integers(0, 3, (30, 30))
    wrong = rng.random((30, 30)) < 0.3
    mask = np.where(wrong, (label + 1) % 3, label)
    maps = {"m": 0.2 + 0.5 * wrong}
    validation = Scoreboard(ScorePlan(classes=("a", "b", "c"), measures=("m",)))
    validation.update("v", certain(mask, 3), maps, label)
    assert validation.compute()["scores"]["pavpu_4.m"]["why"].startswith("no threshold was given")
    thresholds = validation.thresholds()
    assert 0.2 <= thresholds["m"][0] < 0.7
    board = Scoreboard(ScorePlan(classes=("a", "b", "c"), measures=("m",), thresholds=thresholds))
    board.update("t", certain(mask, 3), maps, label)
    assert board.compute()["scores"]["pavpu_1.m"]["value"] == 1
    assert board.compute()["thresholds"]["m"] == dict(
        zip(("pavpu_1", "pavpu_4", "pavpu_16"), thresholds["m"], strict=True)
    )


def test_as_many_patches_of_each_size_are_uncertain_as_are_inaccurate() -> None:
    rng = np.random.default_rng(9)
    label = np.zeros((160, 160), np.int64)
    chance = ndimage.gaussian_filter(rng.random((160, 160)), 3)
    wrong = chance > np.quantile(chance, 0.7)
    maps = {"m": (chance + 0.05 * rng.random((160, 160))).astype(np.float32)}
    board = Scoreboard(ScorePlan(classes=("a", "b"), measures=("m",)))
    board.update("v", certain(np.where(wrong, 1, 0), 2), maps, label)
    for size, threshold in zip(patches.SIZES, board.thresholds()["m"], strict=True):
        cut = [array.reshape(160 // size, size, 160 // size, size).mean(axis=(1, 3)) for array in (wrong, maps["m"])]
        inaccurate, uncertain = cut[0] > 0.5, cut[1] > threshold
        assert uncertain.mean() == pytest.approx(inaccurate.mean(), abs=0.04)


def test_a_measure_of_few_values_gains_nothing_by_its_ties_in_the_patch_scores() -> None:
    rng = np.random.default_rng(10)
    label = np.zeros((200, 200), np.int64)
    share = rng.beta(0.3, 2, (200, 200))
    wrong = rng.random((200, 200)) < share
    maps = {"fine": share.astype(np.float32), "votes": (np.floor(share * 16) / 16).astype(np.float32)}
    scores = {}
    for name, values in maps.items():
        board = Scoreboard(ScorePlan(classes=("a", "b"), measures=("m",)))
        board.update("v", certain(np.where(wrong, 1, 0), 2), {"m": values}, label)
        scored = Scoreboard(ScorePlan(classes=("a", "b"), measures=("m",), thresholds=board.thresholds()))
        scored.update("v", certain(np.where(wrong, 1, 0), 2), {"m": values}, label)
        scores[name] = scored.compute()["scores"]
    for size in patches.SIZES:
        assert scores["votes"][f"pavpu_{size}.m"]["value"] <= scores["fine"][f"pavpu_{size}.m"]["value"] + 0.01
