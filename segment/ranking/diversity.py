"""Images that are uncertain and unlike one another: greedy k-centre among the most uncertain.

Must not know what a feature is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POOL = 4
"""Candidates for each image that is chosen: the most uncertain ones."""


def diverse(features: NDArray[np.float64], count: int) -> list[int]:  # N D, most uncertain first
    """Choose images that cover the candidates: the first, then each time the one farthest from all chosen.

    Args:
        features: N candidates of D numbers, the most uncertain first; columns are brought to unit variance.
        count: How many to choose; all where there are fewer.

    Returns:
        Indices in the order of the choice. Source: Sener & Savarese 2018, arXiv:1708.00489 (k-centre, greedy).

    >>> diverse(np.array([[0.0], [0.1], [5.0], [2.0]]), 3)
    [0, 2, 3]

    """
    if not len(features) or count < 1:
        return []
    spread = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    chosen = [0]
    nearest = np.linalg.norm(scaled - scaled[0], axis=1)
    while len(chosen) < min(count, len(features)):
        nearest[chosen] = -1.0
        following = int(nearest.argmax())
        chosen.append(following)
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[following], axis=1))
    return chosen
