"""A large image to overlapping tiles and back.

Exact tiles: the kept part of a tile lies a halo away from every cut, and where the halo covers the receptive field,
neighbouring tiles agree. Blended tiles overlap by one halo, not two, and `blending.py` mixes them there.
Must not know a network, nor how much memory there is.
"""

from __future__ import annotations

from dataclasses import dataclass

from segment.errors import WrongUse

Span = tuple[int, int]
"""The first pixel, and the one after the last."""


@dataclass(frozen=True)
class Tile:
    """rows, columns: its pixels in the image; inner_rows, inner_columns: those that are written once it is estimated.

    Of an exact tile they are those that are kept; of a blended one, those that no later tile overlaps.
    """

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


@dataclass(frozen=True)
class Cut:
    """How images are cut: tiles of at most side x side pixels that start at multiples of `align`.

    halo: pixels from a cut to what is kept; of blended tiles: by which neighbours overlap
    Errors: WrongUse where a tile would keep nothing, or side or halo is no multiple of `align`.
    """

    side: int
    halo: int
    align: int
    blended: bool = False

    def __post_init__(self) -> None:
        if self.side % self.align or self.halo % self.align or self.side < 2 * self.halo + self.align:
            raise WrongUse(
                f"Tiles of {self.side} pixels with a halo of {self.halo} are not possible: take a multiple of "
                f"{self.align}, at least {2 * self.halo + self.align}."
            )

    def tiles(self, height: int, width: int) -> tuple[Tile, ...]:
        """Tiles whose inner parts cover the image once, row by row.

        Every pixel of an exact tile's inner part is `halo` pixels from a cut, or beyond where the image ends.
        Starts are aligned so that a network's strides fall on the same pixels as in the whole image.

        >>> [(tile.columns, tile.inner_columns) for tile in Cut(12, 4, 4).tiles(4, 20)]
        [((0, 12), (0, 8)), ((4, 16), (8, 12)), ((8, 20), (12, 20))]
        >>> [(tile.columns, tile.inner_columns) for tile in Cut(12, 4, 4, blended=True).tiles(4, 20)]
        [((0, 12), (0, 8)), ((8, 20), (8, 20))]
        """
        return tuple(
            Tile(rows, columns, inner_rows, inner_columns)
            for rows, inner_rows in self._spans(height)
            for columns, inner_columns in self._spans(width)
        )

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows of tiles, and tiles in each.

        >>> Cut(12, 4, 4).grid(4, 20)
        (1, 3)
        """
        return len(self._spans(height)), len(self._spans(width))

    def work(self, height: int, width: int) -> float:
        """Pixels of all tiles over those of the image.

        >>> Cut(12, 4, 4).work(4, 20), Cut(12, 4, 4, blended=True).work(4, 20)
        (1.8, 1.2)
        """
        rows, columns = (sum(stop - start for (start, stop), _ in self._spans(length)) for length in (height, width))
        return rows * columns / (height * width)

    def _spans(self, length: int) -> list[tuple[Span, Span]]:
        spans = []
        done = 0
        while done < length:
            start = done if self.blended else max(0, done - self.halo)
            stop = min(length, start + self.side)
            inner = length if stop == length else stop - self.halo
            spans.append(((start, stop), (done, inner)))
            done = inner
        return spans
