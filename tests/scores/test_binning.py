"""A bin holds its values, grows with them, and is as wide as stated."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from segment.scores.functional.binning import BINS, Span, bin_of, coarser, coarser_bin, edges


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


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 1e-30, 1e-9, 3e-3, 0.5, 0.50001, 0.9, 20.0]), st.integers(0, 2)), max_size=30
    )
)
def test_a_span_is_the_whole_histogram(pixels: list[tuple[float, int]]) -> None:
    bins = bin_of(np.array([value for value, _ in pixels], dtype=np.float32))
    columns = np.array([column for _, column in pixels], dtype=np.int32)
    whole = np.zeros((BINS, 3), dtype=np.int64)
    np.add.at(whole, (bins, columns), 1)
    span = Span.of(bins, columns, 3)
    added = np.ones_like(whole)
    span.add_to(added)
    np.testing.assert_array_equal(added - 1, whole)
    for octave in (0, 4, 6):
        np.testing.assert_array_equal(span.coarser(octave), coarser(whole, octave))
    np.testing.assert_array_equal(span.first(2).counts, span.counts[:, :2])
