"""A large image to overlapping tiles and back, as large as a memory budget lets them be.

What a tile is asked for lies a halo away from every cut. No blending: where the halo covers what a pixel's output
depends on, neighbouring tiles agree.
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
"""Images of at most so many pixels are not tiled where half of them do not fit: measuring the halo passes so many."""

Span = tuple[int, int]
"""First, and one past the last."""


@dataclass(frozen=True)
class Tile:
    """rows, columns: what is looked at; inner_rows, inner_columns: what is kept of it. All in pixels of the image."""

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
    so that what a network halves meets the same pixels as in the whole image.
    Errors: WrongUse where a tile would keep nothing, or side or halo is no multiple of `align`.

    >>> [(tile.columns, tile.inner_columns) for tile in tiles(4, 20, side=12, halo=4, align=4)]
    [((0, 12), (0, 8)), ((4, 16), (8, 12)), ((8, 20), (12, 20))]
    """
    if side % align or halo % align or side < 2 * halo + align:
        raise WrongUse(
            f"Tiles of {side} pixels with a halo of {halo} cannot be laid: take a multiple of {align}, "
            f"at least {2 * halo + align}."
        )
    return tuple(
        Tile(rows, columns, inner_rows, inner_columns)
        for rows, inner_rows in _spans(height, side, halo)
        for columns, inner_columns in _spans(width, side, halo)
    )


def _spans(length: int, side: int, halo: int) -> list[tuple[Span, Span]]:
    found = []
    done = 0
    while done < length:
        start = max(0, done - halo)
        stop = min(length, start + side)
        inner = length if stop == length else stop - halo
        found.append(((start, stop), (done, inner)))
        done = inner
    return found


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
    """The largest tiles that an image of so many pixels, which does not fit whole, may have.

    pixel, whole: bytes of a pass a pixel, and of the image in one piece; around, before: bytes beside the passes over
    its tiles, and before they begin; geometry: measured when it is asked for; advice: where there is no halo
    Errors: OutOfMemory where the smallest tiles do not fit, or the network looks at the whole image.
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
