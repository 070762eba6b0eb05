"""The normalised scale: its two ends are where a numerical optimiser ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from segment.scores.functional import normalised
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard

A = np.array


@pytest.mark.parametrize("classes", [2, 3, 11])
@pytest.mark.parametrize("accuracy", [0.55, 0.8, 0.97])
def test_the_best_constant_gives_the_mask_its_accuracy(classes: int, accuracy: float) -> None:
    def pll(c: float) -> float:
        return -float(normalised.constant_pll(A(accuracy), c, classes))

    def brier(c: float) -> float:
        return float(normalised.constant_brier(A(accuracy), c, classes))

    for loss in (pll, brier):
        optimum = optimize.minimize_scalar(
            loss, bounds=(1 / classes, 1 - 1e-9), method="bounded", options={"xatol": 1e-8}
        )
        assert optimum.x == pytest.approx(normalised.constant_probability(accuracy, classes), abs=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("score", ["pll", "brier"])
def test_the_best_of_a_pixel_under_a_fixed_mask_is_the_optimum(classes: int, score: str) -> None:
    """Over every p on the simplex whose largest entry is class 0, the mask; the truth is class 0 or class 1."""

    def best(truth: int) -> float:
        def loss(p: Any) -> float:
            if score == "pll":
                return float(-np.log(max(p[truth], 1e-12)))
            return float(((p - np.eye(classes)[truth]) ** 2).sum())

        rules: list[Any] = [{"type": "eq", "fun": lambda p: p.sum() - 1}]
        rules += [{"type": "ineq", "fun": lambda p, k=k: p[0] - p[k]} for k in range(1, classes)]
        start = np.full(classes, 0.7 / (classes - 1))
        start[0] = 0.3
        optimum = optimize.minimize(
            loss, start / start.sum(), bounds=[(0, 1)] * classes, constraints=rules, method="SLSQP"
        )
        assert optimum.success, optimum.message
        return float(optimum.fun)

    right, wrong = best(0), best(1)
    for accuracy in (0.2, 0.9):
        if score == "pll":
            expected = -(accuracy * right + (1 - accuracy) * wrong)
            assert float(normalised.optimal_pll(A(accuracy))) == pytest.approx(expected, abs=1e-5)
        else:
            expected = accuracy * right + (1 - accuracy) * wrong
            assert float(normalised.optimal_brier(A(accuracy))) == pytest.approx(expected, abs=1e-5)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_no_probabilities_with_that_mask_score_above_100(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5), size=500)
    label = np.where(rng.random(500) < 0.7, p.argmax(axis=1), rng.integers(0, classes, 500))
    accuracy = A((p.argmax(axis=1) == label).mean())
    pll = np.log(p[np.arange(500), label].clip(1e-38)).mean()
    brier = ((p - np.eye(classes)[label]) ** 2).sum(axis=1).mean()
    c = normalised.constant_probability(0.7, classes)
    bounds = normalised.constant_pll(accuracy, c, classes), normalised.optimal_pll(accuracy)
    assert float(normalised.normalised(pll, *bounds)) <= 100 + 1e-9
    bounds = normalised.constant_brier(accuracy, c, classes), normalised.optimal_brier(accuracy)
    assert float(normalised.normalised(brier, *bounds)) <= 100 + 1e-9


@pytest.mark.parametrize("kind", ["constant", "optimum"])
def test_the_scoreboard_puts_the_constant_at_0_and_the_optimum_at_100(kind: str) -> None:
    rng = np.random.default_rng(3)
    mask, label = rng.integers(0, 4, (30, 20)), rng.integers(0, 4, (30, 20))
    label = np.where(rng.random((30, 20)) < 0.75, mask, label)
    p = np.full((4, 30, 20), 0.3 / 3)
    np.put_along_axis(p, mask[None], 0.7, axis=0)
    if kind == "optimum":
        p = np.zeros((4, 30, 20))
        np.put_along_axis(p, label[None], 0.5, axis=0)
        np.put_along_axis(p, mask[None], np.where(label == mask, 1.0, 0.5)[None], axis=0)
    board = Scoreboard(ScorePlan(classes=tuple("abcd"), measures=("perfect",), validation_accuracy=0.7))
    board.update("x", p.astype(np.float32), {"perfect": (mask != label).astype(np.float32)}, label, mask)
    scores = board.compute()["scores"]
    expected = 0 if kind == "constant" else 100
    assert scores["normalised_pll"]["value"] == pytest.approx(expected, abs=1e-4)
    assert scores["normalised_brier"]["value"] == pytest.approx(expected, abs=1e-4)
    assert scores["normalised_aurc.perfect"]["value"] == pytest.approx(100)


def test_no_ranking_is_0_on_the_normalised_ranking_scale() -> None:
    label = np.arange(200).reshape(10, 20) % 4 // 3  # a quarter is wrong
    p = np.broadcast_to(np.array([0.75, 0.25], dtype=np.float32)[:, None, None], (2, 10, 20))
    board = Scoreboard(ScorePlan(classes=("a", "b"), measures=("flat",)))
    board.update("x", p, {"flat": np.full((10, 20), 0.2)}, label)
    scores = board.compute()["scores"]
    assert scores["normalised_aurc.flat"]["value"] == pytest.approx(0, abs=1e-9)
    assert scores["normalised_pll"] == {
        "value": None,
        "low": None,
        "high": None,
        "why": "no validation accuracy was given",
    }


@pytest.mark.parametrize("accuracy", [0.0, 0.01, 1.0])
def test_the_constant_stays_within_its_range(accuracy: float) -> None:
    c = normalised.constant_probability(accuracy, 4)
    assert 0.25 <= c < 1
    assert np.isfinite(normalised.constant_pll(A(0.9), c, 4))
