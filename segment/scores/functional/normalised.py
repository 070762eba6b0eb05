"""Normalised scores: 0 for the best constant uncertainty with the same mask, 100 for the best one of each pixel.

docs/scores.md derives the four bounds. a: accuracy of the mask, c: the constant probability, K classes.
"""

from __future__ import annotations

import numpy as np

from segment.scores.functional.binning import Floats, quotient

MARGIN = 2.0**-20  # c stays this far below 1, where one mistake would cost infinitely much


def constant_probability(validation_accuracy: float, classes: int) -> float:
    """c, the probability a constant uncertainty gives its mask: the validation accuracy, within [1/K, 1).

    >>> constant_probability(0.8, 11), constant_probability(0.1, 4), constant_probability(1.0, 4) < 1
    (0.8, 0.25, True)
    """
    return min(max(validation_accuracy, 1 / classes), 1 - MARGIN)


def constant_pll(accuracy: Floats, constant: float, classes: int) -> Floats:
    """PLL_0 = a ln c + (1 - a) ln((1 - c)/(K - 1)), nats a pixel, K >= 2.

    >>> float(constant_pll(np.float64(0.5), 0.5, 2).round(4))  # ln 1/2
    -0.6931
    """
    return accuracy * np.log(constant) + (1 - accuracy) * np.log((1 - constant) / (classes - 1))


def optimal_pll(accuracy: Floats) -> Floats:
    """PLL_100 = -(1 - a) ln 2, nats a pixel: p = 1 where right, 1/2 each for mask and truth where wrong.

    >>> float(optimal_pll(np.float64(0.9)).round(4))
    -0.0693
    """
    return -(1 - accuracy) * np.log(2)


def constant_brier(accuracy: Floats, constant: float, classes: int) -> Floats:
    """Brier_0, the Brier score of the same p, within 0..2, K >= 2.

    With q = (1 - c)/(K - 1): a ((1 - c)^2 + (K - 1) q^2) + (1 - a)(c^2 + (1 - q)^2 + (K - 2) q^2).

    >>> float(constant_brier(np.float64(0.5), 0.5, 2))
    0.5
    """
    other = (1 - constant) / (classes - 1)
    right = (1 - constant) ** 2 + (classes - 1) * other**2
    wrong = constant**2 + (1 - other) ** 2 + (classes - 2) * other**2
    return accuracy * right + (1 - accuracy) * wrong


def optimal_brier(accuracy: Floats) -> Floats:
    """Brier_100 = (1 - a)/2.

    >>> float(optimal_brier(np.float64(0.5)))
    0.25
    """
    return (1 - accuracy) / 2


def normalised(score: Floats, constant: Floats, optimal: Floats) -> Floats:
    """100 (score - constant)/(optimal - constant): unbounded, above 100 only for another mask; nan where both agree.

    >>> float(normalised(np.float64(0.3), np.float64(0.2), np.float64(0.6)).round(1))
    25.0
    """
    return 100 * quotient(score - constant, optimal - constant)
