"""How well a measure tells pixels apart: wrong from right, or unseen things from known ones.

Input: histograms of the measure, doubt growing with the bin; pixels of one bin are ties.
"""

from __future__ import annotations

import numpy as np

from segment.scores.binning import Floats, Ints, quotient


def auroc(histogram: Ints) -> Floats:  # R B 2 -> R
    """Chance that a positive pixel has a higher value than a negative one, ties counting half; within [0, 1].

    The last axis is (negative, positive), as (right, wrong). nan where either is missing.
    Error: at most half the share of (negative, positive) pairs that meet in one bin.

    >>> float(auroc(np.array([[[3, 0], [1, 1], [0, 1]]]))[0])  # (3 + 1/2 + 4) of 8 pairs
    0.9375
    """
    negative, positive = histogram[..., 0].astype(np.float64), histogram[..., 1].astype(np.float64)
    below = negative.cumsum(axis=-1) - negative / 2
    return quotient((positive * below).sum(axis=-1), positive.sum(axis=-1) * negative.sum(axis=-1))


def average_precision(histogram: Ints) -> Floats:  # R B 2 -> R
    """Mean precision over the positives, highest value first; within [0, 1], nan without positives or negatives.

    AP = sum_b (recall_b - recall_{b+1}) precision_b over bins b from the top, as scikit-learn defines it, no
    interpolation; precision_b counts the whole of bin b. Error: low by about half the fall of
    the precision inside a bin; under 1e-3 unless all doubt lies within a few percent.

    >>> float(average_precision(np.array([[[3, 0], [1, 1], [0, 1]]]))[0].round(4))  # (1 + 2/3) / 2
    0.8333
    """
    positive = histogram[..., 1].astype(np.float64)
    found = positive[..., ::-1].cumsum(axis=-1)
    taken = histogram.sum(axis=-1)[..., ::-1].cumsum(axis=-1)
    precision = np.where(found > 0, found / np.maximum(taken, 1), 0)
    total = positive.sum(axis=-1)
    value = quotient((positive[..., ::-1] * precision).sum(axis=-1), total)
    return np.where(histogram[..., 0].sum(axis=-1) > 0, value, np.nan)


def fpr_at_tpr(histogram: Ints, tpr: float = 0.95) -> Floats:  # R B 2 -> R
    """Share of negatives flagged at the highest threshold that flags at least `tpr` of the positives; within [0, 1].

    nan where positives or negatives are missing.

    >>> float(fpr_at_tpr(np.array([[[3, 0], [1, 1], [0, 1]]]))[0])
    0.25
    """
    flagged = histogram[..., ::-1, :].cumsum(axis=-2)
    total = flagged[..., -1, :]
    enough = (flagged[..., 1] >= tpr * total[..., 1:]).argmax(axis=-1)
    false = np.take_along_axis(flagged[..., 0], enough[..., None], axis=-1)[..., 0]
    return np.where(total[..., 1] > 0, quotient(false, total[..., 0]), np.nan)
