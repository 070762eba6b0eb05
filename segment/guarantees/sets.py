"""Prediction sets of pixels: the likeliest classes until their mass reaches a threshold (APS), few of them (RAPS).

A class's score is the mass of the classes ranked above it, plus for RAPS a penalty for each rank beyond some; the set
holds every class whose score is at most the threshold. The likeliest class scores 0, so no set is empty.
Source: Romano, Sesia & Candès 2020, arXiv:2006.02544; Angelopoulos et al. 2021, arXiv:2009.14193; not randomised,
which covers more, and keeps a map free of noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional.binning import HIGHEST, LOWEST, Floats, Ints, bin_of, coarser_bin, edges

OCTAVE = 6
BINS = (HIGHEST - LOWEST) * 2**OCTAVE + 1
RANKS = 16
"""Ranks that are kept apart; those beyond share the last, which for RAPS has the last's penalty at least."""


@dataclass(frozen=True, kw_only=True)
class Penalty:
    """What RAPS adds to large sets; APS has weight 0.

    weight: mass that each rank beyond `free` costs; free: ranks without a penalty
    """

    weight: float = 0.0
    free: int = 1

    def of(self, ranks: NDArray[np.integer]) -> Floats:
        """The penalty of classes of these ranks; the likeliest class has rank 1."""
        return self.weight * np.maximum(ranks - self.free, 0)


def rank_and_rest(probability: NDArray[np.float32], classes: Ints) -> tuple[Ints, NDArray[np.float32]]:
    """The rank of a class at each pixel, from 1, and its own mass plus that of the classes ranked below it.

    probability: K P. classes: P. Ties are ranked in the order of the classes.

    >>> rank, rest = rank_and_rest(np.float32([[0.5], [0.3], [0.2]]), np.array([1]))
    >>> rank.tolist(), rest.tolist()
    ([2], [0.5])
    """
    own = np.take_along_axis(probability, classes[None], axis=0)[0]
    rank = np.ones(classes.shape, dtype=np.int64)
    rest = np.zeros(classes.shape, dtype=np.float32)
    for k in range(len(probability)):
        above = (probability[k] > own) | ((probability[k] == own) & (classes > k))
        rank += above
        rest += np.where(above, np.float32(0), probability[k])
    return rank, rest


def true_class_counts(probability: NDArray[np.float32], label: Ints) -> Ints:  # K P, P -> RANKS BINS
    """Pixels by the rank of their true class and the bin of its mass and that below it."""
    rank, rest = rank_and_rest(probability, label)
    keys = (rank.clip(max=RANKS) - 1) * BINS + coarser_bin(bin_of(rest), OCTAVE)
    return np.bincount(keys, minlength=RANKS * BINS).reshape(RANKS, BINS)


def score_bins(penalty: Penalty) -> Floats:  # -> RANKS BINS
    """The largest score of a true class in each bin; the first rank's is 0. At or above the exact one."""
    score = 1 - edges(BINS)[:-1] + penalty.of(np.arange(1, RANKS + 1))[:, None]
    score[0] = 0.0
    return score.clip(min=0.0)


def set_sizes(probability: NDArray[np.floating], threshold: float, penalty: Penalty) -> NDArray[np.int64]:
    """Classes in each pixel's set. probability: K ... -> ...

    >>> set_sizes(np.float32([[0.5, 0.9], [0.3, 0.1], [0.2, 0]]), 0.6, Penalty())
    array([2, 1])
    """
    return sets(probability, threshold, penalty).sum(axis=0)


def sets(probability: NDArray[np.floating], threshold: float, penalty: Penalty) -> NDArray[np.bool_]:
    """Which classes are in each pixel's set. probability: K ... -> K ..."""
    order = np.argsort(-probability, axis=0, kind="stable")
    ordered = np.take_along_axis(probability, order, axis=0).astype(np.float64)
    rest = np.flip(np.flip(ordered, axis=0).cumsum(axis=0), axis=0)
    ranks = np.arange(1, len(ordered) + 1).clip(max=RANKS)
    score = 1 - rest + penalty.of(ranks).reshape(-1, *[1] * (ordered.ndim - 1))
    score[0] = 0.0
    inside = np.zeros(probability.shape, dtype=bool)
    np.put_along_axis(inside, order, score <= threshold, axis=0)
    return inside
