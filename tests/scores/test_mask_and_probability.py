"""Mask, probability and retention scores against scikit-learn, torchmetrics, scoringrules and plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scoringrules
import torch
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, f1_score, jaccard_score, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from segment.scores.functional.patches import Patches, pavpu
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard

VOID = 255


def batch(
    seed: int, k: int, images: int = 3
) -> list[tuple[str, NDArray[np.float32], dict[str, Any], NDArray[np.int64]]]:
    rng = np.random.default_rng(seed)
    data = []
    for i in range(images):
        h, w = 20 + 3 * i, 17
        p = rng.dirichlet(np.full(k, 0.3), size=(h, w)).transpose(2, 0, 1).astype(np.float32)
        label = np.where(rng.random((h, w)) < 0.6, p.argmax(axis=0), rng.integers(0, k - 1, (h, w)))
        label[rng.random((h, w)) < 0.1] = VOID
        maps = {"margin": (1 - p.max(axis=0) + 0.05 * rng.random((h, w))).astype(np.float32)}
        data.append((f"image{i}", p, maps, label))
    return data


def scored(images: list[Any], **settings: Any) -> Scoreboard:
    k = len(images[0][1])
    names = tuple(f"c{i}" for i in range(k))
    board = Scoreboard(ScorePlan(classes=names, measures=("margin",), void=VOID, **settings))
    for identity, p, maps, label in images:
        board.update(identity, p, maps, label)
    return board


def pooled(images: list[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float32]]:  # K P, P, P
    valid = [label != VOID for *_, label in images]
    p = np.concatenate([image[1][:, v] for image, v in zip(images, valid, strict=True)], axis=1)
    label = np.concatenate([image[3][v] for image, v in zip(images, valid, strict=True)])
    uncertainty = np.concatenate([image[2]["margin"][v] for image, v in zip(images, valid, strict=True)])
    return p.astype(np.float64), label, uncertainty


@pytest.mark.parametrize("k", [2, 3, 11])
def test_mask_scores_are_those_of_scikit_learn(k: int) -> None:
    images = batch(k, k)
    board = scored(images)
    p, label, _ = pooled(images)
    prediction = p.argmax(axis=0)
    computed = board.compute()
    np.testing.assert_array_equal(board.confusion(), confusion_matrix(label, prediction, labels=range(k)))
    assert board.pixels == label.size
    iou, dice = jaccard_score(label, prediction, average=None), f1_score(label, prediction, average=None)
    assert computed["scores"]["accuracy"]["value"] == pytest.approx((label == prediction).mean())
    assert computed["scores"]["miou"]["value"] == pytest.approx(iou.mean())
    assert computed["scores"]["dice"]["value"] == pytest.approx(dice.mean())
    assert [c["iou"] for c in computed["per_class"].values()] == pytest.approx(iou)
    assert [c["pixels"] for c in computed["per_class"].values()] == np.bincount(label, minlength=k).tolist()


@pytest.mark.parametrize("k", [2, 3, 11])
def test_probability_scores_are_those_of_other_libraries(k: int) -> None:
    images = batch(10 + k, k)
    computed = scored(images).compute()
    p, label, _ = pooled(images)
    scores, one_hot = computed["scores"], np.eye(k)[label].T
    assert scores["nll"]["value"] == pytest.approx(
        log_loss(label, p.T / p.sum(axis=0)[:, None], labels=range(k)), abs=1e-5
    )
    brier = sum(scoringrules.brier_score(one_hot[i], p[i].clip(0, 1)).mean() for i in range(k))
    assert scores["brier"]["value"] == pytest.approx(brier, abs=1e-6)
    of_label = p[label, np.arange(label.size)]
    logs = scoringrules.log_score(np.ones_like(of_label), of_label.clip(1e-30, 1)).mean()
    assert scores["nll"]["value"] == pytest.approx(logs, abs=1e-6)
    logits = torch.tensor(p.T, dtype=torch.float64)
    ece = multiclass_calibration_error(logits, torch.tensor(label), num_classes=k, n_bins=15)
    assert scores["ece"]["value"] == pytest.approx(float(ece), abs=1e-5)
    for i, entry in enumerate(computed["per_class"].values()):
        of_class = binary_calibration_error(torch.tensor(p[i]).clamp(0, 1), torch.tensor(label == i).long(), n_bins=15)
        assert entry["ece"] == pytest.approx(float(of_class), abs=1e-5)


def test_the_adaptive_error_is_that_of_fifteen_bins_of_equal_counts() -> None:
    images = batch(4, 5, images=6)
    p, label, _ = pooled(images)
    confidence, right = p.max(axis=0), p.argmax(axis=0) == label
    parts = np.array_split(np.argsort(confidence), 15)
    expected = sum(abs(confidence[at].mean() - right[at].mean()) * len(at) for at in parts) / label.size
    assert scored(images).compute()["scores"]["ece_adaptive"]["value"] == pytest.approx(expected, abs=2e-3)


def test_a_certain_mistake_costs_the_clamp_and_no_more() -> None:
    board = Scoreboard(ScorePlan(classes=("a", "b")))
    board.update("x", np.array([[[1.0]], [[0.0]]], np.float32), {}, np.array([[1]]))
    scores = board.compute()["scores"]
    assert scores["nll"]["value"] == pytest.approx(-np.log(1.2e-38), abs=1e-6)
    assert scores["brier"]["value"] == 2


def test_scores_of_the_retained_pixels_are_those_of_the_sorted_ones() -> None:
    images = batch(7, 4, images=8)
    scores = scored(images).compute()["scores"]
    p, label, uncertainty = pooled(images)
    order = np.argsort(uncertainty, kind="stable")
    for share in (80, 90, 95):
        kept = order[: round(label.size * share / 100)]
        truth, mask = label[kept], p.argmax(axis=0)[kept]
        assert scores[f"accuracy_at_{share}.margin"]["value"] == pytest.approx((truth == mask).mean(), abs=1e-3)
        miou = jaccard_score(truth, mask, average=None).mean()
        assert scores[f"miou_at_{share}.margin"]["value"] == pytest.approx(miou, abs=2e-3)


@pytest.mark.parametrize("size", [1, 4, 16])
def test_patch_accuracy_against_patch_uncertainty_is_that_of_a_plain_loop(size: int) -> None:
    rng = np.random.default_rng(size)
    valid, right = rng.random((37, 50)) < 0.8, rng.random((37, 50)) < 0.6
    valid[:16, :16] = False  # a patch without a label
    right &= valid
    values = rng.random((37, 50)).astype(np.float32)
    agree = patches = 0
    for y in range(0, 37, size):
        for x in range(0, 50, size):
            at = np.s_[y : y + size, x : x + size]
            if not valid[at].any():
                continue
            accurate = right[at][valid[at]].mean() >= 0.5
            uncertain = values[at][valid[at]].mean(dtype=np.float64) > 0.5
            agree += accurate != uncertain
            patches += 1
    counts = Patches(valid, right).counts(values, [0.5] * 3)[[1, 4, 16].index(size)]
    assert counts.sum() == patches
    assert pavpu(counts) == pytest.approx(agree / patches)


def test_the_reliability_curve_says_how_often_each_confidence_is_right() -> None:
    images = batch(3, 3, images=5)
    p, label, _ = pooled(images)
    confidence, right = p.max(axis=0), p.argmax(axis=0) == label
    curve = scored(images).compute()["curves"]["reliability"]
    place = np.minimum((confidence * 15).astype(int), 14)
    filled = np.unique(place)
    assert curve["x"] == pytest.approx([confidence[place == i].mean() for i in filled], abs=1e-5)
    assert curve["y"] == pytest.approx([right[place == i].mean() for i in filled])
    assert len(curve["low"]) == len(curve["high"]) == len(filled)
    assert curve["pixels"] == [(place == i).sum() for i in filled]


def test_the_risk_coverage_curve_ends_at_the_error_rate_and_the_oracle_lies_under_it() -> None:
    images = batch(6, 3)
    computed = scored(images).compute()
    ours, best = computed["curves"]["risk_coverage.margin"], computed["curves"]["risk_coverage.oracle"]
    assert ours["x"][-1] == 1
    assert ours["y"][-1] == pytest.approx(1 - computed["scores"]["accuracy"]["value"])
    assert (np.array(best["y"]) <= np.array(ours["y"]) + 1e-12).all()
    area = np.mean(ours["y"])
    assert area == pytest.approx(computed["scores"]["aurc.margin"]["value"], abs=5e-3)
