"""A bin holds its values, grows with them, and is as wide as stated."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from segment.scores.functional.binning import BINS, bin_of, coarser, coarser_bin, edges


@given(arrays.arrays(np.float32, 50, elements=st.floats(0, 1e6, width=32, allow_subnormal=True)))
def test_a_bin_grows_with_its_value_and_holds_it(values: NDArray[np.float32]) -> None:
    ordered = np.sort(values)
    bins = bin_of(ordered)
    assert (np.diff(bins) >= 0).all()
    assert ((bins == 0) == (ordered == 0)).all()
    inside = (ordered >= 2.0**-44) & (ordered < 16)
    limits = edges(BINS)
    assert (limits[bins[inside]] <= ordered[inside]).all()
    assert (ordered[inside] < limits[bins[inside] + 1]).all()
    for octave in (0, 4, 6):
        counts = np.bincount(bins, minlength=BINS)
        again = np.bincount(coarser_bin(bins, octave), minlength=48 * 2**octave + 1)
        np.testing.assert_array_equal(coarser(counts, octave), again)
