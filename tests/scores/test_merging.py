"""Shards, order and resume give the same bits; intervals are those of a bootstrap over images."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from segment.errors import WrongUse
from segment.scores.intervals import poisson_weights
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard, paired_differences

PLAN = ScorePlan(
    classes=("a", "b", "c"),
    measures=("variance",),
    void=255,
    unseen=(7,),
    thresholds={"variance": (0.1, 0.2, 0.1)},
    validation_accuracy=0.7,
    replicates=50,
)


def image(seed: int, hard: float = 0.3) -> tuple[NDArray[np.float32], dict[str, Any], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(3, 0.4), size=(12, 9)).transpose(2, 0, 1).astype(np.float32)
    uncertainty = 1 - p.max(axis=0)
    wrong = rng.random((12, 9)) < hard + uncertainty / 2
    label = np.where(wrong, rng.integers(0, 3, (12, 9)), p.argmax(axis=0))
    label[rng.random((12, 9)) < 0.1] = 255
    label[rng.random((12, 9)) < 0.05] = 7
    return p, {"variance": uncertainty * rng.random((12, 9))}, label


IMAGES = {f"scene/{i}": image(i, hard=0.05 * (i % 8)) for i in range(12)}


def over(ids: list[str], plan: ScorePlan = PLAN) -> Scoreboard:
    board = Scoreboard(plan)
    for identity in ids:
        board.update(identity, *IMAGES[identity])
    return board


def unchanged(before: dict[str, NDArray[Any]], board: Scoreboard) -> None:
    after = board.state()
    assert before.keys() == after.keys()
    for name, value in after.items():
        np.testing.assert_array_equal(before[name], value, err_msg=name)


def same_bits(first: Scoreboard, second: Scoreboard) -> None:
    unchanged(first.state(), second)
    assert json.dumps(first.compute(), allow_nan=False) == json.dumps(second.compute(), allow_nan=False)
    assert first.per_image() == second.per_image()


WHOLE = over(list(IMAGES))


@settings(max_examples=8, deadline=None)
@given(st.permutations(list(IMAGES)), st.integers(0, 12), st.integers(0, 12))
def test_any_order_and_any_shards_merge_to_the_bits_of_one_pass(order: list[str], cut: int, other_cut: int) -> None:
    first, second = sorted((cut, other_cut))
    merged = over(order[first:second])
    merged.merge(over(order[:first]))
    merged.merge(over(order[second:]))
    same_bits(merged, WHOLE)


def test_a_state_saved_as_plain_arrays_goes_on_where_it_stopped() -> None:
    file = io.BytesIO()
    arrays: dict[str, Any] = over(list(IMAGES)[:5]).state()
    np.savez(file, **arrays)
    file.seek(0)
    with np.load(file, allow_pickle=False) as saved:
        board = Scoreboard.of(saved)
    assert board.plan == PLAN
    for identity in list(IMAGES)[5:]:
        board.update(identity, *IMAGES[identity])
    same_bits(board, WHOLE)


def test_reset_forgets_everything() -> None:
    board = over(list(IMAGES)[:3])
    board.reset()
    same_bits(board, Scoreboard(PLAN))


def test_compute_changes_nothing() -> None:
    board = over(list(IMAGES)[:4])
    before = board.state()
    assert json.dumps(board.compute()) == json.dumps(board.compute())
    unchanged(before, board)


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    sizes = [
        sum(v.nbytes for n, v in over(list(IMAGES)[:n]).state().items() if "counts/" in n or "replicates/" in n)
        for n in (1, 12)
    ]
    assert sizes[0] == sizes[1]


def test_an_image_counts_once_and_only_shards_of_one_plan_merge() -> None:
    board = over(["scene/1"])
    before = board.state()
    with pytest.raises(WrongUse, match="'scene/1' was counted before"):
        board.update("scene/1", *IMAGES["scene/1"])
    with pytest.raises(WrongUse, match="'scene/1' is in both"):
        board.merge(over(["scene/1", "scene/2"]))
    with pytest.raises(WrongUse, match="void 255 and None"):
        board.merge(Scoreboard(ScorePlan(classes=("a", "b", "c"))))
    unchanged(before, board)


def test_an_image_weighs_the_same_everywhere_and_weights_are_poisson() -> None:
    np.testing.assert_array_equal(poisson_weights("street/0001"), poisson_weights("street/0001"))
    weights = np.concatenate([poisson_weights(f"image {i}") for i in range(500)])
    counts = np.bincount(weights.clip(max=6), minlength=7)
    share = np.append(stats.poisson(1).pmf(range(6)), stats.poisson(1).sf(5))
    assert stats.chisquare(counts, share * weights.size).pvalue > 1e-3


def test_replicates_are_the_scores_of_weighted_images() -> None:
    """A replicate of weights w is what the score would be with every image there w times."""
    estimated = WHOLE.estimates()
    weights = np.stack([poisson_weights(name, 50) for name in IMAGES])
    for replicate in (0, 7, 31):
        right = pixels = 0
        pairs: list[tuple[float, bool]] = []
        for (p, maps, label), weight in zip(IMAGES.values(), weights[:, replicate], strict=True):
            valid = label < 3
            hit = (p.argmax(axis=0) == label)[valid]
            right, pixels = right + weight * hit.sum(), pixels + weight * hit.size
            pairs += list(zip(maps["variance"][valid], hit, strict=True)) * int(weight)
        assert estimated["accuracy"].replicates[replicate] == pytest.approx(right / pixels)
        order = sorted(pairs, key=lambda pair: pair[0])
        errors = np.array([not hit for _, hit in order], dtype=np.int64).cumsum()
        risk = float((errors / np.arange(1, len(order) + 1)).mean())
        assert estimated["aurc.variance"].replicates[replicate] == pytest.approx(risk, abs=0.02)


def test_intervals_hold_the_score_and_cover_as_often_as_they_say() -> None:
    for entry in WHOLE.compute()["scores"].values():
        if entry["low"] is not None:
            assert entry["low"] <= entry["value"] <= entry["high"]
    rng = np.random.default_rng(0)
    plan = ScorePlan(classes=("a", "b"), replicates=100)
    p = np.broadcast_to(np.array([0.75, 0.25], dtype=np.float32)[:, None, None], (2, 1, 10)).copy()
    covered, truth, runs = 0, 0.6, 60
    for run in range(runs):
        board = Scoreboard(plan)
        for i in range(25):
            rate = rng.beta(3, 2)  # images differ: mean .6
            board.update(f"{run}/{i}", p, {}, (rng.random((1, 10)) > rate).astype(int))
        accuracy = board.compute()["scores"]["accuracy"]
        covered += accuracy["low"] <= truth <= accuracy["high"]
    assert stats.binomtest(covered, runs, 0.95).pvalue > 1e-3, covered


def test_paired_differences_are_narrower_than_the_scores_they_compare() -> None:
    worse = Scoreboard(PLAN)
    for identity, (p, maps, label) in IMAGES.items():
        flatter = (0.97 * p + 0.01).astype(np.float32)
        worse.update(identity, flatter, maps, label)
    difference = paired_differences(WHOLE, worse)["nll"]
    before, after = WHOLE.compute()["scores"]["nll"], worse.compute()["scores"]["nll"]
    assert difference["value"] == pytest.approx(after["value"] - before["value"])
    assert difference["high"] - difference["low"] < 0.7 * (before["high"] - before["low"])
    nothing = paired_differences(WHOLE, over(list(IMAGES)))
    assert all(
        entry["low"] == entry["high"] == entry["value"] == 0 for entry in nothing.values() if entry["low"] is not None
    )
    with pytest.raises(WrongUse, match="the same images"):
        paired_differences(WHOLE, over(["scene/1"]))


def test_one_image_has_scores_but_no_interval() -> None:
    scores = over(["scene/3"]).compute()["scores"]
    assert scores["miou"]["value"] is not None
    assert scores["miou"]["low"] is scores["miou"]["high"] is None
    assert scores["miou"]["why"] == "an interval needs two images or more"


def test_nothing_that_leaves_is_nan() -> None:
    for board in (Scoreboard(PLAN), over(["scene/3"]), WHOLE):
        computed = board.compute()
        json.dumps(computed, allow_nan=False)
        for name, entry in computed["scores"].items():
            assert entry["value"] is not None or entry["why"], name
        for row in board.per_image():
            assert not any(isinstance(v, float) and math.isnan(v) for v in row.values())
