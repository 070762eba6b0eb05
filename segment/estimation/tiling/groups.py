"""Groups of an image's tiles that are estimated each for itself, in any process and order, and put together.

A group passes the tiles that the whole image has, in their order, so that its maps have the same bits. Of blended tiles
it also passes those above it and to its left, for what they leave in its overlaps; their own maps are dropped.
Must not know a network, nor where the estimates of a group are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic

import torch
from torch import Tensor

from segment.estimation.estimate import A, Estimate
from segment.estimation.tiling.tiles import Cut, Span, Tile
from segment.uncertainty.stopping import StopPlan, error_quantile

GROUPS = 4
"""Groups for each worker, where there are as many tiles, so that none waits long for another at the end."""

MOST_ROWS = 64
"""Groups along the height of an image at most, where that is enough for all workers."""

EXTRA = 0.1
"""Share of rows of blended tiles that may be passed twice for more groups than workers."""


@dataclass(frozen=True)
class TileGroup:
    """Neighbouring tiles of an image. rows: of tiles, the first and the one after the last; columns: of tiles in each.

    >>> cut = Cut(12, 4, 4)
    >>> [number for number, _, _ in TileGroup((0, 1), (1, 3)).tiles(cut, (4, 20))]
    [1, 2]
    >>> TileGroup((0, 1), (1, 3)).window(cut, (4, 20))
    ((0, 4), (8, 20))
    """

    rows: Span
    columns: Span

    @classmethod
    def whole(cls, cut: Cut, size: tuple[int, int]) -> TileGroup:
        """All tiles of an image (H, W)."""
        rows, columns = cut.grid(*size)
        return cls((0, rows), (0, columns))

    def tiles(self, cut: Cut, size: tuple[int, int]) -> Iterator[tuple[int, Tile, bool]]:
        """Tiles to pass, in the order of the whole image (H, W): number in it, tile, and whether it is of the group."""
        tiles, (_, across), before = cut.tiles(*size), cut.grid(*size), int(cut.blended)
        for row in range(max(0, self.rows[0] - before), self.rows[1]):
            for column in range(max(0, self.columns[0] - before), self.columns[1]):
                number = row * across + column
                yield number, tiles[number], row >= self.rows[0] and column >= self.columns[0]

    def window(self, cut: Cut, size: tuple[int, int]) -> tuple[Span, Span]:
        """The rows and columns of the image (H, W) that its tiles estimate."""
        own = [tile for _, tile, of_group in self.tiles(cut, size) if of_group]
        first, last = own[0], own[-1]
        return (first.inner_rows[0], last.inner_rows[1]), (first.inner_columns[0], last.inner_columns[1])


def split(cut: Cut, size: tuple[int, int], workers: int) -> tuple[TileGroup, ...]:
    """Groups that cover an image (H, W): rows of tiles, which are cut where there are too few for the workers.

    Each group of blended tiles but the first passes a row of tiles more, so there are fewer of them.

    >>> len(split(Cut(12, 4, 4), (100, 100), 2)), len(split(Cut(12, 4, 4), (12, 100), 2))
    (23, 8)
    >>> [group.rows for group in split(Cut(12, 4, 4, blended=True), (100, 100), 2)]
    [(0, 6), (6, 12)]
    """
    rows, columns = cut.grid(*size)
    down = min(rows, max(MOST_ROWS, GROUPS * workers))
    if cut.blended:
        down = min(down, workers * max(1, min(GROUPS, (1 + int(EXTRA * rows)) // workers)))  # as many for each
    across = min(columns, -(-(workers if cut.blended else GROUPS * workers) // down))
    return tuple(
        TileGroup(_part(rows, number, down), _part(columns, place, across))
        for number in range(down)
        for place in range(across)
    )


def _part(length: int, number: int, parts: int) -> Span:
    return length * number // parts, length * (number + 1) // parts


@dataclass(frozen=True)
class GroupEstimate(Generic[A]):
    """What the tiles of a group give.

    estimates: of each read-out, over the group's window; they have no class sums
    class_sums: of each read-out, those of each tile by its number; errors: standard errors at the pixels of the
    stopping rule's grid, of each tile, where that rule is used
    """

    estimates: Mapping[str, Estimate[A]]
    class_sums: Mapping[str, Mapping[int, Tensor]]
    errors: Mapping[int, Tensor] = field(default_factory=dict)

    def summed(self) -> dict[str, Estimate[A]]:
        """The estimates with the sums of all tiles, added in the order of the whole image whoever made them."""
        return {
            name: replace(estimate, class_sums=_sum(self.class_sums[name])) for name, estimate in self.estimates.items()
        }


def _sum(parts: Mapping[int, Tensor]) -> Any:
    numbers = sorted(parts)
    if not numbers:
        return None
    total = parts[numbers[0]]
    for number in numbers[1:]:
        total = parts[number] + total
    return total


def reached(errors: Mapping[int, Tensor], stop: StopPlan) -> float:
    """The standard error that decides about a round, from those of all tiles by number."""
    return error_quantile(torch.cat([errors[number] for number in sorted(errors)]), stop.quiet)
