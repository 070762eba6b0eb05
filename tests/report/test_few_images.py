"""Differences between methods that are equal in truth are called significant as seldom as is promised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from segment.errors import WrongUse
from segment.jobs.labelled.leakage import few_hold
from segment.report.best_methods import in_short
from segment.report.method_comparison import MethodBoards, compare, gains
from segment.report.tables import verdict
from segment.scores.board import Score
from segment.scores.functional.confusion import mean_iou
from segment.scores.intervals import poisson_weights
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard


def mean_score(values: np.ndarray, start: int) -> Score:
    weights = np.stack([poisson_weights(f"image {start + number}", 2000) for number in range(len(values))])  # N R
    totals = weights.sum(axis=0)
    replicates = np.where(totals > 0, values @ weights / np.maximum(totals, 1), np.nan)
    return Score(float(values.mean()), float(values.mean()), replicates, "")


@pytest.mark.parametrize("images", [8, 20, 100])
def test_p_is_about_that_of_a_t_test(images: int) -> None:
    rng = np.random.default_rng(images)
    pairs = []
    for start in range(0, 40 * images, images):
        values = rng.normal(0.3, 1, images)
        p = mean_score(values, start).p_value(images)
        assert p is not None
        pairs.append((p, float(stats.ttest_1samp(values, 0).pvalue)))
    ours, exact = np.array(pairs).T
    assert np.corrcoef(stats.norm.isf(ours / 2), stats.norm.isf(exact / 2))[0, 1] > 0.97
    assert np.median(ours / exact) == pytest.approx(1, abs=0.25)


def test_differences_that_are_all_alike_have_the_p_of_a_sign_test() -> None:
    same = Score(0.1, 0.1, np.full(200, 0.1), "")
    assert same.p_value(8) == pytest.approx(stats.binomtest(8, 8).pvalue)
    assert Score(0.0, 0.0, np.zeros(200), "").p_value(8) == 1
    assert same.p_value(1) is None


def boards(
    images: int,
    methods: int,
    seed: int,
    *,
    unseen: int | None = None,
    mistaken: int | None = None,
    third: int | None = None,
) -> dict[str, MethodBoards]:
    """Methods that are equal in distribution: the same images, with noise of their own in their logits.

    unseen: the first so many images hold pixels of an unseen object; None: such objects are not labelled
    mistaken: the first so many images hold wrong pixels; None: all may
    third: the first so many images hold the third class in label or prediction; None: all may
    """
    rng = np.random.default_rng(seed)
    plan = ScorePlan(classes=("a", "b", "c"), measures=("predictive_entropy",), unseen=() if unseen is None else (9,))
    made = {name: Scoreboard(plan) for name in ("deterministic", "mcbn", *(f"other {k}" for k in range(methods - 2)))}
    for number in range(images):
        without = third is not None and number >= third
        label = rng.integers(0, 3 - without, (8, 8)).astype(np.uint8)
        signal = np.eye(3)[label].transpose(2, 0, 1) * rng.uniform(0.5, 2)
        if mistaken is not None and number >= mistaken:
            signal = 100 * np.eye(3)[label].transpose(2, 0, 1)
        if number < (unseen or 0):
            label[:4] = 9
        for board in made.values():
            logits = signal + rng.normal(0, 1.5, (3, 8, 8)) - np.array([0, 0, 100 * without])[:, None, None]
            p = np.exp(logits) / np.exp(logits).sum(axis=0)
            entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=0).clip(max=0)
            board.update(
                f"{seed} {number}", p.astype(np.float32), {"predictive_entropy": entropy.astype(np.float32)}, label
            )
    return {name: MethodBoards((board,), 1, 0.0) for name, board in made.items()}


@pytest.mark.parametrize(
    ("held", "kind"), [(1, "unseen"), (3, "unseen"), (5, "unseen"), (1, "mistaken"), (5, "mistaken")]
)
def test_a_score_of_pixels_that_few_images_hold_shows_no_difference(held: int, kind: str) -> None:
    made = boards(17, 2, 5, **{kind: held})
    name = "unseen_auroc" if kind == "unseen" else "error_auroc"
    by_score = {each.score: each for each in compare(made)}
    (entry,) = by_score[f"{name}.predictive_entropy"].differences.values()
    assert (entry["p"], entry["images"]) == (None, held)
    assert (entry["low"] is None) == (held < 2)
    assert verdict(entry) != "significant"
    gained = gains(made)[0].differences[f"{name} of the best measure"]
    assert (gained["p"], gained["images"]) == (None, held)
    (nll,) = by_score["nll"].differences.values()
    assert nll["p"] is not None
    assert "images" not in nll
    (line,) = few_hold({method: of.boards[0] for method, of in made.items()})
    assert line.startswith(f"{held} image")
    assert "of 17" in line


def test_the_images_that_hold_a_score_count_its_degrees_of_freedom() -> None:
    made = boards(17, 2, 5, unseen=8)
    score = made["mcbn"].estimates[0]["unseen_auroc.predictive_entropy"]
    assert score.held_by == 8
    assert score.p_value(17) == replace(score, held_by=None).p_value(8)
    assert few_hold({method: of.boards[0] for method, of in made.items()}) == []


def test_the_images_that_hold_a_score_are_merged_and_saved() -> None:
    (a,), (b,) = (boards(4, 2, seed, unseen=3)["mcbn"].boards for seed in (1, 2))
    a.merge(b)
    again = Scoreboard.of(a.state())
    for board in (a, again):
        assert [board.units_for(name) for name in ("unseen_ap.m", "error_ap.m", "nll")] == [6, 8, 8]
    older = {name: value for name, value in a.state().items() if not name.endswith("0/units")}
    with pytest.raises(WrongUse, match=r"of another version of segment.*begin anew"):
        Scoreboard.of(older)


def of_a_rare_class(held: int, seed: int) -> Score:
    """The difference in mIoU of two methods, equal in distribution, over 30 images, `held` of which hold one class."""
    rng = np.random.default_rng(seed)
    weights = np.stack([poisson_weights(f"{seed} {number}") for number in range(30)])  # N R
    estimates = []
    labelled = np.array([[1000, 1000, 200 * (number < held)] for number in range(30)])
    for _ in range(2):
        right = (labelled * rng.beta(6, 2, (30, 3))).astype(np.int64)
        counts = np.stack([right, labelled, right + (labelled * rng.uniform(0, 0.2, (30, 3))).astype(np.int64)], axis=1)
        value = float(mean_iou(counts.sum(axis=0)))
        drawn = mean_iou(np.tensordot(weights.T, counts, axes=1))
        estimates.append(Score(value, value, drawn, "", rarest=held))
    return estimates[0].minus(estimates[1])


@pytest.mark.parametrize("held", [4, 6])
def test_equal_methods_are_seldom_called_different_by_a_class_that_few_images_hold(held: int) -> None:
    found = [of_a_rare_class(held, seed) for seed in range(400)]
    assert np.mean([(score.p_value(30) or 1) <= 0.05 for score in found]) <= 0.05
    assert np.mean([(score.p_value(30) or 1) <= 0.05 / 9 for score in found]) <= 0.0125  # two standard errors above


def test_the_images_that_hold_the_rarest_class_count_the_degrees_of_freedom_of_a_mean_over_classes() -> None:
    made = boards(17, 2, 5, third=4)
    by_score = {each.score: each for each in compare(made)}
    (miou,), (nll,) = (by_score[name].differences.values() for name in ("miou", "nll"))
    score = made["mcbn"].estimates[0]["miou"].minus(made["deterministic"].estimates[0]["miou"])
    assert abs(miou["p"] - (replace(score, rarest=None).p_value(4) or 0)) < 1e-12
    assert "images" not in miou
    assert nll["p"] is not None
    (line,) = few_hold({method: of.boards[0] for method, of in made.items()})
    assert line.startswith("The rarest class, 'c', is in the labels of 4 images, of 17: differences in mIoU and Dice")
    (a,), (b,) = (boards(4, 2, seed, third=3)["mcbn"].boards for seed in (1, 2))
    a.merge(b)
    assert a.rarest_class() == Scoreboard.of(a.state()).rarest_class() == (6, "'c'")


@pytest.mark.parametrize("images", [2, 3, 5])
def test_so_few_images_show_no_difference(images: int) -> None:
    for seed in range(3):
        made = boards(images, 2, seed)
        compared, gained = compare(made), gains(made)
        for differences in [*(each.differences for each in compared), *(each.differences for each in gained)]:
            assert {verdict(entry) for entry in differences.values()} <= {
                "not significant: too few to test",
                "no interval",
            }
        assert not any("Significantly best" in line for line in in_short(compared, gained, images))


def test_the_best_of_many_equal_methods_is_called_better_than_any_in_few_runs() -> None:
    runs, wrong = 40, 0
    for seed in range(runs):
        found = [verdict(entry) for each in compare(boards(30, 6, 1000 + seed)) for entry in each.differences.values()]
        wrong += "significant" in found
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)
