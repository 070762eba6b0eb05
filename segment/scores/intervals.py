"""95 % intervals by a Poisson bootstrap over images: in one pass, in fixed memory, paired between methods.

Every replicate counts an image w times, w from Poisson(1), instead of once (Chamandy et al. 2012). The weights depend
on the image's id alone: every method and shard draws the same weights, in any order. Images that belong together, as
those of one patient, share the weights of their group: then the bootstrap is over groups.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from segment.scores.functional.binning import Floats, Ints
from segment.scores.functional.image_level import rank_correlation, spearman_replicates

REPLICATES = 200
_CDF = np.array([math.exp(-1) * math.fsum(1 / math.factorial(i) for i in range(k + 1)) for k in range(18)])


@lru_cache(maxsize=4096)  # a group is asked for once an image of it
def poisson_weights(identity: str, replicates: int = REPLICATES) -> Ints:  # -> R
    """How often each replicate counts this image or group: Poisson(1), from SHAKE-256 of its name, on any machine.

    >>> poisson_weights("0001TP_008550")[:8].tolist()
    [0, 4, 1, 2, 2, 1, 1, 1]
    """
    stream = hashlib.shake_256(identity.encode()).digest(8 * replicates)
    uniform = (np.frombuffer(stream, dtype="<u8") >> np.uint64(11)) * 2.0**-53
    weights = np.searchsorted(_CDF, uniform, side="right").astype(np.int64)
    weights.setflags(write=False)
    return weights


def add_weighted(replicates: Ints, counts: Ints, weights: Ints) -> None:  # X R, X, R
    """Add w times one image's counts to each replicate, in place; most counts of an image are 0 and cost nothing."""
    rows = np.flatnonzero(counts)
    replicates[rows] += counts.ravel()[rows, None] * weights


def interval(value: float, rough: float, replicates: Floats) -> tuple[float, float] | None:  # R
    """The score of all images plus the middle 95 % of the replicates' deviations from it.

    value: the score of the fine bins; rough: the same from the replicates' coarser bins, so that
    these affect the deviation only. None where fewer than half of the replicates define the score.

    >>> interval(0.5, 0.4, np.linspace(0.3, 0.5, 201))
    (0.405, 0.595)
    """
    known = replicates[~np.isnan(replicates)]
    if math.isnan(value) or math.isnan(rough) or 2 * known.size < replicates.size or not known.size:
        return None
    low, high = middle_95(known - rough)
    return round(value + low, 12), round(value + high, 12)


def middle_95(replicates: Sequence[float] | Floats) -> tuple[float, float]:
    """The 95 % interval of a statistic: the middle of its bootstrap replicates."""
    low, high = np.quantile(replicates, [0.025, 0.975])
    return float(low), float(high)


ALMOST = 1 - 1e-9
"""A rank correlation above it is perfect, but for rounding."""
NO_SPEARMAN = "an interval needs four {} or more, and a correlation between -1 and 1"
"""The reason, with what the interval is over: images, or groups."""


def spearman_interval(rho: float, images: int) -> tuple[float, float] | None:
    """95 % interval of a Spearman rank correlation by Fisher's z, with variance 1.06/(n - 3).

    Source: Fieller, Hartley & Pearson 1957. None for fewer than 4 images, and at -1 and 1, whose z is infinite.

    >>> [round(x, 3) for x in spearman_interval(0.5, 103)]
    [0.334, 0.636]
    """
    if images < 4 or math.isnan(rho) or abs(rho) > ALMOST:
        return None
    z = np.arctanh(rho)
    half = 1.959963984540054 * math.sqrt(1.06 / (images - 3))
    return float(np.tanh(z - half)), float(np.tanh(z + half))


def spearman_over_groups(x: Floats, y: Floats, groups: Sequence[str]) -> tuple[float, float] | None:  # N, N
    """95 % interval of a Spearman rank correlation by the bootstrap over groups, whose images are not independent.

    x, y: of N images, both defined. None for fewer than 4 groups, and at -1 and 1.
    """
    rho = rank_correlation(x, y)
    if len(set(groups)) < 4 or math.isnan(rho) or abs(rho) > ALMOST:
        return None
    replicates = spearman_replicates(x, y, np.stack([poisson_weights(group) for group in groups], axis=1).astype(float))
    return interval(rho, rho, replicates)
