"""How well probabilities match frequencies: NLL, Brier score, calibration errors and reliability curves.

The caller leaves out void pixels; sums are integers (binning.fixed), so that shards add to the same bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional.binning import SCALE, Floats, Ints, edges, fixed, quotient

SMALLEST = 1.2e-38  # p is clamped to the smallest normal float32, so that a mistake with p = 0 costs 87 nats
RELIABILITY_BINS = 15


def proper_sums(probability: NDArray[np.float32], label: NDArray[np.int64]) -> Ints:  # K P, P -> 2
    """Sums over the pixels of -ln p(label), in nats, and of the Brier score (sum over K of squared differences).

    >>> p = np.float32([[0.75, 0.5], [0.25, 0.5]])
    >>> (proper_sums(p, np.array([0, 1])) / SCALE).round(4).tolist()  # -ln .75 - ln .5; .125 + .5
    [0.9808, 0.625]
    """
    of_label = probability[label, np.arange(label.size)].astype(np.float64)
    squares = np.einsum("kp,kp->p", probability, probability)
    brier = (squares - 2 * of_label + 1).clip(min=0)  # only rounding can fall below 0
    return fixed(np.array([-np.log(of_label.clip(min=SMALLEST)).sum(), brier.sum()]))


def _bins(probability: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.minimum((probability * RELIABILITY_BINS).astype(np.int64), RELIABILITY_BINS - 1)


def _table(cell: NDArray[np.int64], hit: NDArray[np.int64], value: NDArray[np.float32], cells: int) -> Ints:
    """Cells 3: pixels, pixels that are right, sum of the probability in units of 2^-20."""
    count = np.bincount(cell, minlength=cells)
    right = np.bincount(hit, minlength=cells)
    sums = np.bincount(cell, weights=value, minlength=cells).astype(np.float64)  # no pixels: numpy counts in integers
    return np.stack([count, right, fixed(sums)], axis=1)


def reliability_counts(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> Ints:  # P, P -> 15 3
    """Per equal-width bin of max p: pixels, right pixels, sum of max p. Bin i holds i/15 <= p < (i + 1)/15.

    >>> reliability_counts(np.float32([0.9, 1.0]), np.array([True, False]))[13:, :2].tolist()
    [[1, 1], [1, 0]]
    """
    cell = _bins(confidence)
    return _table(cell, cell[right], confidence, RELIABILITY_BINS)


def class_reliability_counts(probability: NDArray[np.float32], label: NDArray[np.int64]) -> Ints:  # K P, P -> K 15 3
    """Counts as `reliability_counts`, for every class separately: right means that the pixel has this class.

    >>> class_reliability_counts(np.float32([[0.9], [0.1]]), np.array([1]))[1, 1].tolist()
    [1, 1, 104858]
    """
    classes, pixels = probability.shape
    of_label = _bins(probability[label, np.arange(pixels)])
    right = np.bincount(label * RELIABILITY_BINS + of_label, minlength=classes * RELIABILITY_BINS)
    right = right.reshape(classes, RELIABILITY_BINS)
    tables = np.zeros((classes, RELIABILITY_BINS, 3), dtype=np.int64)
    for table, of_class, hits in zip(tables, probability, right, strict=True):
        # most pixels give a class a probability near 0: bin 0 is the total minus the others
        high = of_class[of_class * RELIABILITY_BINS >= 1]
        cell = _bins(high)
        sums = np.bincount(cell, weights=high, minlength=RELIABILITY_BINS).astype(np.float64)
        sums[0] = of_class.sum(dtype=np.float64) - sums.sum()
        table[:, 0] = np.bincount(cell, minlength=RELIABILITY_BINS)
        table[0, 0] = pixels - high.size
        table[:, 1], table[:, 2] = hits, fixed(sums)
    return tables


def calibration_error(reliability: Ints) -> Floats:  # ... 15 3 -> ...
    """Expected calibration error: mean over pixels of |accuracy - mean probability| of the pixel's bin, within [0, 1].

    Source: Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599, equation 3. nan without pixels.

    >>> float(calibration_error(reliability_counts(np.float32([0.75, 0.75]), np.array([True, False]))))
    0.25
    """
    gap = np.abs(reliability[..., 1] - reliability[..., 2] / SCALE).sum(axis=-1)
    return quotient(gap, reliability[..., 0].sum(axis=-1))


def reliability_curve(reliability: Ints) -> tuple[Floats, Floats]:  # ... 15 3 -> ... 15, ... 15
    """Mean probability and share of right pixels of each bin; nan for an empty bin.

    >>> x, y = reliability_curve(reliability_counts(np.float32([0.75, 0.75]), np.array([True, False])))
    >>> x[11], y[11]
    (np.float64(0.75), np.float64(0.5))
    """
    count, right, sums = (reliability[..., i] for i in range(3))
    return quotient(sums / SCALE, count), quotient(right, count)


def equal_mass(uncertainty: Ints) -> tuple[Floats, Floats]:  # R B 2 -> R 15, R 15
    """Mean of max p and share of right pixels in 15 bins of equal pixel counts, confident pixels first.

    uncertainty: fine histogram of 1 - max p, right and wrong pixels. A histogram bin that lies in two of the fifteen is
    divided between them: ties share their mean. Error: under 2.5e-4 (1 - max p), half a histogram bin.
    """
    limits = edges(uncertainty.shape[1])
    confidence = 1 - (limits[:-1] + limits[1:]) / 2
    confidence[0] = 1.0
    start = np.zeros((len(uncertainty), 1))
    count = np.concatenate([start, uncertainty.sum(axis=2).cumsum(axis=1)], axis=1)
    right = np.concatenate([start, uncertainty[:, :, 0].cumsum(axis=1)], axis=1)
    summed_confidence = np.concatenate([start, (uncertainty.sum(axis=2) * confidence).cumsum(axis=1)], axis=1)
    cuts = count[:, -1:] * np.linspace(0, 1, RELIABILITY_BINS + 1)

    def between_cuts(running: Floats) -> Floats:
        return np.diff([np.interp(*row) for row in zip(cuts, count, running, strict=True)], axis=1)

    mass = count[:, -1:] / RELIABILITY_BINS
    return quotient(between_cuts(summed_confidence), mass), quotient(between_cuts(right), mass)


def adaptive_calibration_error(uncertainty: Ints) -> Floats:  # R B 2 -> R
    """Calibration error over 15 bins of equal pixel counts, within [0, 1]. Source: Nixon et al. 2019, arXiv:1904.01685.

    >>> from segment.scores.functional.binning import BINS, bin_of
    >>> uncertainty = np.zeros((1, BINS, 2), dtype=np.int64)
    >>> uncertainty[0, bin_of(np.float32([0.25])), :] = 1  # two pixels at max p = .75, one of them right
    >>> float(adaptive_calibration_error(uncertainty)[0].round(3))
    0.25
    """
    confidence, right = equal_mass(uncertainty)
    return np.abs(confidence - right).mean(axis=-1)
