"""One number an image in two sets of images: how far apart they are, and whether that is chance.

Must not know what the number is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from segment.scores.functional.binning import Floats
from segment.scores.intervals import middle_95
from segment.significance.corrections import Interval

RESAMPLES = 2000


@dataclass(frozen=True)
class UnpairedTest:
    """What the numbers of two sets of images say about their difference.

    images: with the number, in each set. first, second: means. ratio: second over first, None where the first is 0
    auroc: chance that an image of the second set has a higher number than one of the first, ties half; with a bootstrap
    interval over images of both sets. ks, ks_p: Kolmogorov-Smirnov's distance of the distributions, and its p-value
    """

    images: tuple[int, int]
    first: float
    second: float
    ratio: float | None
    auroc: Interval
    ks: float
    ks_p: float


def unpaired_test(first: Floats, second: Floats, *, seed: int = 0) -> UnpairedTest | None:  # N, M
    """Compare a number of two sets of images; None where one set has fewer than two images with it.

    Args:
        first: The numbers of N images; nan where one is not defined.
        second: Those of M other images.
        seed: Of the bootstrap.

    Returns:
        The test, whose p-value is not corrected for other tests.

    >>> test = unpaired_test(np.array([1.0, 2.0, 3.0]), np.array([3.0, 4.0, 5.0]))
    >>> round(test.auroc.value, 3), round(test.ks, 3), test.ratio
    (0.944, 0.667, 2.0)

    """
    a, b = first[np.isfinite(first)], second[np.isfinite(second)]
    if min(a.size, b.size) < 2:
        return None
    rng = np.random.default_rng(seed)
    chances = np.array([auroc_of_samples(rng.choice(a, a.size), rng.choice(b, b.size)) for _ in range(RESAMPLES)])
    ks = stats.ks_2samp(a, b)
    ratio = float(b.mean() / a.mean()) if a.mean() != 0 else None
    between = Interval(auroc_of_samples(a, b), *middle_95(chances))
    return UnpairedTest((a.size, b.size), float(a.mean()), float(b.mean()), ratio, between, float(ks[0]), float(ks[1]))


def auroc_of_samples(first: Floats, second: Floats) -> float:  # N, M
    """Chance that a number of the second set is above one of the first, ties half; Mann-Whitney's U over N M.

    >>> auroc_of_samples(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    order = np.sort(first)
    below, up_to = np.searchsorted(order, second, "left"), np.searchsorted(order, second, "right")
    return float((below + up_to).sum() / (2 * first.size * second.size))
