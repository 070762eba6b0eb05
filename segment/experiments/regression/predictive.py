"""How good a predictive distribution of a regression is: log-likelihood, CRPS, and the two bounds between them.

Arrays in, arrays out, in one unit of the target throughout. T draws, N points.
Must not know which method made the draws.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, ndtr, stdtr

from segment.uncertainty.moments import DrawMoments

Array = NDArray[np.float64]
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
CRPS_OPTIMUM = 0.594904  # of |e|, and reached at 1.201122 |e| of standard deviation
RESIDUAL_FLOOR = (
    1e-6  # standard deviations of the target: an error of 0 would have an optimal log-likelihood of infinity
)


def moments(draws: Array) -> tuple[Array, Array]:  # T N -> N, N
    """Mean and biased variance over draws, by the accumulator that maps go through; equal draws vary by exactly 0.

    >>> [part.tolist() for part in moments(np.array([[1.0, 2.0], [3.0, 2.0]]))]
    [[2.0, 2.0], [1.0, 0.0]]
    """
    kept = DrawMoments(keep=("square",))
    for draw in torch.from_numpy(draws):
        kept.update(draw[:, None])  # N K, a regression's one output as K
    return kept.mean[:, 0].numpy(), kept.variance[:, 0].numpy()


def log_likelihood(draws: Array, y: Array, precision: float) -> Array:  # T N, N -> N
    """Log of the mean over draws of N(y; f_t, 1/precision), in nats a point.

    logsumexp_t(-tau/2 (y - f_t)^2) - log T - 1/2 log 2 pi + 1/2 log tau; Teye et al. 2018.

    >>> log_likelihood(np.zeros((3, 1)), np.zeros(1), 1.0).round(4)
    array([-0.9189])
    """
    exponent = logsumexp(-0.5 * precision * (y - draws) ** 2, axis=0)
    return exponent - math.log(len(draws)) - HALF_LOG_2_PI + 0.5 * math.log(precision)


def crps(mean: Array, variance: Array | float, y: Array) -> Array:  # N -> N
    """Continuous ranked probability score of N(mean, variance), >= 0, in the unit of y; lower is better.

    s (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt pi), z = (y - mean) / s; Gneiting & Raftery 2007.

    >>> crps(np.zeros(1), 1.0, np.zeros(1)).round(4)
    array([0.2337])
    """
    spread = np.sqrt(variance)
    z = (y - mean) / spread
    density = np.exp(-0.5 * z**2 - HALF_LOG_2_PI)
    return spread * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def best_precision(
    mean: Array, variance: Array | float, y: Array, *, within: tuple[float, float] = (1e-4, 1e8)
) -> float:
    """The observation precision tau whose N(mean, variance + 1/tau) has the least mean CRPS.

    A variance of 0 gives the precision of the constant uncertainty. The search is `within` a range above 0, by a grid
    and then Brent's method on log tau, to 1e-6; draws that spread wider than the errors have their best tau at its end.
    """

    def loss(log_precision: float) -> float:
        return float(crps(mean, variance + math.exp(-log_precision), y).mean())

    grid = np.linspace(math.log(within[0]), math.log(within[1]), 57)
    best = int(np.argmin([loss(value) for value in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    optimum = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(optimum.x))


@dataclass(frozen=True, kw_only=True)
class RegressionScores:
    """Means over points: a method's log-likelihood and CRPS, each beside its constant and its optimum, and the RMSE."""

    pll: float
    pll_constant: float
    pll_optimal: float
    crps: float
    crps_constant: float
    crps_optimal: float
    rmse: float

    @property
    def normalised_pll(self) -> float:
        return normalised(self.pll, self.pll_constant, self.pll_optimal)

    @property
    def normalised_crps(self) -> float:
        return normalised(self.crps, self.crps_constant, self.crps_optimal)

    def in_units(self, scale: float) -> RegressionScores:
        """The scores for a target whose standard deviation is `scale`: log-likelihoods fall by log(scale)."""
        moved = {
            name: value - math.log(scale) if name.startswith("pll") else value * scale
            for name, value in asdict(self).items()
        }
        return RegressionScores(**moved)


def normalised(score: float, constant: float, optimal: float) -> float:
    """100 (score - constant) / (optimal - constant): 0 is the constant's, 100 the optimum's, below 0 is worse.

    >>> normalised(3.0, 4.0, 2.0)
    50.0
    """
    return 100 * (score - constant) / (optimal - constant)


def scores_of(draws: Array, y: Array, *, precision: float, constant: float) -> RegressionScores:  # T N, N
    """Score T draws of standardised targets under an observation precision, beside the constant (a precision too).

    The constant uncertainty has the same mean and one variance; the optimum has, for each point, the variance that is
    best for its error: there PLL = -1/2 log 2 pi - 1/2 - log|e| and CRPS = 0.594904 |e|, Teye et al. 2018.
    """
    mean, variance = moments(draws)
    error = np.abs(y - mean)
    return RegressionScores(
        pll=float(log_likelihood(draws, y, precision).mean()),
        pll_constant=float(log_likelihood(mean[None], y, constant).mean()),
        pll_optimal=float((-HALF_LOG_2_PI - 0.5 - np.log(np.maximum(error, RESIDUAL_FLOOR))).mean()),
        crps=float(crps(mean, variance + 1 / precision, y).mean()),
        crps_constant=float(crps(mean, 1 / constant, y).mean()),
        crps_optimal=float(CRPS_OPTIMUM * error.mean()),
        rmse=float(np.sqrt((error**2).mean())),
    )


def better_by_splits(difference: Array, *, test_to_train: float) -> float:
    """One-sided p-value that a method's mean advantage over random splits of one data set is above 0.

    The corrected resampled t-test of Nadeau & Bengio 2003: splits share rows, so the variance of the mean is taken as
    (1/n + test/train) of the sample variance.

    Args:
        difference: (n) one value a split, the method's score less that of what it is compared with; above 0 is better
        test_to_train: rows of a test part divided by rows of a training part

    Returns:
        The p-value; where all differences are equal 0 if they are above 0 and else 1; nan for fewer than two splits.

    """
    splits = len(difference)
    if splits < 2:
        return math.nan
    spread = float(difference.std(ddof=1))
    if spread == 0:
        return 1.0 if difference[0] <= 0 else 0.0
    statistic = float(difference.mean()) / (spread * math.sqrt(1 / splits + test_to_train))
    return float(stdtr(splits - 1, -statistic))
