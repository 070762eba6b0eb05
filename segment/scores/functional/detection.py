"""How well a measure separates two kinds of pixels, wrong from right or unseen from known: AUROC, AP, FPR.

Input: histograms of the measure, where uncertainty grows with the bin; pixels of one bin are ties.
"""

from __future__ import annotations

import numpy as np

from segment.scores.functional.binning import Floats, Ints, quotient
from segment.scores.functional.rejection import harmonic


def auroc(histogram: Ints) -> Floats:  # R B 2 -> R
    """Chance that a positive pixel has a higher value than a negative one, ties counting half; within [0, 1].

    The last axis is (negative, positive), as (right, wrong). nan where either is missing.
    Error: at most half the share of (negative, positive) pairs that share a bin; `summary.exact_to` states it.

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
    the precision inside a bin; `summary.exact_to` states its bound.

    >>> float(average_precision(np.array([[[3, 0], [1, 1], [0, 1]]]))[0].round(4))  # (1 + 2/3) / 2
    0.8333
    """
    positive = histogram[..., 1].astype(np.float64)
    true_positives = positive[..., ::-1].cumsum(axis=-1)
    flagged = histogram.sum(axis=-1)[..., ::-1].cumsum(axis=-1)
    precision = np.where(true_positives > 0, true_positives / np.maximum(flagged, 1), 0)
    total = positive.sum(axis=-1)
    value = quotient((positive[..., ::-1] * precision).sum(axis=-1), total)
    return np.where(histogram[..., 0].sum(axis=-1) > 0, value, np.nan)


def least_precision(histogram: Ints) -> Floats:  # R B 2 -> R
    """The AP of the worst order inside the bins: a bin's negatives one by one, then its positives one by one.

    The ith positive of a bin, P above it and N negatives above or in it, has precision (P + i) / (P + i + N), so that
    p positives add p - N (H(N + P + p) - H(N + P)), H the harmonic numbers. nan without positives.

    >>> float(least_precision(np.array([[[1, 2]]]))[0].round(4))  # (1/2 + 2/3) / 2
    0.5833
    """
    top_down = histogram[..., ::-1, :]
    negative, positive = top_down[..., 0].cumsum(axis=-1), top_down[..., 1].cumsum(axis=-1)
    own = top_down[..., 1]
    gained = own - negative * (harmonic(negative + positive) - harmonic(negative + positive - own))
    return quotient(gained.sum(axis=-1), positive[..., -1])


def fpr_at_tpr(histogram: Ints, tpr: float = 0.95) -> Floats:  # R B 2 -> R
    """Share of negatives flagged at the highest threshold that flags at least `tpr` of the positives; within [0, 1].

    nan where positives or negatives are missing. Error: at most the share of negatives in the threshold's bin.

    >>> float(fpr_at_tpr(np.array([[[3, 0], [1, 1], [0, 1]]]))[0])
    0.25
    """
    flagged = histogram[..., ::-1, :].cumsum(axis=-2)
    total = flagged[..., -1, :]
    enough = (flagged[..., 1] >= tpr * total[..., 1:]).argmax(axis=-1)
    false = np.take_along_axis(flagged[..., 0], enough[..., None], axis=-1)[..., 0]
    return np.where(total[..., 1] > 0, quotient(false, total[..., 0]), np.nan)
