"""Scores of the most confident pixels alone: risk against coverage, AURC, AUSE, accuracy and mIoU at a coverage.

Input: histograms of the measure, where uncertainty grows with the bin; pixels of a bin are ties with their mean error.
"""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from segment.scores.functional.binning import Floats, Ints, quotient
from segment.scores.functional.confusion import mean_iou


def harmonic(n: Floats | Ints) -> Floats:
    """1 + 1/2 + ... + 1/n, 0 at n = 0; relative error under 1e-15.

    >>> harmonic(np.array([0, 2, 1000])).round(12).tolist()
    [0.0, 1.5, 7.48547086055]
    """
    return digamma(np.asarray(n, dtype=np.float64) + 1) + np.euler_gamma


def aurc(histogram: Ints) -> Floats:  # R B 2 -> R
    """Area under the risk-coverage curve: mean over coverages k/n, k = 1..n, of the error rate of the k most confident.

    The last axis is (right, wrong). Within [0, 1], 0 is best; nan without pixels. Inside a bin of c pixels, n0 before
    it with e0 errors, the risk at k is (e0 + (k - n0) r)/k, r the bin's error rate, so that it adds
    c r + (e0 - n0 r)(H(n0 + c) - H(n0)), H the harmonic numbers.
    Source: Geifman & El-Yaniv 2017, arXiv:1705.08500 (risk-coverage curve).

    >>> float(aurc(np.array([[[2, 0], [1, 1]]]))[0].round(6))  # risks 0, 0, (1/2)/3, 1/4 over 4 pixels
    0.104167
    """
    count, wrong = histogram.sum(axis=-1), histogram[..., 1]
    after = count.cumsum(axis=-1)
    before = after - count
    errors = wrong.cumsum(axis=-1) - wrong
    rate = wrong / np.maximum(count, 1)
    steps = np.diff(harmonic(after), axis=-1, prepend=0.0)  # H(n0 + c) - H(n0): each bin begins where one ended
    area = count * rate + (errors - before * rate) * steps
    return quotient(area.sum(axis=-1), after[..., -1])


def oracle_aurc(histogram: Ints) -> Floats:  # R B 2 -> R
    """AURC of the best order, every right pixel before every wrong one; it depends on their numbers only.

    >>> float(oracle_aurc(np.array([[[2, 0], [1, 1]]]))[0].round(6))  # risks 0, 0, 0, 1/4 over 4 pixels
    0.0625
    """
    return aurc(_oracle(histogram))


def ause(histogram: Ints) -> Floats:  # R B 2 -> R
    """Area under the sparsification error: AURC minus the oracle's; within [0, 1], 0 is best, nan without pixels.

    Source: Ilg et al. 2018, arXiv:1802.07095; here the error is 0 or 1.

    >>> float(ause(np.array([[[2, 0], [1, 1]]]))[0].round(6))
    0.041667
    """
    return (aurc(histogram) - oracle_aurc(histogram)).clip(min=0)  # only rounding can fall below 0


def _oracle(histogram: Ints) -> Ints:  # R B 2 -> R 2 2
    right, wrong = histogram.sum(axis=-2)[..., 0], histogram.sum(axis=-2)[..., 1]
    zeros = np.zeros_like(right)
    return np.stack([np.stack([right, zeros], axis=-1), np.stack([zeros, wrong], axis=-1)], axis=-2)


def retained(histogram: Ints, pixels: Ints, coverage: Floats) -> Floats:  # R B X, R B, Q -> R Q X
    """Sums of each column over the most confident share of the pixels; the bin at the limit counts in proportion.

    pixels: the number in each bin, which may differ from the columns' sum

    >>> retained(np.array([[[3], [8]]]), np.array([[2, 4]]), np.array([0.5])).tolist()  # 3 pixels: 2 and 1 of 4
    [[[5.0]]]
    """
    after = pixels.cumsum(axis=-1)
    wanted = after[:, -1:] * coverage  # R Q
    limit = np.stack([np.searchsorted(a, w) for a, w in zip(after, wanted, strict=True)])
    limit = np.minimum(limit, pixels.shape[1] - 1)
    at = np.take_along_axis(pixels, limit, axis=1)
    share = quotient(wanted - (np.take_along_axis(after, limit, axis=1) - at), at)
    share = np.where(at > 0, share, 0)[..., None]
    inside = np.take_along_axis(histogram, limit[..., None], axis=1)
    through = np.take_along_axis(histogram.cumsum(axis=1), limit[..., None], axis=1)
    return through - inside * (1 - share)


def risk_at(histogram: Ints, coverage: Floats) -> Floats:  # R B 2, Q -> R Q
    """Error rate of the most confident share of the pixels, within [0, 1]; nan without pixels.

    >>> risk_at(np.array([[[2, 0], [1, 1]]]), np.array([0.5, 0.75, 1.0])).round(4).tolist()
    [[0.0, 0.1667, 0.25]]
    """
    kept = retained(histogram, histogram.sum(axis=-1), coverage)
    return quotient(kept[..., 1], kept.sum(axis=-1))


def oracle_risk_at(histogram: Ints, coverage: Floats) -> Floats:  # R B 2, Q -> R Q
    """`risk_at` of the best order, every right pixel before every wrong one.

    >>> oracle_risk_at(np.array([[[2, 0], [1, 1]]]), np.array([0.75, 1.0])).tolist()
    [[0.0, 0.25]]
    """
    return risk_at(_oracle(histogram), coverage)


def miou_at(histogram: Ints, coverage: Floats) -> Floats:  # R B 3K, Q -> R Q
    """Mean IoU over the most confident share of the pixels, of the classes present there in label or prediction.

    The last axis is K times right, K times wrong by label, K times wrong by prediction. nan without pixels.

    >>> miou_at(np.array([[[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]]), np.array([0.5, 1.0])).round(4).tolist()
    [[1.0, 0.3333]]
    """
    classes = histogram.shape[-1] // 3
    pixels = histogram[..., : 2 * classes].sum(axis=-1)
    kept = retained(histogram, pixels, coverage)
    right, missed, mistaken = (kept[..., i * classes : (i + 1) * classes] for i in range(3))
    return mean_iou(np.stack([right, right + missed, right + mistaken], axis=-2))
