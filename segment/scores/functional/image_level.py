"""One number for the uncertainty of an image, and how well it ranks images by the quality of their masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional.binning import Floats

AGGREGATIONS = ("mean", "p95", "area", "interior", "patch")
PATCH = 16  # pixels a side; patches overlap by half
BORDER = 2  # pixels on either side of a predicted boundary, where every network is uncertain


def interior(prediction: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:  # ... H W -> H W
    """Pixels whose 5 x 5 neighbourhood is predicted as one class (of every label, where several masks are given).

    Fastest on uint8: a tenth of the time on int64, and a seventh of that of minimum and maximum filters of SciPy.

    >>> interior(np.array([[0, 0, 0, 0, 1]])).tolist()
    [[True, True, False, False, False]]
    """
    lowest = highest = prediction
    for axis in (-2, -1):
        lowest, highest = _window(lowest, np.minimum, axis), _window(highest, np.maximum, axis)
    same = lowest == highest
    return same.reshape(-1, *same.shape[-2:]).all(axis=0)


def _window(values: NDArray[np.integer[Any]], reduce: np.ufunc, axis: int) -> NDArray[np.integer[Any]]:
    widths = [(0, 0)] * values.ndim
    widths[axis] = (BORDER, BORDER)
    padded = np.moveaxis(np.pad(values, widths, mode="edge"), axis, 0)
    length = values.shape[axis]
    extreme = padded[:length]
    for start in range(1, 2 * BORDER + 1):
        extreme = reduce(extreme, padded[start : start + length])
    return np.moveaxis(extreme, 0, axis)


def aggregate(
    measure: NDArray[np.float32],
    inside: NDArray[np.bool_],
    threshold: float | None,
    counted: NDArray[np.bool_] | None = None,
) -> Floats:  # -> 5
    """Mean, 95th percentile, share above the threshold, mean over the interior, highest patch; in the measure's unit.

    Over all pixels of the image, void ones too, because it is used where there are no labels. nan: no threshold, no
    interior, or no data. counted: H W, where the image holds data within its region mask; None: everywhere. Mean, share
    above, interior and patch are the aggregates that ValUES compares (Kahl et al. 2024, arXiv:2401.08501).

    >>> aggregate(np.float32([[0, 1, 2, 3]]), np.array([[True, True, False, False]]), 1.5).round(2).tolist()
    [1.5, 2.85, 0.5, 0.5, 1.5]
    """
    if counted is not None and not counted.any():
        return np.full(len(AGGREGATIONS), np.nan)
    patch = highest_patch(measure, counted=counted)
    if counted is not None:
        measure, inside = measure[counted], inside[counted]
    above = np.nan if threshold is None else float((measure > threshold).mean())
    within = float(measure[inside].mean(dtype=np.float64)) if inside.any() else np.nan
    whole, high = float(measure.mean(dtype=np.float64)), _quantile(measure.ravel(), 0.95)
    return np.array([whole, high, above, within, patch])


def highest_patch(
    measure: NDArray[np.float32], size: int = PATCH, counted: NDArray[np.bool_] | None = None
) -> float:  # H W
    """The highest mean over a patch of size x size pixels, patches overlapping by half; a smaller image is one patch.

    counted: H W, the pixels that a patch's mean is over; None: all

    >>> highest_patch(np.float32([[0, 0, 1, 1], [0, 0, 1, 1]]), size=2)
    1.0
    """
    half = max(size // 2, 1)
    if counted is None:
        rows, columns = (_half_overlapping(np.ones((length, 1)), half, 0) for length in measure.shape)
        sums, counts = measure.astype(np.float64), rows * columns.T
    else:
        sums, counts = np.where(counted, measure, 0).astype(np.float64), counted.astype(np.float64)
        counts = _half_overlapping(_half_overlapping(counts, half, 0), half, 1)
    sums = _half_overlapping(_half_overlapping(sums, half, 0), half, 1)
    return float((sums[counts > 0] / counts[counts > 0]).max())


def _half_overlapping(values: Floats, half: int, axis: int) -> Floats:
    """Sums over patches of twice `half` along an axis; over all of it where it is no longer than half."""
    starts = np.arange(0, values.shape[axis], half)
    sums = np.add.reduceat(values, starts, axis=axis)
    if len(starts) == 1:
        return sums
    first, second = ((slice(None),) * axis + (part,) for part in (slice(-1), slice(1, None)))
    return sums[first] + sums[second]  # two halves make a patch


def _quantile(values: NDArray[np.float32], share: float) -> float:
    """A quantile as np.quantile's, by sorting a tenth of the values: those above a bound from every sixteenth value."""
    at = share * (values.size - 1)
    under, over = int(at), min(int(at) + 1, values.size - 1)
    sampled = np.sort(values[::16])
    high = values[values >= sampled[int(max(2 * share - 1, 0) * (sampled.size - 1))]]
    left_out = values.size - high.size
    if left_out > under:  # the sampled values were not representative
        high, left_out = values, 0
    high = np.partition(high, (under - left_out, over - left_out))
    first, second = float(high[under - left_out]), float(high[over - left_out])
    return first + (at - under) * (second - first)


def _ranks(values: Floats) -> Floats:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]  # ties share their mean rank


def rank_correlation(x: Floats, y: Floats) -> float:  # N, N
    """Spearman's rank correlation, ties sharing their mean rank; nan for fewer than two values, or constant values."""
    a, b = _ranks(x), _ranks(y)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b) / float(np.sqrt((a @ a) * (b @ b)))


def spearman(x: Floats, y: Floats) -> tuple[float, int]:  # N, N
    """Spearman's rank correlation over the images where both are defined, and their number.

    Within [-1, 1]; nan for fewer than two images, or where one side is constant.

    >>> spearman(np.array([1.0, 2.0, 3.0, np.nan]), np.array([1.0, 4.0, 9.0, 0.0]))
    (1.0, 3)
    """
    known = ~(np.isnan(x) | np.isnan(y))
    return round(rank_correlation(x[known], y[known]), 12), int(known.sum())


def spearman_replicates(x: Floats, y: Floats, weights: Floats) -> Floats:  # N, N, R N -> R
    """Spearman's rank correlation with each image counted as often as a replicate says; nan where one side is constant.

    >>> x, y = np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])
    >>> spearman_replicates(x, y, np.array([[1.0, 1.0, 1.0], [1.0, 2.0, 0.0]])).round(6).tolist()
    [0.5, 1.0]
    """
    total = weights.sum(axis=1, keepdims=True)
    a, b = (_weighted_ranks(values, weights) for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):  # a replicate may hold no image
        a, b = (ranks - (weights * ranks).sum(axis=1, keepdims=True) / total for ranks in (a, b))
        squares = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
        return np.where(squares > 0, (weights * a * b).sum(axis=1) / np.sqrt(squares), np.nan)


def _weighted_ranks(values: Floats, weights: Floats) -> Floats:  # N, R N -> R N
    order = np.argsort(values)
    _, starts, place = np.unique(values[order], return_index=True, return_inverse=True)
    place = place[np.argsort(order)]
    of_value = np.add.reduceat(weights[:, order], starts, axis=1)
    return (of_value.cumsum(axis=1) - (of_value - 1) / 2)[:, place]  # ties share their mean rank
