"""Laws of intervals and tests over groups of images: each group is drawn as a whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from segment.errors import WrongUse
from segment.jobs.labelled.leakage import few_hold
from segment.ranking.quality import ranking_scores
from segment.report.best_methods import in_short
from segment.report.method_comparison import MethodBoards, compare, gains
from segment.scores.functional.image_level import spearman_replicates
from segment.scores.intervals import poisson_weights, spearman_over_groups
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard, paired_differences

PLAN = ScorePlan(classes=("a", "b", "c"), measures=("predictive_entropy",), void=255, unseen=(7,))
Image = tuple[NDArray[np.float32], dict[str, Any], NDArray[np.int64]]


def image(seed: int, sharp: float = 1.0) -> Image:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(3, 0.4), size=(8, 9)).transpose(2, 0, 1).astype(np.float32)
    label = np.where(rng.random((8, 9)) < 0.1 * (seed % 7), rng.integers(0, 3, (8, 9)), p.argmax(axis=0))
    label[rng.random((8, 9)) < 0.05] = 7
    p = p**sharp / (p**sharp).sum(axis=0)
    return p, {"predictive_entropy": (1 - p.max(axis=0)) * rng.random((8, 9))}, label


def board(members: Sequence[tuple[str, str | None, int]], sharp: float = 1.0) -> Scoreboard:
    """Of (id, group, the seed of the image)."""
    made = Scoreboard(PLAN)
    for identity, group, seed in members:
        made.update(identity, *image(seed, sharp), group=group)
    return made


def renamed(content: dict[str, Any]) -> Any:
    """With what is said of groups said of images."""
    return json.loads(json.dumps(content).replace("groups", "images"))


SINGLE = [(f"scene {seed}", None, seed) for seed in range(10)]
GROUPED = [(f"{seed}/{number}", f"scene {seed}", seed) for seed in range(10) for number in range(3)]
"""Of the same images, each three times in a group: it says no more than one alone."""


def alike(name: str, entry: dict[str, Any], copied: dict[str, Any]) -> bool:
    """Scores of ranked pixels are means over coverages, of which copies have more."""
    ranked = "." in name or " of the best" in name
    left, right = (
        {k: v for k, v in e.items() if k not in ("exact_to", "holm_p", "why") and v is not None}
        for e in (entry, renamed(copied))
    )
    return bool(right == (pytest.approx(left, rel=0.05, abs=0.02) if ranked else pytest.approx(left, abs=1e-9)))


def test_a_group_of_copies_says_what_one_of_them_says() -> None:
    one, three = board(SINGLE), board(GROUPED)
    assert (three.images, three.units, three.over) == (30, 10, "groups")
    alone, copies = one.compute()["scores"], three.compute()["scores"]
    for name, entry in alone.items():
        assert "_rank_" in name or alike(name, entry, copies[name]), name
    other, others = board(SINGLE, 1.3), board(GROUPED, 1.3)
    before, after = paired_differences(one, other), paired_differences(three, others)
    for name, entry in before.items():
        assert alike(name, entry, after[name]), name
    first, second = (
        {"mcbn": MethodBoards((a,), 4, 0.1), "deterministic": MethodBoards((b,), 1, 0.1)}
        for a, b in ((one, other), (three, others))
    )
    for gain, same in zip(gains(first), gains(second), strict=True):
        assert gain.differences.keys() == same.differences.keys()
        for name, difference in gain.differences.items():
            assert alike(name, dict(difference), dict(same.differences[name])), name
    apart = board([(identity, None, seed) for identity, _, seed in GROUPED]).compute()["scores"]["nll"]
    assert apart["high"] - apart["low"] < 0.75 * (alone["nll"]["high"] - alone["nll"]["low"]), "the fault it is for"


def test_a_group_of_one_is_the_image() -> None:
    named = board([(identity, identity, seed) for identity, _, seed in SINGLE])
    scores = renamed(named.compute())["scores"]
    for name, entry in board(SINGLE).compute()["scores"].items():
        if "_rank_" not in name:
            assert scores[name] == entry, name


@settings(max_examples=3, deadline=None)
@given(st.permutations(GROUPED), st.integers(0, 30))
def test_groups_that_shards_divide_merge_and_are_saved_to_the_same_bits(
    order: list[tuple[str, str | None, int]], cut: int
) -> None:
    whole, merged = board(GROUPED), board(order[:cut])
    merged.merge(Scoreboard.of(board(order[cut:]).state()))
    assert json.dumps(merged.compute()) == json.dumps(whole.compute())
    assert merged.groups == Scoreboard.of(whole.state()).groups == whole.groups


def test_the_weighted_rank_correlation_is_that_of_repeated_images() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 6, 25).astype(float), rng.normal(size=25)
    weights = rng.poisson(1, (40, 25)).astype(float)
    weights[0] = 0
    found = spearman_replicates(x, y, weights)
    assert np.isnan(found[0])
    for replicate, of in zip(found[1:], weights[1:].astype(int), strict=True):
        assert replicate == pytest.approx(stats.spearmanr(np.repeat(x, of), np.repeat(y, of)).statistic)


def test_the_interval_of_a_rank_correlation_is_over_groups() -> None:
    """Images of a group that are alike leave as wide an interval as one of each."""
    rng = np.random.default_rng(4)
    centre = rng.normal(size=15)
    x, y = centre, centre + rng.normal(size=15)
    names = [f"patient {number}" for number in range(15)]
    one = spearman_over_groups(x, y, names)
    many = spearman_over_groups(np.repeat(x, 8), np.repeat(y, 8), list(np.repeat(names, 8)))
    assert one is not None
    assert many == pytest.approx(one, abs=1e-9)
    assert spearman_over_groups(x, y, ["a"] * 10 + ["b"] * 3 + ["c"] * 2) is None
    of = {str(number): names[number // 8] for number in range(120)}
    ranked = ranking_scores(list(of), np.repeat(x, 8), np.repeat(1 / (1 + np.exp(y)), 8), 0.5, of)
    assert (ranked["spearman"]["low"], ranked["spearman"]["high"]) == pytest.approx(one, abs=1e-9)
    apart = ranking_scores(list(of), np.repeat(x, 8), np.repeat(1 / (1 + np.exp(y)), 8), 0.5)
    for name in ("spearman", "aurc", "failure_auroc"):
        width, over_images = (each[name]["high"] - each[name]["low"] for each in (ranked, apart))
        assert width > 1.5 * over_images, name


def test_the_ranks_of_a_scoreboard_are_over_its_groups() -> None:
    scores = board(GROUPED).compute()["scores"]
    entry = scores["accuracy_rank_mean.predictive_entropy"]
    rows = board(GROUPED).per_image()
    names = [row["id"].partition("/")[0] for row in rows]
    x, y = (np.array([row[name] for row in rows]) for name in ("mean.predictive_entropy", "accuracy"))
    assert (entry["low"], entry["high"]) == spearman_over_groups(x, -y, [f"scene {name}" for name in names])
    few = board(GROUPED[:9]).compute()["scores"]["accuracy_rank_mean.predictive_entropy"]
    assert (few["low"], few["why"]) == (
        None,
        "an interval needs four groups or more, and a correlation between -1 and 1",
    )


def test_an_interval_over_groups_covers_what_one_over_images_misses() -> None:
    """Ten patients of six slices, whose rate of right pixels is the patient's: 95 % intervals of the mean rate."""
    rng = np.random.default_rng(0)
    plan = ScorePlan(classes=("a", "b"), replicates=100)
    p = np.broadcast_to(np.array([0.75, 0.25], dtype=np.float32)[:, None, None], (2, 1, 10)).copy()
    covered = {"groups": 0, "images": 0}
    runs = 30
    for run in range(runs):
        labels = [(rng.random((6, 1, 10)) > rate).astype(int) for rate in rng.beta(3, 2, size=10)]  # mean .6
        for over in covered:
            scored = Scoreboard(plan)
            for patient, of_patient in enumerate(labels):
                for number, label in enumerate(of_patient):
                    group = f"{run}/{patient}" if over == "groups" else None
                    scored.update(f"{run}/{patient}/{number}", p, {}, label, group=group)
            accuracy = scored.compute()["scores"]["accuracy"]
            covered[over] += accuracy["low"] <= 0.6 <= accuracy["high"]
    assert stats.binomtest(covered["groups"], runs, 0.92).pvalue > 1e-3, covered
    assert covered["images"] < 0.8 * runs, covered


def test_what_few_groups_hold_and_how_few_they_are_is_said_of_groups() -> None:
    two = board([(f"{seed}/{n}", f"site {seed % 2}", seed) for seed in range(6) for n in range(2)])
    lines = few_hold({"mcbn": two})
    assert lines == []
    methods = {"mcbn": MethodBoards((two,), 4, 0.1), "deterministic": MethodBoards((two,), 1, 0.1)}
    assert in_short(compare(methods), [], two.units, two.over) == [
        "With 2 groups no difference can be significant: 6 are the least."
    ]
    one = board([(f"scene {seed}", "the only site", seed) for seed in range(6)])
    entry = one.compute()["scores"]["nll"]
    assert (entry["low"], entry["why"]) == (None, "an interval needs two groups or more")
    seen = [(f"{seed}/{n}", f"site {seed}", seed) for seed in range(8) for n in range(2)]
    rare = Scoreboard(PLAN)
    for identity, group, seed in seen:
        p, maps, label = image(seed)
        rare.update(identity, p, maps, np.where((label == 7) & (seed > 2), 0, label), group=group)
    (line,) = few_hold({"mcbn": rare})
    assert line.startswith("3 groups hold unseen pixels, of 8:")
    assert rare.compute()["scores"]["unseen_auroc.predictive_entropy"]["groups"] == 3


def test_a_group_is_drawn_by_its_name() -> None:
    weights = poisson_weights("site 1", PLAN.replicates)
    made = board([("a", "site 1", 1), ("b", "site 1", 2)])
    alone = board([("a", None, 1), ("b", None, 2)])
    right = np.array([row["accuracy"] * row["pixels"] for row in alone.per_image()]).sum()
    pixels = sum(row["pixels"] for row in alone.per_image())
    drawn = made.estimates()["accuracy"].replicates
    expected = np.where(weights > 0, right / pixels, np.nan)
    np.testing.assert_allclose(drawn, expected)


def test_scoreboards_of_other_groups_are_not_paired() -> None:
    with pytest.raises(WrongUse, match="the same groups"):
        paired_differences(board(GROUPED), board([(identity, None, seed) for identity, _, seed in GROUPED]))


def test_a_scoreboard_has_groups_or_none() -> None:
    grouped, single = board(GROUPED[:3]), board(SINGLE[:3])
    for mine, theirs in ((grouped, single), (single, grouped)):
        with pytest.raises(WrongUse, match="give every image its group, or none"):
            mine.merge(theirs)
    with pytest.raises(WrongUse, match="give every image its group, or none"):
        grouped.update("another", *image(1))
    assert grouped.images == 3, "a refused image changes nothing"
    empty = board([])
    empty.merge(grouped)
    empty.merge(board([]))
    assert empty.groups == grouped.groups
