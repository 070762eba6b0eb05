"""PAvPU: whether accurate patches are certain, and inaccurate patches uncertain.

Source: Mukhoti & Gal 2018, arXiv:1811.12709 (patch accuracy vs patch uncertainty).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional.binning import HIGHEST, LOWEST, Floats, Ints, bin_of, coarser_bin, edges, quotient

SIZES = (1, 4, 16)  # pixels
OCTAVE = 6  # bins an octave, as a power of two, of the histogram that thresholds are chosen from: 64
THRESHOLD_BINS = (HIGHEST - LOWEST) * 2**OCTAVE + 1


def patch_sums(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:  # H W -> h w
    """Sum over each patch of size x size pixels; the last row and column of patches may be smaller.

    >>> patch_sums(np.float32([[1, 2, 3], [4, 5, 6]]), 2).tolist()
    [[12.0, 9.0]]
    """
    rows, columns = np.arange(0, values.shape[0], size), np.arange(0, values.shape[1], size)
    return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)


def pyramid(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:  # H W -> h w for each size
    """The sums over patches of every size, each computed from the sums of the next smaller size."""
    sums = [values]
    for smaller, size in pairwise(SIZES):
        sums.append(patch_sums(sums[-1], size // smaller))
    return sums


class Patches:
    """The patches of one image, with the counts that do not depend on the measure: valid and right pixels.

    A patch is accurate where at least half of its valid pixels are right, and uncertain where the mean of the measure
    over them is above the threshold; a patch without valid pixels is not counted.
    """

    def __init__(self, valid: NDArray[np.bool_], right: NDArray[np.bool_]) -> None:  # H W, H W
        self.valid = valid
        self.pixels = pyramid(valid.astype(np.float32))
        self.counted = [pixels > 0 for pixels in self.pixels]
        rights = pyramid(right.astype(np.float32))
        self.accurate = [(2 * r >= p) & c for r, p, c in zip(rights, self.pixels, self.counted, strict=True)]

    def counts(self, measure: NDArray[np.float32], thresholds: Sequence[float]) -> Ints:  # H W -> 3 4
        """Patches of each size: certain inaccurate, uncertain inaccurate, certain accurate, uncertain accurate.

        >>> right = np.array([[True, True, False, False]])
        >>> Patches(np.ones((1, 4), dtype=bool), right).counts(np.float32([[0.1, 0.9, 0.9, 0.1]]), [0.5] * 3).tolist()
        [[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]]
        """
        counts = []
        sums = pyramid(np.where(self.valid, measure, np.float32(0)))
        for threshold, of_size, pixels, counted, accurate in zip(
            thresholds, sums, self.pixels, self.counted, self.accurate, strict=True
        ):
            uncertain = of_size > np.float32(threshold) * pixels
            patches, right = np.count_nonzero(counted), np.count_nonzero(accurate)
            flagged, both = np.count_nonzero(uncertain & counted), np.count_nonzero(uncertain & accurate)
            counts.append([patches - right - flagged + both, flagged - both, right - both, both])
        return np.array(counts, dtype=np.int64)

    def histograms(self, measure: NDArray[np.float32]) -> Ints:  # H W -> 2 B 2
        """Accurate and inaccurate patches by the bin of the measure's mean, for `matching_threshold`.

        Of each size but the first, one pixel: those are the right and wrong pixels by the bin of the measure.
        """
        histograms = []
        sums = pyramid(np.where(self.valid, measure, np.float32(0)))
        parts = zip(sums, self.pixels, self.counted, self.accurate, strict=True)
        for of_size, pixels, counted, accurate in list(parts)[1:]:
            bins = coarser_bin(bin_of(of_size[counted] / pixels[counted]), OCTAVE)
            cell = 2 * bins + ~accurate[counted]
            histograms.append(np.bincount(cell, minlength=2 * THRESHOLD_BINS).reshape(THRESHOLD_BINS, 2))
        return np.stack(histograms)


def matching_threshold(histogram: Ints) -> float:  # B 2
    """The threshold above which as many patches are uncertain as are inaccurate, as nearly as the bins allow.

    All measures then flag the same number of patches, so that none gains by flagging fewer. It is the upper edge of a
    bin, exact to 1.1 %; the lowest of equally good edges; without patches the top edge.

    >>> histogram = np.zeros((THRESHOLD_BINS, 2), dtype=np.int64)
    >>> histogram[coarser_bin(bin_of(np.float32([0.1, 0.5, 0.7])), OCTAVE)] = [[80, 3], [8, 3], [2, 4]]
    >>> 0.5 <= matching_threshold(histogram) < 0.51  # 10 of 100 are inaccurate: above .5 are 6, above .1 were 16
    True
    """
    limits, (accurate, inaccurate) = edges(len(histogram)), histogram.sum(axis=0)
    if accurate + inaccurate == 0:
        return float(limits[-1])
    above = accurate + inaccurate - histogram.sum(axis=-1).cumsum()
    return float(limits[int(np.abs(above - inaccurate).argmin()) + 1])


def pavpu(patches: Ints) -> Floats:  # ... 4 -> ...
    """Share of the patches that are accurate and certain, or inaccurate and uncertain; [0, 1], nan without patches.

    >>> float(pavpu(np.array([1, 2, 6, 1])))
    0.8
    """
    return quotient(patches[..., 1] + patches[..., 2], patches.sum(axis=-1))
