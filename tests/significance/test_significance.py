"""Laws of comparisons: tests against enumeration and other libraries, corrections, and what degenerate input says."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import roc_auc_score

from segment.report.comparison_rows import screen_rows
from segment.report.run_comparison import TESTED, RunComparison, compare_rows, comparison_sentences, table_of
from segment.scores.functional.binning import bin_of
from segment.significance.corrections import holm, verdict
from segment.significance.estimated_accuracy import atc, doc
from segment.significance.paired import bootstrap_mean, paired_test, sign_flip_p, smallest_difference
from segment.significance.unpaired import auroc_of_samples, unpaired_test


def rows(values: np.ndarray, column: str = "nll", prefix: str = "s") -> dict[str, dict[str, float]]:
    return {f"{prefix}{number}": {column: float(value)} for number, value in enumerate(values)}


def test_the_sign_flip_test_is_the_share_of_all_signs_with_as_large_a_mean() -> None:
    d = np.random.default_rng(0).normal(0.4, 1, size=9)
    means = np.array([np.mean(d * signs) for signs in product((-1, 1), repeat=9)])
    above = (means >= d.mean() - 1e-12).mean()
    assert sign_flip_p(d) == pytest.approx(min(1.0, 2 * min(above, 1 - above + (means == d.mean()).mean())), abs=1e-9)


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        p = rng.random(8) ** 3
        adjusted = holm({str(i): float(value) for i, value in enumerate(p)})
        rejected = set()
        for step, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (len(p) - step):
                break
            rejected.add(str(index))
        assert {name for name, value in adjusted.items() if value <= 0.05} == rejected
    assert holm({}) == {}
    assert verdict(None) == "not significant"


def test_of_twenty_numbers_without_a_difference_one_is_called_significant_in_few_sets_only() -> None:
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(40):
        a = {f"s{i}": {"nll": 0.0, "accuracy": 0.0, "dice": 0.0} for i in range(20)}
        b = {name: {column: float(rng.normal()) for column in row} for name, row in a.items()}
        wrong += bool(compare_rows(("a", "b"), a, b).significant)
    assert wrong <= 6  # .05 of 40 is 2, its binomial 99 % end 6


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(60):
        interval = bootstrap_mean(rng.exponential(size=60))
        assert interval.low is not None
        assert interval.high is not None
        inside += interval.low <= 1 <= interval.high
    assert inside >= 50


def test_auroc_and_ks_are_those_of_scikit_learn_and_scipy() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 8, 40) / 8, rng.integers(2, 10, 30) / 8
    truth = np.r_[np.zeros(40), np.ones(30)]
    assert auroc_of_samples(a, b) == pytest.approx(roc_auc_score(truth, np.r_[a, b]))
    test = unpaired_test(a, b)
    assert test is not None
    assert test.ks == pytest.approx(ks_2samp(a, b).statistic)
    assert test.auroc.low is not None
    assert test.auroc.low < test.auroc.value < (test.auroc.high or 0)


def test_the_same_numbers_twice_are_not_significant_and_a_clear_shift_is_with_its_direction() -> None:
    values = np.random.default_rng(5).random(40)
    same = compare_rows(("a", "b"), rows(values), rows(values))
    assert same.significant == []
    assert "equal on every image" in comparison_sentences(same)[0]
    moved = compare_rows(("clean", "fog"), rows(values), rows(values + 0.2))
    assert moved.significant == ["nll"]
    assert "NLL worse by 0.2" in comparison_sentences(moved)[0]
    assert table_of(moved)[1][0][-1] == "significant"
    columns, (row,) = screen_rows(moved)
    assert (columns[-1], row[0], row[-1]) == ("B is", "NLL ↓", "worse")
    assert screen_rows(same)[1][0][1:] == [row[1], row[1], "+.000 (+.000..+.000)", "–"]
    apart = compare_rows(("known", "unseen"), rows(values), rows(values + 0.6, prefix="t"))
    assert apart.unpaired["nll"].auroc.value > 0.85
    assert "share no image id" in comparison_sentences(apart)[-1]
    assert compare_rows(("a", "b"), rows(values), rows(values), pair=False).paired == {}


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_few_images_are_said_to_be_few_and_nothing_is_nan(count: int) -> None:
    values = np.linspace(0.1, 0.9, count)
    compared = compare_rows(("a", "b"), rows(values), rows(values + 0.5))
    text = " ".join(comparison_sentences(compared)) + str(table_of(compared)) + str(compared.as_dict())
    assert "nan" not in text
    if count < 6:
        assert compared.significant == []
        assert "no difference can be significant" in text or "cannot be tested" in text or "could be tested" in text
    else:
        assert "are few" in text


def test_numbers_that_no_image_or_one_run_has_are_left_out() -> None:
    a = {"x": {"nll": 0.1}, "y": {"dice": 0.5}}
    b = {"x": {"dice": 0.4}, "y": {"variance": 0.1}}
    compared = compare_rows(("a", "b"), a, b)
    assert compared.paired == {}
    assert "Nothing could be tested" in comparison_sentences(compared)[0]
    assert paired_test(np.array([np.nan]), np.array([1.0])) is None
    assert unpaired_test(np.array([1.0]), np.array([1.0, 2.0])) is None
    assert smallest_difference(np.array([1.0])) is None


@pytest.mark.parametrize(("images", "columns", "least"), [(5, 1, 6), (6, 2, 7), (8, 12, 9)])
def test_where_no_test_can_reach_significance_the_least_number_of_images_is_said(
    images: int, columns: int, least: int
) -> None:
    def compared(count: int) -> RunComparison:
        a = {f"{k}": dict.fromkeys(TESTED[:columns], 0.1 + k) for k in range(count)}
        b = {f"{k}": dict.fromkeys(TESTED[:columns], 1.1 + 1.01 * k) for k in range(count)}
        return compare_rows(("a", "b"), a, b)

    few, enough = compared(images), compared(least)
    measures = "1 measure" if columns == 1 else f"{columns} measures"
    sentence = f"With {images} images and {measures} no difference can be significant: {least} images are the least."
    assert sentence in comparison_sentences(few)
    assert "one time in five" not in " ".join(comparison_sentences(few))
    assert few.significant == []
    assert few.smallest == {}
    assert set(enough.significant) == set(TESTED[:columns])
    assert "one time in five" in " ".join(comparison_sentences(enough))


def test_the_smallest_difference_that_is_seen_grows_with_the_number_of_tests() -> None:
    rng = np.random.default_rng(3)
    values, tests, runs = rng.normal(size=(200, 60)), 8, 200
    limit = float(np.mean([smallest_difference(each, tests=tests) or np.nan for each in values]))
    found = sum(tests * sign_flip_p(each + limit, seed=0) <= 0.05 for each in values)
    assert 0.7 < found / runs < 0.9


def test_atc_and_doc_find_the_accuracy_of_a_calibrated_network_on_harder_images() -> None:
    rng = np.random.default_rng(6)

    def pixels(low: float) -> tuple[np.ndarray, np.ndarray]:
        p = rng.uniform(low, 1, size=40_000).astype(np.float32)
        return p, rng.random(p.size) < p

    def histogram(p: np.ndarray, right: np.ndarray) -> np.ndarray:
        counts = np.zeros((196609, 2), dtype=np.int64)
        np.add.at(counts, (bin_of(1 - p), (~right).astype(int)), 1)
        return counts

    (p, right), (q, hard) = pixels(0.6), pixels(0.4)
    labelled, unlabelled = histogram(p, right), histogram(q, hard)
    by_threshold = atc(labelled, unlabelled.sum(axis=1))
    assert by_threshold is not None
    threshold = np.quantile(1 - p, right.mean())
    assert by_threshold == pytest.approx(float((1 - q <= threshold).mean()), abs=1e-3)
    assert doc(right.mean(), float(p.mean()), float(q.mean())) == pytest.approx(hard.mean(), abs=0.01)
    assert atc(labelled, np.zeros(len(labelled), dtype=np.int64)) is None
