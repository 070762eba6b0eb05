"""A large image to overlapping tiles and back, as large as a memory budget lets them be.

The kept part of a tile lies a halo away from every cut. Nothing is blended: where the halo covers the receptive field,
neighbouring tiles agree.
Must not know a network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from segment.errors import WrongUse
from segment.estimation.memory_budget import FIXED, MemoryBudget
from segment.tracing.receptive_field import TileGeometry

SMALL = 2 * 64 * 2304
"""Images up to this many pixels are not tiled where half as many do not fit: the halo is measured on that many."""

Span = tuple[int, int]
"""The first pixel, and the one after the last."""


@dataclass(frozen=True)
class Tile:
    """rows, columns: its pixels in the image; inner_rows, inner_columns: those that are kept of its estimate."""

    rows: Span
    columns: Span
    inner_rows: Span
    inner_columns: Span

    @property
    def seen(self) -> tuple[slice, slice]:
        return slice(*self.rows), slice(*self.columns)

    @property
    def kept(self) -> tuple[slice, slice]:
        """In the image."""
        return slice(*self.inner_rows), slice(*self.inner_columns)

    @property
    def within(self) -> tuple[slice, slice]:
        """The kept part, in the tile."""
        (top, left), (rows, columns) = (self.rows[0], self.columns[0]), (self.inner_rows, self.inner_columns)
        return slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left)


def tiles(height: int, width: int, *, side: int, halo: int, align: int) -> tuple[Tile, ...]:
    """Tiles of at most side x side whose kept parts cover the image once, row by row.

    Every kept pixel is `halo` pixels from a cut, or beyond where the image ends. Tiles start at multiples of `align`,
    so that a network's strides fall on the same pixels as in the whole image.
    Errors: WrongUse where a tile would keep nothing, or side or halo is no multiple of `align`.

    >>> [(tile.columns, tile.inner_columns) for tile in tiles(4, 20, side=12, halo=4, align=4)]
    [((0, 12), (0, 8)), ((4, 16), (8, 12)), ((8, 20), (12, 20))]
    """
    if side % align or halo % align or side < 2 * halo + align:
        raise WrongUse(
            f"Tiles of {side} pixels with a halo of {halo} are not possible: take a multiple of {align}, "
            f"at least {2 * halo + align}."
        )
    return tuple(
        Tile(rows, columns, inner_rows, inner_columns)
        for rows, inner_rows in _spans(height, side, halo)
        for columns, inner_columns in _spans(width, side, halo)
    )


def _spans(length: int, side: int, halo: int) -> list[tuple[Span, Span]]:
    spans = []
    done = 0
    while done < length:
        start = max(0, done - halo)
        stop = min(length, start + side)
        inner = length if stop == length else stop - halo
        spans.append(((start, stop), (done, inner)))
        done = inner
    return spans


def side_within(
    budget: MemoryBudget,
    area: int,
    *,
    pixel: float,
    whole: float,
    around: float,
    before: float,
    geometry: Callable[[], TileGeometry],
    advice: str,
) -> int:
    """The side of the largest tiles that fit, for an image of that many pixels which does not fit whole.

    pixel: bytes a pixel of a pass; whole: bytes of the image in one pass; around: bytes beside the passes over its
    tiles; before: bytes before they begin; geometry: called only if needed; advice: for the refusal without a halo
    Errors: OutOfMemory where the smallest tiles do not fit, or the network depends on the whole image.
    """
    if area <= SMALL and SMALL / 2 * pixel + FIXED > budget.free:
        raise budget.too_small(whole, "Give more --memory.")
    cut = geometry()
    if cut.halo is None:
        raise budget.too_small(whole, f"{advice}: {cut.reason}.")
    least = 2 * cut.halo + cut.align
    needed = min(whole, max(before, around + least**2 * pixel))
    if needed > budget.free:
        raise budget.too_small(needed, "Give more --memory.")
    return max(least, math.isqrt(int((budget.free - around) / pixel)) // cut.align * cut.align)
