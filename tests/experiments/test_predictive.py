"""Log-likelihood, CRPS, the constant and the optimum: each derived again by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scoringrules
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from segment.experiments.regression.predictive import (
    CRPS_OPTIMUM,
    RESIDUAL_FLOOR,
    best_precision,
    better_by_splits,
    crps,
    log_likelihood,
    normalised,
    scores_of,
)


def crps_by_integration(mean: float, spread: float, y: float) -> float:
    """The definition: the integral of (F(u) - 1[u >= y])^2."""
    below = quad(lambda u: stats.norm.cdf(u, mean, spread) ** 2, -60, y, points=[mean], limit=200)[0]
    above = quad(lambda u: stats.norm.sf(u, mean, spread) ** 2, y, 60, points=[mean], limit=200)[0]
    return float(below + above)


@settings(max_examples=25, deadline=None)
@given(st.floats(-3, 3), st.floats(0.2, 4), st.floats(-5, 5))
def test_crps_of_a_gaussian_is_its_defining_integral(mean: float, spread: float, y: float) -> None:
    score = crps(np.array([mean]), spread**2, np.array([y]))[0]
    assert score == pytest.approx(crps_by_integration(mean, spread, y), abs=1e-6)


def test_crps_is_that_of_an_independent_library() -> None:
    rng = np.random.default_rng(7)
    mean, spread, y = rng.normal(size=200), rng.uniform(0.1, 3, 200), rng.normal(size=200) * 4
    np.testing.assert_allclose(crps(mean, spread**2, y), scoringrules.crps_normal(y, mean, spread), rtol=1e-9)


def test_the_log_likelihood_is_that_of_the_mixture_of_draws() -> None:
    rng = np.random.default_rng(0)
    draws, y = rng.normal(size=(7, 5)), rng.normal(size=5)
    mixture = stats.norm.pdf(y, draws, 1 / math.sqrt(3.0)).mean(axis=0)
    np.testing.assert_allclose(log_likelihood(draws, y, 3.0), np.log(mixture), rtol=1e-12)


def test_the_log_likelihood_stays_finite_where_every_density_underflows() -> None:
    assert log_likelihood(np.zeros((2, 1)), np.array([1e3]), 1e4)[0] == pytest.approx(-5e9, rel=1e-3)


def test_the_optimal_crps_and_its_spread_are_the_two_published_numbers() -> None:
    optimum = minimize_scalar(
        lambda s: float(crps(np.zeros(1), s**2, np.ones(1))[0]),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert float(optimum.x) == pytest.approx(1.201122, abs=1e-6)
    assert float(optimum.fun) == pytest.approx(CRPS_OPTIMUM, abs=5e-7)


def test_the_optimal_log_likelihood_has_the_error_itself_as_its_spread() -> None:
    error = 0.37
    optimum = minimize_scalar(
        lambda log_s: -float(stats.norm.logpdf(error, 0, math.exp(log_s))),
        bounds=(-6, 3),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert math.exp(float(optimum.x)) == pytest.approx(error, rel=1e-5)
    scores = scores_of(np.zeros((1, 1)), np.array([error]), precision=1.0, constant=1.0)
    assert scores.pll_optimal == pytest.approx(-float(optimum.fun), abs=1e-9)
    assert scores.crps_optimal == pytest.approx(CRPS_OPTIMUM * error)


def test_an_error_of_zero_is_floored_in_the_optimal_log_likelihood() -> None:
    scores = scores_of(np.zeros((1, 1)), np.zeros(1), precision=1.0, constant=1.0)
    assert scores.pll_optimal == pytest.approx(-0.5 * math.log(2 * math.pi) - 0.5 - math.log(RESIDUAL_FLOOR))


def test_tau_is_the_precision_that_a_fine_grid_finds() -> None:
    rng = np.random.default_rng(1)
    mean, variance = rng.normal(size=300), rng.uniform(0, 0.2, 300)
    y = mean + rng.normal(size=300) * np.sqrt(variance + 1 / 12)
    grid = np.exp(np.linspace(-3, 8, 20_001))
    losses = [float(crps(mean, variance + 1 / tau, y).mean()) for tau in grid]
    assert best_precision(mean, variance, y) == pytest.approx(grid[int(np.argmin(losses))], rel=1e-3)


def test_draws_wider_than_the_errors_have_their_tau_at_the_end_of_its_range() -> None:
    y = np.random.default_rng(8).normal(size=500) * 0.1
    assert best_precision(np.zeros(500), np.ones(500), y, within=(0.5, 40.0)) == pytest.approx(40.0, rel=1e-4)


def test_the_constant_recovers_a_known_noise() -> None:
    y = np.random.default_rng(2).normal(size=40_000) * 0.5
    assert best_precision(np.zeros(40_000), 0.0, y) == pytest.approx(4.0, rel=0.03)


def test_no_predictive_distribution_with_the_same_mean_beats_the_optimum() -> None:
    rng = np.random.default_rng(3)
    draws, y = rng.normal(size=(50, 200)), rng.normal(size=200)
    for precision in (0.1, 1.0, 10.0):
        scores = scores_of(draws, y, precision=precision, constant=2.0)
        assert scores.crps_optimal <= scores.crps
        assert scores.pll_optimal >= scores.pll


def test_identical_draws_score_as_the_constant_does() -> None:
    y = np.random.default_rng(4).normal(size=30)
    scores = scores_of(np.zeros((5, 30)), y, precision=2.0, constant=2.0)
    assert scores.normalised_pll == pytest.approx(0, abs=1e-9)
    assert scores.normalised_crps == pytest.approx(0, abs=1e-9)


def test_the_true_heteroscedastic_variance_scores_between_constant_and_optimum() -> None:
    rng = np.random.default_rng(5)
    spread = np.exp(rng.normal(size=2000))
    y = rng.normal(size=2000) * spread
    draws = rng.normal(size=(400, 2000)) * np.sqrt(np.maximum(spread**2 - 1e-3, 0))
    constant = best_precision(np.zeros(2000), 0.0, y)
    scores = scores_of(draws, y, precision=1e3, constant=constant)
    assert 5 < scores.normalised_crps < 95


def test_scores_in_original_units_are_those_of_the_original_numbers() -> None:
    rng = np.random.default_rng(6)
    draws, y, scale = rng.normal(size=(9, 40)), rng.normal(size=40), 7.5
    moved = scores_of(draws, y, precision=3.0, constant=2.0).in_units(scale)
    direct = scores_of(draws * scale + 20, y * scale + 20, precision=3.0 / scale**2, constant=2.0 / scale**2)
    assert moved.pll == pytest.approx(direct.pll)
    assert moved.pll_constant == pytest.approx(direct.pll_constant)
    assert moved.pll_optimal == pytest.approx(direct.pll_optimal)
    assert moved.crps == pytest.approx(direct.crps)
    assert moved.rmse == pytest.approx(float(np.sqrt(((y - draws.mean(axis=0)) ** 2).mean())) * scale)
    assert moved.normalised_crps == pytest.approx(direct.normalised_crps)


def test_the_normalised_scale_is_0_at_the_constant_and_100_at_the_optimum() -> None:
    assert normalised(2.0, 2.0, 5.0) == 0
    assert normalised(5.0, 2.0, 5.0) == 100
    assert normalised(1.0, 2.0, 5.0) < 0


def test_without_overlap_the_corrected_test_is_the_paired_t_test() -> None:
    gains = np.array([0.2, -0.1, 0.4, 0.3, 0.15])
    expected = stats.ttest_1samp(gains, 0, alternative="greater").pvalue
    assert better_by_splits(gains, test_to_train=0.0) == pytest.approx(float(expected))
    assert better_by_splits(gains, test_to_train=0.25) > float(expected)
    assert math.isnan(better_by_splits(gains[:1], test_to_train=0.25))
    assert better_by_splits(np.zeros(4), test_to_train=0.25) == 1.0
