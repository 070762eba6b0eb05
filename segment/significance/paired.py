"""One number an image, twice: the mean difference with its interval, and exact tests of whether there is any.

Must not know what the number is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from segment.scores.functional.binning import Floats
from segment.scores.intervals import middle_95
from segment.significance.corrections import LEVEL, Interval

RESAMPLES = 9999
"""Resamples of the bootstrap, and of the permutation test if not all signs can be tried: p is then 1e-4 at least."""
FEW = 30
"""Below this number of images a page says how little can be known."""
LEAST = 6
"""Images below which no sign-flip test can reach .05, two-sided: 2 / 2^5 is .06."""


@dataclass(frozen=True)
class PairedTest:
    """What two numbers an image say about their difference, second minus first.

    images: with both numbers. first, second: their means. difference: its mean with a bootstrap interval over images
    sign_p: of the exact sign test (are more images higher than lower?), equal ones left out
    permutation_p: of the sign-flip test of the mean, exact where all signs can be tried; None below two images
    higher, lower: images whose second number is larger, and smaller. why: the reason where there is no test
    """

    images: int
    first: float
    second: float
    difference: Interval
    sign_p: float | None
    permutation_p: float | None
    higher: int
    lower: int
    why: str = ""


def paired_test(first: Floats, second: Floats, *, seed: int = 0) -> PairedTest | None:  # N, N
    """Compare two numbers of the same images; None where no image has both.

    Args:
        first: The numbers of N images; nan where one is not defined.
        second: The same images' in the other run, in the same order.
        seed: Of the resampling; the same seed gives the same interval.

    Returns:
        The test, whose p-values are not corrected for other tests.

    >>> test = paired_test(np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.3, 0.4]))
    >>> round(test.difference.value, 3), test.permutation_p, test.higher
    (0.1, 0.25, 3)

    """
    known = np.isfinite(first) & np.isfinite(second)
    a, b = first[known], second[known]
    if not a.size:
        return None
    d = b - a
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()), 1e-300)
    d = np.where(np.abs(d) <= 1e-12 * scale, 0.0, d)  # rounding of the files is no difference
    higher, lower = int((d > 0).sum()), int((d < 0).sum())
    means = float(a.mean()), float(b.mean())
    if a.size == 1:
        return PairedTest(1, *means, Interval(float(d[0])), None, None, higher, lower, "one image cannot be tested")
    if not higher + lower:
        return PairedTest(a.size, *means, Interval(0.0, 0.0, 0.0), 1.0, 1.0, 0, 0, "equal on every image")
    sign = float(stats.binomtest(higher, higher + lower).pvalue)
    interval = bootstrap_mean(d, seed=seed)
    return PairedTest(a.size, *means, interval, sign, sign_flip_p(d, seed=seed), higher, lower)


def group_means(values: Floats, groups: Sequence[str]) -> Floats:  # N -> G
    """The mean of each group's numbers, in the order in which groups come first; nan for a group without any.

    >>> group_means(np.array([1.0, 3.0, np.nan, 5.0]), ["b", "b", "a", "c"]).tolist()
    [2.0, nan, 5.0]
    """
    of_group: dict[str, list[float]] = {name: [] for name in groups}
    for value, name in zip(values, groups, strict=True):
        of_group[name] += [float(value)] if np.isfinite(value) else []
    return np.array([np.mean(numbers) if numbers else np.nan for numbers in of_group.values()], dtype=np.float64)


def bootstrap_mean(values: Floats, *, seed: int = 0) -> Interval:  # N -> the mean
    """The mean of N >= 2 numbers, one an image, with the middle 95 % of its bootstrap over images."""
    rng = np.random.default_rng(seed)
    means = np.concatenate(
        [values[rng.integers(values.size, size=(some, values.size))].mean(axis=1) for some in _parts(values.size)]
    )
    return Interval(float(values.mean()), *middle_95(means))


def sign_flip_p(differences: Floats, *, seed: int = 0) -> float:  # N
    """Two-sided p-value of the mean difference if the sign of each image's difference were chance.

    Exact where all 2^N choices of signs are at most RESAMPLES, else by RESAMPLES random ones, one added to each count.
    """
    result = stats.permutation_test(
        (differences,),
        lambda d, axis: np.mean(d, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, 2_000_000 // differences.size),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def smallest_p(images: int) -> float:
    """The smallest p-value that `sign_flip_p` can give for this number of images.

    >>> smallest_p(5), smallest_p(6), smallest_p(40)
    (0.0625, 0.03125, 0.0002)
    """
    return 2 / min(2**images, RESAMPLES + 1)


def least_images(tests: int) -> int | None:
    """Images below which none of `tests` sign-flip tests can reach .05 after Holm's correction; None: no number does.

    >>> least_images(1), least_images(12), least_images(1000)
    (6, 9, None)
    """
    reached = [images for images in range(2, 15) if tests * smallest_p(images) <= LEVEL]
    return reached[0] if reached else None


def seen_deviations(images: int, tests: int = 1) -> float | None:
    """The true mean difference, in its standard deviations over images, that would be missed one time in five.

    (z_(1 - .025 / m) + z_.80) / sqrt(n): Holm's correction tests the smallest p of m at .05 / m. None where no
    difference over that many images can be significant in that many tests.

    >>> round(seen_deviations(100), 3), round(seen_deviations(100, tests=12), 3), seen_deviations(8, tests=12)
    (0.28, 0.371, None)
    """
    if images < 2 or tests * smallest_p(images) > LEVEL:
        return None
    return float((stats.norm.isf(LEVEL / (2 * tests)) + stats.norm.ppf(0.8)) / math.sqrt(images))


def seen_by_t_test(images: int, tests: int = 1) -> float:
    """What `seen_deviations` gives, of a two-sided t test of the mean, which any two images or more may pass.

    >>> round(seen_by_t_test(100), 3), round(seen_by_t_test(6), 2), round(seen_by_t_test(6, tests=42), 2)
    (0.283, 1.43, 3.34)
    """
    freedom = images - 1
    limit = float(stats.t.isf(LEVEL / (2 * tests), freedom))

    def power(noncentrality: float) -> float:
        return float(stats.nct.sf(limit, freedom, noncentrality))

    return float(optimize.brentq(lambda shift: power(shift) - 0.8, 0, 20 * limit, xtol=1e-6)) / math.sqrt(images)


def smallest_difference(differences: Floats, *, tests: int = 1) -> float | None:  # N
    """The true mean difference that the first of `tests` tests would miss one time in five, in the numbers' unit.

    `seen_deviations` times the standard deviation of the differences (divisor n - 1); None where it is.

    >>> round(smallest_difference(np.array([0.0, 1.0] * 4)), 3)
    0.529
    """
    known = differences[np.isfinite(differences)]
    seen = seen_deviations(known.size, tests)
    return None if seen is None else seen * float(known.std(ddof=1))


def _parts(count: int) -> list[int]:
    """RESAMPLES in parts whose arrays stay below 16 MB."""
    most = max(1, 2_000_000 // count)
    return [most] * (RESAMPLES // most) + ([RESAMPLES % most] if RESAMPLES % most else [])
