"""Thresholds whose error is bounded without any assumption but that images are exchangeable.

Losses are G x L, each within 0..1: an image or group a row, thresholds from strict to loose in the columns. A level is
a column; None: not even the strictest will do, so that nothing may be accepted.
Must not know what a loss measures.
"""

from __future__ import annotations

import math
from decimal import Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from segment.scores.functional.binning import Floats

MOST_IMAGES = 10_000_000
"""No number of images that something takes is larger than one more: beyond it, it only says "too many"."""
FROM_START = 0.95
"""Of the error that the confidence allows, the part of a sequence that starts at a level found on other images."""
LARGEST_BET = 0.99
"""The largest bet, as a share of the one that would lose all at a loss of 1."""
ROUNDING = 1e-12
"""Rounding of p-values: 1 - 0.95 is a little above 0.05 or below it."""


def level_in_expectation(losses: Floats, limit: float) -> int | None:
    """The loosest level whose mean loss on a new image is at most `limit`, over calibration sets and the new image.

    The loosest with (sum of losses + 1) / (n + 1) <= limit; losses must not fall along the levels.
    Source: conformal risk control, Angelopoulos et al., ICLR 2024, arXiv:2208.02814, theorem 1 with B = 1.

    >>> losses = np.tile([0.0, 0.01, 0.5], (99, 1))
    >>> level_in_expectation(losses, 0.02), level_in_expectation(losses[:9], 0.02)
    (1, None)
    """
    bound = (losses.sum(axis=0) + 1) / (len(losses) + 1)
    return _last(bound <= limit)


def level_for_most(bad: NDArray[np.bool_], share: float, confidence: float, *, start: int = 0) -> int | None:
    """The loosest level at which, with this confidence, at least `share` of all images are not bad.

    Levels are tested from strict to loose by exact binomial p-values until the first that is not rejected. At the
    strictest levels an image has few accepted pixels, and one wrong one makes it bad; a second sequence from `start`,
    a level found on other images, gets FROM_START of the error.
    Source: fixed-sequence testing, Angelopoulos et al. 2021, arXiv:2110.01052 (Learn then Test).

    >>> bad = np.zeros((29, 2), dtype=bool)
    >>> bad[0, 1] = True
    >>> level_for_most(bad, 0.9, 0.95), level_for_most(bad[1:], 0.9, 0.95)
    (0, None)
    """
    bad_images = bad.sum(axis=0)
    sequences = [(0, 1.0)] if start == 0 else [(0, 1 - FROM_START), (start, FROM_START)]
    reached = []
    for first, part in sequences:
        most = most_bad(len(bad), share, confidence_of(part, confidence))
        level = None if most is None else _last(np.cumprod(bad_images[first:] <= most).astype(bool))
        reached += [] if level is None else [first + level]
    return max(reached, default=None)


def confidence_of(part: float, confidence: float) -> float:
    """What a sequence of levels is tested at that has this part of the error that the confidence allows.

    >>> round(confidence_of(0.95, 0.9), 3)
    0.905
    """
    return 1 - part * (1 - confidence)


def complement(share: float) -> float:
    """1 - share in decimal: for .9 it is .1, and not below it, so that 1 of 10 is no more than it.

    >>> complement(0.9), 1 - 0.9
    (0.1, 0.09999999999999998)
    """
    return float(1 - Decimal(str(share)))


def most_bad(images: int, share: float, confidence: float) -> int | None:
    """How many of so many images may be bad at a level that is rejected; None: not even none of them.

    >>> most_bad(29, 0.9, 0.95), most_bad(28, 0.9, 0.95), most_bad(100, 0.9, 0.95)
    (0, None, 4)
    """
    p = binom.cdf(np.arange(images + 1), images, complement(share))
    return _last(p <= 1 - confidence + ROUNDING)


def level_of_mean(losses: Floats, limit: float, confidence: float, *, seed: int = 0) -> int | None:
    """The loosest level whose mean loss over all images is at most `limit` with this confidence.

    Levels are tested from strict to loose; the p-value of each is 1 over the largest capital of a bettor against "the
    mean is above the limit", who sees the images in a random order.
    Source: Waudby-Smith & Ramdas 2024, arXiv:2010.09686; bets by the variance so far.

    >>> none = np.zeros((200, 1))
    >>> level_of_mean(none, 0.02, 0.95), level_of_mean(none[:140], 0.02, 0.95)
    (0, None)
    """
    if not len(losses):
        return None
    ordered = losses[np.random.default_rng(seed).permutation(len(losses))]
    before = np.arange(1, len(ordered) + 1)[:, None]  # observations so far, the first of them an assumed one
    start = np.full((1, ordered.shape[1]), limit)
    mean = np.vstack([start, ordered]).cumsum(axis=0)[:-1] / before
    spread = np.vstack([start * (1 - limit), (ordered - mean) ** 2]).cumsum(axis=0)[:-1] / before
    bets = np.sqrt(2 * math.log(1 / (1 - confidence)) / (len(ordered) * spread.clip(min=1e-12)))
    growth = np.log1p(bets.clip(max=LARGEST_BET / (1 - limit)) * (limit - ordered))
    p = np.exp(-growth.cumsum(axis=0).max(axis=0))
    return _last(np.cumprod(p <= 1 - confidence).astype(bool))


def needed_in_expectation(limit: float) -> int:
    """The fewest images with which anything can be accepted, were all of it right.

    >>> needed_in_expectation(0.02), needed_in_expectation(0.05)
    (49, 19)
    """
    if limit * (MOST_IMAGES + 1) < 1:
        return MOST_IMAGES + 1
    images = max(math.ceil(1 / limit) - 2, 1)
    while 1 / (images + 1) > limit:
        images += 1
    return images


def needed_for_most(share: float, confidence: float) -> int:
    """The fewest images with which anything can be accepted, were none of them bad.

    >>> needed_for_most(0.9, 0.95), needed_for_most(0.8, 0.95)
    (29, 14)
    """
    images = max(math.floor(min(math.log(1 - confidence) / math.log(share), MOST_IMAGES + 2)) - 1, 1)
    if images > MOST_IMAGES:
        return images
    while binom.cdf(0, images, complement(share)) > 1 - confidence + ROUNDING:
        images += 1
    return images


@lru_cache
def needed_for_mean(limit: float, confidence: float) -> int:
    """The fewest images without a single error from which `level_of_mean` bounds the mean.

    About 1 % more than the ln(1 - confidence) / ln(1 - limit) that any method takes: no bet is the largest possible.

    >>> needed_for_mean(0.02, 0.95)
    150
    """
    if _least_for_mean(limit, confidence) > MOST_IMAGES:
        return MOST_IMAGES + 1
    largest_bets = math.log1p(LARGEST_BET / (1 - limit) * limit)
    images = max(math.floor(-math.log(1 - confidence) / largest_bets), 1)
    while level_of_mean(np.zeros((images, 1)), limit, confidence) is None:
        images += 1
    return images


def _least_for_mean(limit: float, confidence: float) -> int:
    """The fewest images without a single error from which any method could bound the mean."""
    return math.ceil(min(math.log(1 - confidence) / math.log1p(-limit), MOST_IMAGES + 1))


def images_for_mean(mean: float, limit: float, confidence: float) -> int | None:
    """About how many images would bound the mean, were their mean loss this; None where it is not below the limit.

    By the Hoeffding-Bentkus p-value, which knows the mean only. Source: arXiv:2110.01052, section 2.

    >>> images_for_mean(0.0, 0.02, 0.95), images_for_mean(0.012, 0.02, 0.95), images_for_mean(0.03, 0.02, 0.95)
    (149, 1392, None)
    """
    if mean >= limit:
        return None
    few, many = 0, _least_for_mean(limit, confidence)
    if many > MOST_IMAGES:
        return MOST_IMAGES
    while _hoeffding_bentkus(mean, many, limit) > 1 - confidence:
        few, many = many, 2 * many
        if many > MOST_IMAGES:
            return MOST_IMAGES
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if _hoeffding_bentkus(mean, middle, limit) <= 1 - confidence else (middle, many)
    return many


def _hoeffding_bentkus(mean: float, images: int, limit: float) -> float:
    """P-value of "the mean is above the limit" for images whose mean loss, below the limit, is this."""
    divergence = (1 - mean) * (math.log1p(-mean) - math.log1p(-limit))
    divergence += mean * math.log(mean / limit) if mean else 0.0
    bentkus = math.e * float(binom.cdf(math.ceil(images * mean - 1e-9), images, limit))
    return min(math.exp(-images * divergence), bentkus, 1.0)


def _last(holds: NDArray[np.bool_]) -> int | None:
    """The last level that holds; None where none does."""
    places = np.flatnonzero(holds)
    return int(places[-1]) if places.size else None
