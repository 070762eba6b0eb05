"""A map's mean and 95th percentile, exact and without sorting, also of a map that lies in a windowed file.

Must not know which measure the map holds.
"""

from __future__ import annotations

import numpy as np

from segment.axes import Plane
from segment.files.lazy_arrays import blocks
from segment.regions.ranks import quantile


def summary(values: Plane) -> dict[str, float]:  # H W, float32
    """A map's mean and 95th percentile (linear between its two neighbours in rank) over its pixels, in its unit.

    Pixels that are NaN are left out; empty where no other is left.

    >>> summary(np.array([[0.0, 1.0, 2.0, np.nan]], np.float32))
    {'mean': 1.0, 'p95': 1.9}
    """
    count, total = 0, 0.0
    for block in blocks(values):
        count += int(np.count_nonzero(~np.isnan(block)))
        total += float(np.nansum(block, dtype=np.float64))
    if not count:
        return {}
    return {"mean": total / count, "p95": quantile(lambda: blocks(values), count, 0.95)}
