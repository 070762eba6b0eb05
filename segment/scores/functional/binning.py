"""Values → histogram bins, and real sums → integers, so that counts add to the same bits in any order.

Counts are exact; the order of values inside a bin is lost, and `extremes` bounds what that costs a ranking score.

Must not know what a value measures, nor where a pixel came from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

LOWEST, HIGHEST = -44, 4  # powers of two: 5.7e-14 to 16 holds every measure down to rounding, up to ln K of 8 million
FINE = 12  # 2^12 bins an octave: a bin is at most 0.025 % wide
BINS = (HIGHEST - LOWEST) * 2**FINE + 1
SCALE = 2.0**20  # an image's sum is kept to 5e-7, and int64 holds 1e11 pixels at the worst NLL of 88 nats


def bin_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bin of each value: 0 for exactly 0, else 4096 bins an octave, growing with the value.

    A positive float32, read as an integer, grows with its value and steps evenly inside an octave: dropping its low
    bits is a bin. Values under 2^-44 share bin 1, values from 16 up the last bin. Values: finite, not negative.

    >>> bin_of(np.float32([0.0, 1e-30, 0.5, 0.5004, 0.501, 1.0, 1e9])).tolist()
    [0, 1, 176129, 176132, 176137, 180225, 196608]
    """
    floats = np.ascontiguousarray(values, dtype=np.float32)
    bins = floats.view(np.int32) >> (23 - FINE)
    bins -= ((127 + LOWEST) << FINE) - 1
    np.clip(bins, 0, BINS - 1, out=bins)
    return np.maximum(bins, floats > 0, out=bins)


def coarser(histogram: Ints, octave: int) -> Ints:  # B ... -> b ...
    """A histogram with only 2^octave bins an octave; bin 0 stays its own.

    >>> coarser(np.ones(BINS, dtype=np.int64), 0).tolist()[:3]
    [1, 4096, 4096]
    """
    width = (len(histogram) - 1) // ((HIGHEST - LOWEST) * 2**octave)
    starts = np.append(0, np.arange(1, len(histogram), width))
    return np.add.reduceat(histogram, starts, axis=0)  # twenty times faster than reshape and sum


def coarser_bin(bins: NDArray[np.int32], octave: int) -> NDArray[np.int32]:
    """The bin at 2^octave bins an octave of a pixel whose fine bin is known.

    >>> coarser_bin(np.int32([0, 1, 4096, 4097]), 0).tolist()
    [0, 1, 1, 2]
    """
    shift = FINE - octave
    return (bins + ((1 << shift) - 1)) >> shift


@dataclass(frozen=True)
class Span:
    """The histogram of one image from its lowest bin to its highest, and bin 0: most others are empty.

    lowest: above bin 0; counts: n C: bin 0, then the bins from `lowest` on
    """

    lowest: int
    counts: Ints

    @classmethod
    def of(cls, bins: NDArray[np.int32], column: NDArray[np.int32], columns: int) -> Span:  # P, P
        """The span of pixels by their bins and columns (0 to columns - 1).

        >>> span = Span.of(np.int32([0, 9, 11, 11]), np.int32([1, 0, 0, 1]), 2)
        >>> span.lowest, span.counts.tolist()
        (9, [[0, 1], [1, 0], [0, 0], [1, 1]])
        """
        lowest = int(np.where(bins == 0, np.int32(BINS - 1), bins).min(initial=BINS - 1))
        rows = 2 + max(int(bins.max(initial=0)) - lowest, 0)
        cells = np.maximum(bins - np.int32(lowest - 1), 0) * np.int32(columns) + column
        return cls(lowest, np.bincount(cells, minlength=rows * columns).reshape(rows, columns))

    def first(self, columns: int) -> Span:
        """The first columns alone."""
        return Span(self.lowest, self.counts[:, :columns])

    def add_to(self, histogram: Ints) -> None:  # B C
        """Add the counts to those of all bins, in place."""
        histogram[0] += self.counts[0]
        histogram[self.lowest : self.lowest + len(self.counts) - 1] += self.counts[1:]

    def coarser(self, octave: int) -> Ints:  # -> b C
        """All bins of the same histogram at 2^octave bins an octave, as `coarser` gives them."""
        width = 2 ** (FINE - octave)
        whole = np.zeros(((HIGHEST - LOWEST) * 2**octave + 1, self.counts.shape[1]), dtype=np.int64)
        whole[0] = self.counts[0]
        inside = (self.lowest - 1) % width  # of its coarse bin
        starts = np.arange(width - inside, len(self.counts) - 1, width)
        first = (self.lowest - 1) // width + 1
        summed = np.add.reduceat(self.counts[1:], np.append(0, starts), axis=0)
        whole[first : first + len(summed)] = summed
        return whole


def extremes(histogram: Ints) -> tuple[Ints, Ints]:  # R B 2 -> R b 2 each, b twice the bins that hold something
    """A histogram with each bin in its best order, negatives (the first column) lower, and in its worst one.

    Whatever order the values have inside their bins, a ranking score lies between those of these two.

    >>> [counts.tolist() for counts in extremes(np.array([[[2, 1], [0, 0]]]))]
    [[[[2, 0], [0, 1]]], [[[0, 1], [2, 0]]]]
    """
    counted: NDArray[np.bool_] = np.asarray(histogram.any(axis=(0, 2)))
    counted[0] = True  # so that there is one bin at least where there are no pixels
    occupied = histogram[:, counted]
    separated = np.zeros((*occupied.shape[:2], 2, 2), dtype=np.int64)
    separated[:, :, 0, 0], separated[:, :, 1, 1] = occupied[..., 0], occupied[..., 1]
    shape = (len(occupied), -1, 2)
    return separated.reshape(shape), separated[:, :, ::-1].reshape(shape)


def edges(bins: int) -> Floats:
    """Lower edge of each of that many bins, and the upper edge of the last: length bins + 1.

    >>> edges(49)[[0, 1, 2, 45, 49]].tolist()
    [0.0, 5.684341886080802e-14, 1.1368683772161603e-13, 1.0, 16.0]
    """
    octaves = HIGHEST - LOWEST
    within = (bins - 1) // octaves
    step = np.arange(bins)
    upper = np.ldexp(1 + (step % within) / within, LOWEST + step // within)
    return np.concatenate([[0.0], upper])


def fixed(sums: Floats) -> Ints:
    """Real sums of one image in units of 2^-20: integers add to the same bits in any order.

    >>> fixed(np.float64([0.5, 1.25])).tolist()
    [524288, 1310720]
    """
    return np.rint(sums * SCALE).astype(np.int64)


def quotient(above: Floats | Ints, below: Floats | Ints) -> Floats:
    """Above / below, nan where below is 0: nan marks a score that is not defined, without a warning.

    >>> quotient(np.array([1, 0]), np.array([4, 0])).tolist()
    [0.25, nan]
    """
    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    return np.divide(above, below, out=np.full(shape, np.nan), where=np.asarray(below) != 0)


def mean_defined(values: Floats) -> Floats:  # ... X -> ...
    """Mean over the last axis of the values that are not nan; nan where all are.

    >>> mean_defined(np.array([[0.2, np.nan, 0.4], [np.nan] * 3])).tolist()
    [0.30000000000000004, nan]
    """
    known = ~np.isnan(values)
    return quotient(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
