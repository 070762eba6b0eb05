"""How well a number ranks images by the quality of their masks: Spearman, image-level AURC, failure AUROC.

Each with a 95 % interval over images, or groups of them. Must not know which number it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional.binning import Floats
from segment.scores.functional.image_level import spearman
from segment.scores.intervals import (
    ALMOST,
    NO_SPEARMAN,
    middle_95,
    poisson_weights,
    spearman_interval,
    spearman_over_groups,
)

Entry = dict[str, Any]


def entry(value: float | None, ends: tuple[float, float] | None, why: str = "") -> Entry:
    """A score as files hold it. ends: of its 95 % interval; why: the reason where one of them is missing.

    >>> entry(0.5, (0.3, 0.7))
    {'value': 0.5, 'low': 0.3, 'high': 0.7}
    """
    low, high = ends if ends is not None else (None, None)
    return {"value": value, "low": low, "high": high} | ({"why": why} if why else {})


def ranking_scores(
    ids: Sequence[str],
    uncertainty: Floats,
    quality: Floats,
    fails_below: float,
    groups: Mapping[str, str] | None = None,
) -> dict[str, Entry]:
    """The scores of one ranking of images by one quality.

    Args:
        ids: Of the N images; they seed the bootstrap, so that rankings are compared on equal weights.
        uncertainty: A number of each image, large where the mask is uncertain; nan where there is none.
        quality: Of each mask, within 0..1; nan where it is not defined.
        fails_below: A mask of less quality has failed.
        groups: Id to group, over which the bootstrap then is; None: over images.

    Returns:
        `spearman` with lack of quality, within -1..1 (interval: Fisher's z, variance 1.06/(n - 3), or over groups the
        bootstrap; at -1 and 1 there is none, but over images `p` of a permutation test); `aurc`, the mean of
        1 - quality over coverages 1/n..1 of the images, the most certain first, 0 is best; `failure_auroc`, the chance
        that a failed image has a larger one than another. None with a `why` where one is not defined.

    """
    known = np.isfinite(uncertainty) & np.isfinite(quality)
    d, q = uncertainty[known], quality[known]
    names = [name if groups is None else groups[name] for name, there in zip(ids, known, strict=True) if there]
    if d.size < 2:
        why = "fewer than two images have both numbers"
        return {name: entry(None, None, why) for name in ("spearman", "aurc", "failure_auroc")}
    weights = np.stack([poisson_weights(name) for name in names], axis=1).astype(np.float64)  # R n
    of_groups = None if groups is None else names
    scores = {"spearman": _spearman(d, 1 - q, of_groups), "aurc": _with_interval(_aurc(d, 1 - q, weights))}
    failed = q < fails_below
    if failed.all() or not failed.any():
        why = f"{'every' if failed.all() else 'no'} image is below {fails_below:.3f}"
        return scores | {"failure_auroc": entry(None, None, why)}
    return scores | {"failure_auroc": _with_interval(_auroc(d[~failed], d[failed], weights, failed))}


def finding(scores: Entry) -> bool:
    """Whether a rank correlation is one: its interval excludes 0, or its p where it is perfect and has none.

    >>> finding({"value": 0.2, "low": -0.1, "high": 0.5}), finding({"value": 0.4, "low": 0.1, "high": 0.6})
    (False, True)
    """
    if scores["low"] is None:
        return scores.get("p", 1.0) <= 0.05  # as a 95 % interval
    return scores["low"] > 0 or scores["high"] < 0


def _spearman(uncertainty: Floats, lack: Floats, groups: Sequence[str] | None) -> Entry:
    rho, count = spearman(uncertainty, lack)
    if np.isnan(rho):
        return entry(None, None, "all images are alike")
    ends = spearman_interval(rho, count) if groups is None else spearman_over_groups(uncertainty, lack, groups)
    if ends is not None:
        return entry(rho, ends)
    perfect = {"p": _p_of_perfect(uncertainty)} if groups is None and abs(rho) > ALMOST else {}
    return entry(rho, None, NO_SPEARMAN.format("images" if groups is None else "groups")) | perfect


def _p_of_perfect(values: Floats) -> float:
    """The share of all orders of n images that give a correlation of -1 or 1, where one of them was found.

    Equal values may stand in any order; the other extreme exists where they are as many from above as from below.

    >>> _p_of_perfect(np.arange(4.0)) * 24, _p_of_perfect(np.float64([0, 0, 0, 1])) * 4
    (2.0, 1.0)
    """
    ties = np.unique(values, return_counts=True)[1]
    orders = math.factorial(values.size) // math.prod(math.factorial(int(equal)) for equal in ties)
    return (2 if np.array_equal(ties, ties[::-1]) else 1) / orders


def _aurc(uncertainty: Floats, loss: Floats, weights: Floats) -> tuple[float, Floats]:  # n, n, R n
    order = np.argsort(uncertainty, kind="stable")
    _, first, place = np.unique(uncertainty[order], return_index=True, return_inverse=True)

    def area(w: Floats) -> Floats:  # R n -> R
        w = w[:, order]
        of_ties = np.add.reduceat(w * loss[order], first, axis=1) / np.maximum(np.add.reduceat(w, first, axis=1), 1e-12)
        total = w.cumsum(axis=1)
        risk = (w * of_ties[:, place]).cumsum(axis=1) / np.maximum(total, 1e-12)  # ties share their mean loss
        return (w * risk).sum(axis=1) / np.maximum(total[:, -1], 1e-12)

    return float(area(np.ones((1, uncertainty.size)))[0]), area(weights)[weights.sum(axis=1) > 0]


def _auroc(fine: Floats, failed: Floats, weights: Floats, which: NDArray[np.bool_]) -> tuple[float, Floats]:
    above = (failed[:, None] > fine[None]) + 0.5 * (failed[:, None] == fine[None])  # F O
    w_failed, w_fine = weights[:, which], weights[:, ~which]
    pairs = w_failed.sum(axis=1) * w_fine.sum(axis=1)
    chances = ((w_failed @ above) * w_fine).sum(axis=1)[pairs > 0] / pairs[pairs > 0]
    return float(above.mean()), chances


def _with_interval(scored: tuple[float, Floats]) -> Entry:
    value, replicates = scored
    return entry(value, middle_95(replicates) if replicates.size > 1 else None)
