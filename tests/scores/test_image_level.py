"""The statistics of one image equal those of SciPy and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from scipy import ndimage, stats

from segment.scores.functional import image_level


@given(
    arrays.arrays(np.float64, 30, elements=st.integers(0, 8)), arrays.arrays(np.float64, 30, elements=st.integers(0, 8))
)
def test_rank_correlation_is_that_of_scipy(x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    rho, images = image_level.spearman(x, y)
    assert images == 30
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(rho)
    else:
        assert rho == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-9)


@given(arrays.arrays(np.int64, (9, 12), elements=st.integers(0, 2)))
def test_the_interior_is_where_the_neighbourhood_is_one_class(mask: NDArray[np.int64]) -> None:
    low, high = (f(mask, size=5, mode="nearest") for f in (ndimage.minimum_filter, ndimage.maximum_filter))
    np.testing.assert_array_equal(image_level.interior(mask), low == high)
    np.testing.assert_array_equal(image_level.interior(mask.astype(np.uint8)), low == high)
    both = image_level.interior(np.stack([mask, np.zeros_like(mask)]))
    np.testing.assert_array_equal(both, low == high)


@given(values=arrays.arrays(np.float32, (9, 37), elements=st.floats(0, 4, width=32)), odd=st.booleans())
def test_the_95th_percentile_is_that_of_numpy_however_the_values_lie(values: NDArray[np.float32], *, odd: bool) -> None:
    if odd:
        values.ravel()[::16] = 5  # the sampled sixteenth holds high values only
    inside = np.ones(values.shape, dtype=bool)
    percentile = image_level.aggregate(values, inside, None)[1]
    assert percentile == pytest.approx(np.quantile(values.astype(np.float64), 0.95), rel=1e-6)
