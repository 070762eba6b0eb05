"""A fixed grid of thresholds of a measure: 16 an octave, chosen before any image was seen.

A threshold that is tested must not depend on the images that test it. Pixels are accepted below a threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional.binning import HIGHEST, LOWEST, Floats, Ints, bin_of, coarser_bin, edges

OCTAVE = 4  # 2^4 levels an octave: two neighbouring thresholds are 4.4 % apart
LEVELS = (HIGHEST - LOWEST) * 2**OCTAVE + 1


def level_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The lowest level whose threshold lies above each value: `value < thresholds()[level_of(value)]`.

    >>> level_of(np.float32([0.0, 0.5, 0.53, 1.0])).tolist()
    [0, 689, 689, 705]
    """
    return coarser_bin(bin_of(values), OCTAVE)


def thresholds() -> Floats:
    """The threshold of each level: values below it are accepted, and exact in float32; the last level has none above.

    >>> thresholds()[[0, 689, 705, -1]].tolist()
    [5.684341886080802e-14, 0.53125, 1.0625, 16.0]
    """
    upper = edges(LEVELS)[1:]
    upper[0] = 2.0**LOWEST  # exactly 0 alone is at level 0; smaller numbers than this share level 1
    return upper


def up_to(counts: Ints) -> Ints:  # ... L -> ... L
    """How many lie at each level or below it: what the level's threshold accepts."""
    return counts.cumsum(axis=-1)
