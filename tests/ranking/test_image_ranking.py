"""Laws of image rankings: scores against plain sums and other libraries, the predictor, diverse choices, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from segment.errors import WrongUse
from segment.jobs.decisions.regions import best_windows
from segment.jobs.evaluation.image_ranking import rank_images
from segment.ranking.columns import ranking_columns, uncertainty_of, values
from segment.ranking.diversity import diverse
from segment.ranking.predictor import LEAST_IMAGES, Predictor, fit_predictor
from segment.ranking.quality import finding, ranking_scores
from segment.report.results import Validation
from segment.report.results_page import image_ranking_sentences
from segment.scores.functional.image_level import spearman
from segment.scores.intervals import poisson_weights


def images(count: int, seed: int = 0, noise: float = 0.02) -> list[dict[str, Any]]:
    """Rows whose Dice is a sum of two of their numbers."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        soft, mean = rng.uniform(0.5, 0.9), rng.uniform(0, 0.4)
        dice = 0.6 * soft - 0.8 * mean + 0.3 + rng.normal(0, noise)
        row = {"id": f"s{number:03d}", "accuracy": 1 - mean, "dice": dice, "soft_dice": soft, "mean.variance": mean}
        rows.append(row | {"iou.road": 0.5, "area.variance": rng.random()})
    return rows


def test_the_scores_of_a_ranking_are_those_of_plain_sums_and_other_libraries() -> None:
    rng = np.random.default_rng(0)
    quality = rng.random(30)
    uncertain = np.round(1 - quality + rng.normal(0, 0.3, 30), 1)  # with ties
    scores = ranking_scores([str(i) for i in range(30)], uncertain, quality, 0.4)
    assert scores["spearman"]["value"] == pytest.approx(spearmanr(uncertain, 1 - quality).statistic)
    assert scores["failure_auroc"]["value"] == pytest.approx(roc_auc_score(quality < 0.4, uncertain))
    loss = {u: float(np.mean(1 - quality[uncertain == u])) for u in set(uncertain.tolist())}
    ordered = [loss[u] for u in sorted(uncertain.tolist())]
    expected = np.mean([np.mean(ordered[: k + 1]) for k in range(30)])
    assert scores["aurc"]["value"] == pytest.approx(expected)
    for name in scores:
        assert scores[name]["low"] < scores[name]["value"] < scores[name]["high"]


def test_a_correlation_is_a_finding_only_where_its_interval_leaves_out_0() -> None:
    rng = np.random.default_rng(1)
    quality = rng.random(40)
    chance = ranking_scores([str(i) for i in range(40)], rng.random(40), quality, 0.5)
    assert not finding(chance["spearman"])
    assert finding(ranking_scores([str(i) for i in range(40)], -quality, quality, 0.5)["spearman"])


@pytest.mark.parametrize(
    ("quality", "why"),
    [
        ([0.5], "fewer than two"),
        ([0.9, 0.9, 0.9], "no image"),
        ([0.1, 0.2, 0.1], "every image"),
        ([], "fewer than two"),
    ],
)
def test_degenerate_images_give_a_reason_and_never_nan(quality: list[float], why: str) -> None:
    ids = [str(number) for number in range(len(quality))]
    scores = ranking_scores(ids, np.zeros(len(quality)), np.array(quality), 0.5)
    assert "nan" not in str(scores)
    assert why in scores["failure_auroc"]["why"]
    assert scores["spearman"]["value"] is None


def test_a_predictor_learns_a_sum_of_numbers_and_ranks_new_images_better_than_each_of_them() -> None:
    predictor = fit_predictor(images(60), "dice")
    fresh = images(80, seed=1)
    truth = [row["dice"] for row in fresh]
    together = spearmanr(predictor(fresh), truth).statistic
    assert together > 0.95
    for column in predictor.features:
        assert spearmanr(-uncertainty_of(fresh, column), truth).statistic < together
    assert set(predictor.features) == {"soft_dice", "mean.variance"}  # not what needs labels or a threshold
    assert predictor.better
    read = Predictor.of(predictor.as_dict())
    np.testing.assert_array_equal(read(fresh), predictor(fresh))
    missing = [{"id": "x", "soft_dice": 0.7}]
    assert np.isfinite(predictor(missing)).all()


def test_too_few_images_or_images_that_are_all_alike_are_not_fitted() -> None:
    with pytest.raises(WrongUse, match=f"needs {LEAST_IMAGES}"):
        fit_predictor(images(LEAST_IMAGES - 1), "dice")
    same = [row | {"dice": 1.0} for row in images(30)]
    with pytest.raises(WrongUse, match="the same dice"):
        fit_predictor(same, "dice")
    with pytest.raises(WrongUse, match="No number that ranks"):
        fit_predictor([{"id": str(i), "dice": i / 30} for i in range(30)], "dice")


def test_rankings_are_chosen_on_validation_images_and_their_words_say_what_is_no_finding() -> None:
    rows, held_out = {"mcbn": images(40, seed=2)}, images(40, seed=3)
    validated = Validation({}, {}, {}, 40, {}, {"mcbn": held_out})
    ranking = rank_images(rows, validated)
    of_method = ranking["methods"]["mcbn"]
    assert of_method["best"]["dice"]["column"] == "predicted_dice"
    assert of_method["fails_below"]["dice"] == pytest.approx(np.quantile([row["dice"] for row in held_out], 0.25))
    assert rows["mcbn"][0]["predicted_dice"] == pytest.approx(rows["mcbn"][0]["dice"], abs=0.1)
    assert any(
        "ranked by their Dice best by predicted_dice of mcbn" in line for line in image_ranking_sentences(ranking)
    )
    spearmans = {column: of["dice"]["spearman"]["value"] for column, of in of_method["columns"].items()}
    assert spearmans[of_method["hindsight"]["dice"]] == max(spearmans.values())
    rng = np.random.default_rng(4)
    chance = {"mcbn": [row | {"dice": rng.random(), "accuracy": rng.random()} for row in images(12, seed=5)]}
    lines = image_ranking_sentences(rank_images(chance, Validation.none()))
    assert all(line.startswith("- No number is shown to rank images by their ") for line in lines)
    assert all(". The nearest is " in line for line in lines)
    assert lines
    assert image_ranking_sentences(rank_images({"mcbn": images(1)}, Validation.none())) == []


def test_without_a_predictor_the_column_is_chosen_on_validation_images_all_the_same() -> None:
    held_out = images(12, seed=3)
    ranking = rank_images({"mcbn": images(40, seed=2)}, Validation({}, {}, {}, 12, {}, {"mcbn": held_out}))
    best = ranking["methods"]["mcbn"]["best"]["dice"]
    assert best["why"].startswith("best on 12 validation images: Spearman")
    rho = {
        column: spearman(uncertainty_of(held_out, column), 1 - values(held_out, "dice"))[0]
        for column in ranking["methods"]["mcbn"]["columns"]
    }
    assert rho[best["column"]] == max(rho.values())
    few = Validation({}, {}, {}, 5, {}, {"mcbn": held_out[:5]})
    alone = rank_images({"mcbn": images(40, seed=2)}, few)["methods"]["mcbn"]["best"]["dice"]
    assert "these very images" in alone["why"]


def test_a_column_that_some_images_lack_is_not_chosen_where_another_has_all_of_them() -> None:
    rows = [row | {"interior.variance": -row["dice"]} for row in images(40)]
    of_method = rank_images({"mcbn": rows}, Validation.none())["methods"]["mcbn"]
    assert of_method["best"]["dice"]["column"] == "interior.variance"
    del rows[7]["interior.variance"]
    of_method = rank_images({"mcbn": rows}, Validation.none())["methods"]["mcbn"]
    assert of_method["best"]["dice"]["column"] != of_method["hindsight"]["dice"] == "interior.variance"


@given(st.integers(0, 2**32 - 1), st.integers(2, 7), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_a_diverse_choice_leaves_no_image_twice_as_far_as_the_best_choice_does(seed: int, images: int, k: int) -> None:
    features = np.random.default_rng(seed).normal(size=(images, 2))
    scaled = features / features.std(axis=0)
    apart = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)

    def radius(chosen: Iterable[int]) -> float:
        return float(apart[list(chosen)].min(axis=0).max())

    k = min(k, images)
    chosen = diverse(features, k)
    assert len(set(chosen)) == k
    assert diverse(features, k + 1)[:k] == chosen, "more images are the same and further ones"
    with_first = min(radius((0, *others)) for others in itertools.combinations(range(1, images), k - 1))
    best = min(radius(some) for some in itertools.combinations(range(images), k))
    assert with_first - 1e-9 <= radius(chosen) <= 2 * best + 1e-9  # Gonzalez 1985
    assert diverse(3 * features + 1, k) == chosen, "whatever the unit"


def test_an_image_twice_is_chosen_twice_only_after_all_others() -> None:
    features = np.array([[0.0], [0.0], [1.0], [1.0], [3.0]])
    assert {float(features[index, 0]) for index in diverse(features, 3)} == {0.0, 1.0, 3.0}
    assert sorted(diverse(features, 5)) == [0, 1, 2, 3, 4]


def test_a_diverse_choice_covers_the_candidates() -> None:
    rng = np.random.default_rng(6)
    clusters = np.concatenate([centre + 0.01 * rng.normal(size=(5, 2)) for centre in (0.0, 3.0, 9.0)])
    assert len({index // 5 for index in diverse(clusters, 3)}) == 3
    assert diverse(clusters, 99)[0] == 0
    assert sorted(diverse(np.zeros((4, 2)), 4)) == [0, 1, 2, 3]
    assert diverse(np.zeros((0, 2)), 3) == []


def test_windows_do_not_overlap_and_the_first_has_the_highest_mean() -> None:
    values = np.zeros((40, 60), dtype=np.float32)
    values[24:40, 44:60], values[0:16, 0:16] = 1.0, 0.5
    boxes = best_windows(values, 16, 2)
    assert [box[:4] for box in boxes] == [(24, 44, 16, 16), (0, 0, 16, 16)]
    assert [box[4] for box in boxes] == [1.0, 0.5]
    assert best_windows(np.ones((4, 5), dtype=np.float32), 16, 3) == [(0, 0, 4, 5, 1.0)]


def test_windows_of_pixels_without_data_are_none_and_others_count_what_they_have() -> None:
    values = np.full((16, 48), np.nan, dtype=np.float32)
    values[:, 32:], values[:10, 16:32] = 0.5, 1.0  # ten rows of sixteen hold data in the middle, none on the left
    assert best_windows(values, 16, 3) == [(0, 16, 16, 16, 1.0), (0, 32, 16, 16, 0.5)]
    assert best_windows(np.full((16, 16), np.nan, dtype=np.float32), 16, 3) == []


def test_columns_that_need_labels_do_not_rank() -> None:
    assert ranking_columns(images(2)) == ("soft_dice", "mean.variance")


def test_a_perfect_rank_correlation_has_no_interval_and_is_no_finding_in_four_images() -> None:
    scores = ranking_scores(list("abcd"), np.arange(4.0), 1 - np.arange(4.0) / 4, 0.5)["spearman"]
    assert scores["value"] == pytest.approx(1)
    assert scores["low"] is None
    assert "a correlation between -1 and 1" in scores["why"]
    assert scores["p"] == pytest.approx(2 / 24)
    assert not finding(scores)


def test_a_perfect_rank_correlation_of_ties_has_the_p_of_all_their_orders() -> None:
    uncertainty, quality = np.array([*[0.1] * 7, 0.9]), np.array([*[0.8] * 7, 0.2])
    scores = ranking_scores(list("abcdefgh"), uncertainty, quality, 0.5)["spearman"]
    orders = [spearmanr(uncertainty, 1 - quality[np.roll(np.arange(8), turn)]).statistic for turn in range(8)]
    assert scores["p"] == pytest.approx(np.mean(np.abs(orders) > 1 - 1e-9)) == 1 / 8
    assert not finding(scores)


@pytest.mark.parametrize("share", [0.3, 0.8, 1.0])
def test_the_interval_of_an_aurc_with_ties_is_that_of_a_plain_bootstrap(share: float) -> None:
    rng = np.random.default_rng(3)
    ids = [f"i{number}" for number in range(30)]
    quality = rng.beta(4, 2, 30)
    uncertainty = np.where(np.arange(30) < share * 30, 0, rng.random(30))
    drawn = []
    for weights in np.stack([poisson_weights(name) for name in ids], axis=1):
        area = taken = lost = 0.0
        for image in sorted(range(30), key=uncertainty.__getitem__):
            equal = uncertainty == uncertainty[image]
            if weights[image]:
                taken += weights[image]
                lost += weights[image] * np.average(1 - quality[equal], weights=weights[equal])
                area += weights[image] * lost / taken
        drawn.append(area / weights.sum())
    found = ranking_scores(ids, uncertainty, quality, 0.5)["aurc"]
    assert (found["low"], found["high"]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]))
