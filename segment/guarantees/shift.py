"""Are a run's images like the validation images? A rank test of one number an image.

A guarantee holds for images exchangeable with those it was made on; where the test fails, it is void.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import mannwhitneyu

from segment.scores.functional.binning import Floats, Ints

LEVEL = 0.01
"""A run of images like the validation images is called shifted in at most this share of runs."""
FIRST_CHECK = 8
DIVISIONS = 9999
"""Random divisions of heavily tied values; no p-value is then below one in so many."""


@dataclass(frozen=True)
class ShiftTest:
    """A rank test of a run against validation.

    images: of the run. p: two-sided; None where it cannot be tested. level: below it the run is shifted
    auroc: the share of pairs in which the run's image has the larger value; .5 for equal images
    """

    images: int
    p: float | None
    level: float
    auroc: float | None
    why: str = ""

    @property
    def shifted(self) -> bool:
        return self.p is not None and self.p < self.level


def shift_test(reference: Floats, values: Floats, *, level: float = LEVEL) -> ShiftTest:
    """The rank test of Wilcoxon, Mann and Whitney, two-sided; exact for small sets without ties.

    Where more than half of the values are equal, p is that of random divisions: the normal approximation calls three
    times as many runs shifted as the level allows.

    reference: a number for each validation image (or group); values: the same of the run's images

    >>> test = shift_test(np.arange(50.0), np.arange(60.0, 70.0))
    >>> test.shifted, test.auroc
    (True, 1.0)
    """
    if not len(reference) or not len(values):
        return ShiftTest(len(values), None, level, None, "there are no images to compare")
    if np.ptp(np.concatenate([reference, values])) == 0:
        return ShiftTest(len(values), None, level, None, "the measure is the same in every image")
    result = mannwhitneyu(values, reference, alternative="two-sided")
    _, place, ties = np.unique(np.concatenate([values, reference]), return_inverse=True, return_counts=True)
    p = float(result.pvalue) if 2 * ties.max() <= len(place) else _permuted(place[: len(values)], ties)
    auroc = float(result.statistic) / (len(values) * len(reference))
    smallest = smallest_p(len(reference), len(values))
    why = "" if smallest < level else "too few images: not even the largest shift could be seen"
    return ShiftTest(len(values), min(p, 1.0), level, auroc, why)


def _permuted(values: Ints, ties: Ints) -> float:
    """The p-value of the run's sum of ranks among random divisions of all values, two-sided.

    values: of the run, as places among the distinct values. ties: how many of all values each distinct one has
    """
    ranks = ties.cumsum() - (ties - 1) / 2 - (ties.sum() + 1) / 2  # tied values share their mean rank; 0 on average
    drawn = np.random.default_rng(0).multivariate_hypergeometric(ties, len(values), DIVISIONS, method="marginals")
    as_far = np.abs(drawn @ ranks) >= abs(ranks[values].sum()) - 1e-9
    return float(1 + as_far.sum()) / (1 + DIVISIONS)


def smallest_p(reference: int, values: int) -> float:
    """The p-value of a run all of whose values lie beyond the reference's: 2 / (reference + values choose values).

    >>> round(smallest_p(101, 1), 4)
    0.0196
    """
    p = 2.0
    for i in range(1, min(reference, values) + 1):
        p *= i / (reference + values - min(reference, values) + i)
    return min(p, 1.0)


def check_level(images: int) -> float | None:
    """The level of a check during a run after so many images; None: no check then.

    Checks come at 8, 16, 32, ... images, each with half the level of the one before, so that all together warn of at
    most LEVEL of the runs whose images are like the validation images and come in random order.

    >>> check_level(8), check_level(16), check_level(20)
    (0.005, 0.0025, None)
    """
    check, at = 1, FIRST_CHECK
    while at < images:
        check, at = check + 1, at * 2
    return LEVEL / 2**check if at == images else None
