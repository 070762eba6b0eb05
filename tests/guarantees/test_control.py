"""Laws of thresholds with a guarantee: valid on data whose truth is known, and as other libraries compute them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import (
    compute_hoeffding_bentkus_p_value,
    find_best_predict_param,
    get_r_hat_plus,
)
from numpy.typing import NDArray
from scipy.stats import beta, binom, mannwhitneyu

from segment.guarantees import control
from segment.guarantees.shift import LEVEL, check_level, shift_test, smallest_p

SPLITS = 1000
RATE = np.linspace(0.0, 1.0, 40)
"""Thresholds: at the level c an image of difficulty d loses d c^2."""


def losses_of(difficulty: NDArray[np.float64]) -> NDArray[np.float64]:  # G -> G L
    return difficulty[:, None] * RATE**2


def test_the_mean_loss_of_new_images_keeps_the_limit_over_1000_calibrations() -> None:
    rng = np.random.default_rng(0)
    limit, images, found = 0.05, 200, []
    for _ in range(SPLITS):
        level = control.level_in_expectation(losses_of(rng.beta(0.5, 2, images)), limit)
        found.append(0.0 if level is None else losses_of(rng.beta(0.5, 2, 1))[0, level])
    assert np.mean(found) <= limit + 2 * np.std(found) / math.sqrt(SPLITS)
    # theorem 2 of the paper: no more than this is given away, but for the step between two thresholds
    assert np.mean(found) >= limit - 2 / (images + 1) - 2 * np.std(found) / math.sqrt(SPLITS) - 0.003


@pytest.mark.parametrize(("share", "images", "start"), [(0.9, 101, 0), (0.8, 60, 0), (0.9, 101, 12)])
def test_most_images_keep_the_limit_in_at_least_the_confidence_of_1000_calibrations(
    share: float, images: int, start: int
) -> None:
    rng = np.random.default_rng(1)
    limit, confidence, violated, most = 0.05, 0.95, 0, 0
    # an image of difficulty d ~ Beta(1, 3) is bad at the level c where d c^2 > limit
    truth = np.array([beta.sf(min(limit / max(c**2, 1e-12), 1.0), 1, 3) for c in RATE])
    for _ in range(SPLITS):
        bad = losses_of(rng.beta(1, 3, images)) > limit
        level = control.level_for_most(bad, share, confidence, start=start)
        assert level is not None
        violated += truth[level] > 1 - share
        most += level == np.flatnonzero(truth <= 1 - share)[-1]
    assert violated <= binom.ppf(0.999, SPLITS, 1 - confidence)
    assert most > SPLITS / 20, "a rule that never reaches the loosest valid level would be of no use"


def test_a_second_start_passes_over_strict_levels_that_are_worse() -> None:
    bad = np.zeros((101, 30), dtype=bool)
    bad[:12, :5] = True  # a few accepted pixels, one of them wrong
    bad[:3, 5:20] = True
    bad[:40, 20:] = True
    assert control.level_for_most(bad, 0.9, 0.95) is None
    assert control.level_for_most(bad, 0.9, 0.95, start=8) == 19


def test_a_start_where_all_is_bad_accepts_nothing() -> None:
    bad = np.ones((3000, 20), dtype=bool)
    assert control.level_for_most(bad, 0.9, 0.95, start=8) is None


def test_the_mean_keeps_the_limit_in_at_least_the_confidence_of_calibrations() -> None:
    rng = np.random.default_rng(2)
    limit, violated, accepted, runs = 0.05, 0, 0, 300
    for run in range(runs):
        level = control.level_of_mean(losses_of(rng.beta(1, 3, 200)), limit, 0.95, seed=run)
        assert level is not None
        violated += 0.25 * RATE[level] ** 2 > limit
        accepted += RATE[level] > 0.3  # an oracle reaches .447
    assert violated <= binom.ppf(0.999, runs, 0.05)
    assert accepted > runs / 2


@given(
    st.integers(1, 60),
    st.floats(0.001, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_the_level_in_expectation_is_the_last_whose_corrected_mean_keeps_the_limit(
    images: int, limit: float, seed: int
) -> None:
    losses = np.sort(np.random.default_rng(seed).beta(0.3, 5, (images, 12)), axis=1)
    level = control.level_in_expectation(losses, limit)
    holds = [images / (images + 1) * losses[:, i].mean() + 1 / (images + 1) <= limit for i in range(12)]
    assert level == (None if not any(holds) else max(i for i in range(12) if holds[i]))


@given(st.floats(0.001, 0.9))
def test_the_fewest_images_in_expectation_are_enough_without_an_error_and_one_less_is_not(limit: float) -> None:
    needed = control.needed_in_expectation(limit)
    assert control.level_in_expectation(np.zeros((needed, 1)), limit) == 0
    assert needed == 1 or control.level_in_expectation(np.zeros((needed - 1, 1)), limit) is None


@given(st.floats(0.5, 0.99), st.floats(0.5, 0.99))
@example(0.5, 0.5000000000000001)
def test_the_fewest_images_for_most_are_enough_without_a_bad_one_and_one_less_is_not(
    share: float, confidence: float
) -> None:
    needed = control.needed_for_most(share, confidence)
    assert control.level_for_most(np.zeros((needed, 1), dtype=bool), share, confidence) == 0
    assert needed == 1 or control.level_for_most(np.zeros((needed - 1, 1), dtype=bool), share, confidence) is None


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("limit", [0.01, 0.02, 0.05, 0.3, 0.9])
def test_the_fewest_images_for_the_mean_are_enough_without_an_error_and_one_less_is_not(
    limit: float, confidence: float
) -> None:
    needed = control.needed_for_mean(limit, confidence)
    assert needed >= np.log(1 - confidence) / np.log1p(-limit)  # what any method takes
    assert control.level_of_mean(np.zeros((needed, 1)), limit, confidence) == 0
    assert needed == 1 or control.level_of_mean(np.zeros((needed - 1, 1)), limit, confidence) is None


def test_a_mean_cannot_be_bounded_by_as_few_images_as_the_other_guarantees_take() -> None:
    assert control.needed_for_mean(0.02, 0.95) == 150
    rng = np.random.default_rng(3)
    losses = rng.beta(0.4, 0.4 / 0.012 - 0.4, (300, 1))  # a mean of .012
    losses += 0.012 - losses.mean()
    assert control.level_of_mean(np.clip(losses, 0, 1), 0.02, 0.95) in (None, 0)
    takes = control.images_for_mean(0.012, 0.02, 0.95)
    assert takes is not None
    assert takes > 300


@pytest.mark.parametrize("guarantee", ["expectation", "most", "mean"])
def test_no_image_at_all_accepts_nothing(guarantee: str) -> None:
    nothing = np.zeros((0, 3))
    levels = {
        "expectation": control.level_in_expectation(nothing, 0.05),
        "most": control.level_for_most(nothing.astype(bool), 0.9, 0.95),
        "mean": control.level_of_mean(nothing, 0.05, 0.95),
    }
    assert levels[guarantee] is None


@pytest.mark.parametrize("images", [30, 101])
def test_levels_in_expectation_are_those_of_mapie(images: int) -> None:
    losses = losses_of(np.random.default_rng(images).beta(1, 4, images))
    for limit in (0.05, 0.1, 0.2):
        _, bound = get_r_hat_plus(losses, RATE, "crc", None, None, None)
        (theirs,) = find_best_predict_param(RATE, bound, np.array([limit]))
        level = control.level_in_expectation(losses, limit)
        assert level is not None
        assert RATE[level] == theirs


@pytest.mark.parametrize("images", [30, 101, 400])
def test_levels_for_most_images_are_those_of_mapies_fixed_sequence(images: int) -> None:
    bad = losses_of(np.random.default_rng(images).beta(1, 3, images)) > 0.05
    for share in (0.8, 0.9):
        p = compute_hoeffding_bentkus_p_value(bad.mean(axis=0), images, 1 - share, binary=True)[:, 0]
        theirs = control_fwer(p, 0.05, "fixed_sequence")
        level = control.level_for_most(bad, share, 0.95)
        assert level is not None
        assert list(theirs) == list(range(level + 1))


def test_a_run_like_validation_is_called_shifted_as_rarely_as_promised() -> None:
    rng = np.random.default_rng(4)
    called = sum(shift_test(rng.gamma(2, 1, 60), rng.gamma(2, 1, 25)).shifted for _ in range(SPLITS))
    assert called <= binom.ppf(0.999, SPLITS, LEVEL)


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_heavily_tied_values_are_called_shifted_as_rarely_as_promised(share: float) -> None:
    rng = np.random.default_rng(8)

    def values(count: int) -> NDArray[np.float64]:  # almost all are 0
        return rng.gamma(2, 1, count) * (rng.random(count) < share)

    called = sum(shift_test(values(100), values(8)).shifted for _ in range(SPLITS))
    assert called <= binom.ppf(0.999, SPLITS, LEVEL)
    assert shift_test(values(100), 1 + values(8)).shifted


def test_a_shifted_run_is_called_so_and_the_p_value_is_that_of_an_exact_rank_test() -> None:
    rng = np.random.default_rng(5)
    reference, values = rng.gamma(2, 1, 60), rng.gamma(2, 2.5, 30)
    test = shift_test(reference, values)
    assert test.shifted
    assert test.p == mannwhitneyu(values, reference).pvalue
    assert test.auroc == pytest.approx(np.mean(values[:, None] > reference))


def test_one_image_cannot_be_called_shifted_at_one_percent_and_the_test_says_so() -> None:
    test = shift_test(np.arange(101.0), np.array([1e6]))
    assert not test.shifted
    assert test.why.startswith("too few images")
    assert test.p == pytest.approx(smallest_p(101, 1), rel=0.05)


@pytest.mark.parametrize("values", [np.zeros(0), np.ones(5)])
def test_a_shift_that_cannot_be_tested_has_no_p_value_but_a_reason(values: NDArray[np.float64]) -> None:
    test = shift_test(np.ones(20), values)
    assert test.p is None
    assert test.why
    assert not test.shifted


@pytest.mark.parametrize("tiny", [5e-324, 1e-300, 1e-17])
def test_a_limit_that_no_number_of_images_keeps_takes_more_than_the_most(tiny: float) -> None:
    most = control.MOST_IMAGES + 1
    assert control.needed_in_expectation(tiny) == most
    assert control.needed_for_mean(tiny, 0.95) == most
    assert control.images_for_mean(tiny / 2, tiny, 0.95) in (control.MOST_IMAGES, None)
    assert control.needed_for_most(math.nextafter(1, 0), 0.95) == most


def test_the_checks_during_a_run_keep_to_the_level_together() -> None:
    levels = [level for images in range(1, 100_000) if (level := check_level(images)) is not None]
    assert len(levels) == 14
    assert LEVEL * 0.999 < sum(levels) <= LEVEL
