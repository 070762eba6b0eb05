"""PAvPU: whether accurate patches are the certain ones, and the others the uncertain ones.

Source: Mukhoti & Gal 2018, arXiv:1811.12709 (patch accuracy vs patch uncertainty).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segment.scores.binning import Floats, Ints, quotient

SIZES = (1, 4, 16)  # pixels


def patch_sums(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:  # H W -> h w
    """Sum over each patch of size x size pixels; the last row and column of patches may be smaller.

    >>> patch_sums(np.float32([[1, 2, 3], [4, 5, 6]]), 2).tolist()
    [[12.0, 9.0]]
    """
    if size == 1:
        return values
    rows, columns = np.arange(0, values.shape[0], size), np.arange(0, values.shape[1], size)
    return np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)


class Patches:
    """One image cut into patches of each size, and what does not depend on the measure: valid and right pixels.

    A patch is accurate where at least half of its valid pixels are right, and uncertain where the mean of the measure
    over them is above the threshold; one without valid pixels counts nothing.
    """

    def __init__(self, valid: NDArray[np.bool_], right: NDArray[np.bool_]) -> None:  # H W, H W
        self.valid = valid
        self.pixels = [patch_sums(valid.astype(np.float32), size) for size in SIZES]
        rights = [patch_sums(right.astype(np.float32), size) for size in SIZES]
        self.accurate = [2 * r >= p for r, p in zip(rights, self.pixels, strict=True)]

    def counts(self, measure: NDArray[np.float32], threshold: float) -> Ints:  # H W -> 3 4
        """Patches of each size: certain inaccurate, uncertain inaccurate, certain accurate, uncertain accurate.

        >>> right = np.array([[True, True, False, False]])
        >>> Patches(np.ones((1, 4), dtype=bool), right).counts(np.float32([[0.1, 0.9, 0.9, 0.1]]), 0.5).tolist()
        [[1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]]
        """
        known = np.where(self.valid, measure, np.float32(0))
        found = []
        for size, pixels, accurate in zip(SIZES, self.pixels, self.accurate, strict=True):
            uncertain = patch_sums(known, size) > np.float32(threshold) * pixels
            cell = (2 * accurate.view(np.int8) + uncertain)[pixels > 0]
            found.append(np.bincount(cell.ravel(), minlength=4))
        return np.stack(found)


def pavpu(patches: Ints) -> Floats:  # ... 4 -> ...
    """Share of the patches that are accurate and certain, or inaccurate and uncertain; [0, 1], nan without patches.

    >>> float(pavpu(np.array([1, 2, 6, 1])))
    0.8
    """
    return quotient(patches[..., 1] + patches[..., 2], patches.sum(axis=-1))
