"""Blended tiles: each draw's probabilities are mixed where tiles overlap, before anything is summed over draws.

The blended draw is one field over the whole image, a convex mixture of two to four tiles' probabilities in each
overlap. Its moments are therefore those of T fields of probabilities: laws between measures hold as for exact tiles.
Only the overlaps of all draws are kept until the next tile, and the next row of tiles, is there.
Must not know a network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segment.axes import Plane, WritablePlane
from segment.errors import count_of
from segment.estimation.tiling.tiles import Span, Tile


def ramp(overlap: int) -> Tensor:
    """Weights of the later tile over an overlap, from 0 to 1, with no step and no edge at either end.

    Those of a pixel and of its mirror image add up to 1. The outer eighth at each end is 0 and 1: there the nearer cut
    changes most.

    >>> [round(weight, 3) for weight in ramp(4).tolist()]
    [0.0, 0.259, 0.741, 1.0]
    """
    place = (torch.arange(overlap, dtype=torch.float32) + 0.5) / overlap
    inner = ((place - 0.125) / 0.75).clamp(0, 1)
    return inner * inner * (3 - 2 * inner)


class Overlaps:
    """The overlaps of one image's tiles, of all draws of one read-out: called tile by tile, and for each draw in turn.

    blank: makes the arrays that the overlaps are kept in; draws: at most so many
    """

    def __init__(self, tiles: tuple[Tile, ...], overlap: int, draws: int, blank: Callable[..., WritablePlane]) -> None:
        self._height = max(tile.rows[1] for tile in tiles)
        self._width = max(tile.columns[1] for tile in tiles)
        self._side = max(tile.rows[1] - tile.rows[0] for tile in tiles)
        self._overlap, self._draws, self._blank = overlap, draws, blank
        self._ramp = ramp(overlap)
        self._below: WritablePlane | None = None
        self._right: WritablePlane | None = None
        self.tile = tiles[0]

    def finished(self, p: Tensor, draw: int) -> Tensor:  # 1 K h w -> 1 K h' w'
        """The blended probabilities of a draw where no later tile overlaps this one; the rest is kept."""
        tile, classes = self.tile, p.shape[1]
        if self._below is None or self._right is None:
            self._below = self._blank((self._draws * classes, self._overlap, self._width), np.float32)
            self._right = self._blank((self._draws * classes, self._side, self._overlap), np.float32)
        mixed = p[0].float() * self._weights(tile.rows, tile.inner_rows, self._height)[:, None].to(p.device)
        mixed *= self._weights(tile.columns, tile.inner_columns, self._width).to(p.device)
        planes = slice(draw * classes, (draw + 1) * classes)
        rows, columns = slice(0, mixed.shape[1]), slice(0, self._overlap)
        done_rows, done_columns = (stop - start for start, stop in (tile.inner_rows, tile.inner_columns))
        left = self._overlap if tile.columns[0] else 0
        if left:
            mixed[..., :left] += _tensor(self._right[planes, rows, columns], mixed)
        if tile.rows[0]:
            above = self._below[planes, slice(0, self._overlap), slice(tile.columns[0] + left, tile.columns[1])]
            mixed[:, : self._overlap, left:] += _tensor(above, mixed)
        if tile.inner_columns[1] < self._width:
            self._right[planes, rows, columns] = _stored(mixed[..., done_columns:], self._right)
        if tile.inner_rows[1] < self._height:
            written = slice(*tile.inner_columns)
            self._below[planes, slice(0, self._overlap), written] = _stored(
                mixed[:, done_rows:, :done_columns], self._below
            )
        return mixed[None, :, :done_rows, :done_columns]

    def _weights(self, seen: Span, inner: Span, length: int) -> Tensor:
        """Weights along a tile's rows or columns: rising where an earlier tile overlaps, falling where a later does."""
        weights = torch.ones(seen[1] - seen[0])
        if seen[0]:
            weights[: self._overlap] = self._ramp
        if inner[1] < length:
            weights[-self._overlap :] = 1 - self._ramp
        return weights


def _tensor(values: Any, like: Tensor) -> Tensor:
    return (values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))).to(like.device)


def _stored(values: Tensor, store: Any) -> Any:
    return values.to(store.device) if isinstance(store, Tensor) else values.cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class BlendingError:
    """How far blended maps are from exact ones in windows of an image, where its tiles meet.

    windows, pixels: how many. exact: whether the windows' own tiles reach as far as the network does, so that they have
    the maps of the whole image; else they only lie in the middle of a tile
    largest, mean: of the absolute differences, by measure. other_class: share of the pixels with another class
    """

    windows: int
    pixels: int
    exact: bool
    largest: Mapping[str, float]
    mean: Mapping[str, float]
    other_class: float

    def record(self) -> dict[str, Any]:
        differences = {
            name: {"largest": float(f"{self.largest[name]:.3g}"), "mean": float(f"{self.mean[name]:.3g}")}
            for name in self.largest
        }
        counts = {"windows": self.windows, "pixels": self.pixels, "exact": self.exact}
        return counts | {"other_class": round(self.other_class, 6), "differences": differences}


def worst_of(records: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """One record for several images: the largest differences and the largest means; None without any."""
    if not records:
        return None
    names = dict.fromkeys(name for record in records for name in record["differences"])
    differences = {
        name: {
            key: max(record["differences"][name][key] for record in records if name in record["differences"])
            for key in ("largest", "mean")
        }
        for name in names
    }
    return {
        "images": len(records),
        "windows": sum(record["windows"] for record in records),
        "pixels": sum(record["pixels"] for record in records),
        "exact": all(record["exact"] for record in records),
        "other_class": max(record["other_class"] for record in records),
        "differences": differences,
    }


def blending_sentence(worst: Mapping[str, Any]) -> str:
    """What `worst_of` found, for people."""
    count = worst["windows"]
    where = f"in {count_of(count, 'window')} where tiles meet"
    against = "exact ones" if worst["exact"] else "larger ones, which are not exact either: the network sees further"
    parts = [
        f"{name} by {each['largest']:.2g} at most, {each['mean']:.2g} on average"
        for name, each in worst["differences"].items()
    ]
    other = f"{worst['other_class']:.2%} of the pixels have another class"
    return f"Blended tiles beside {against}, {where}: {'; '.join([*parts, other])}."


def windows(tiles: tuple[Tile, ...], side: int, size: tuple[int, int], most: int) -> list[tuple[slice, slice]]:
    """Up to `most` windows (rows, columns) of side x side pixels, spread evenly over the places where tiles meet.

    >>> from segment.estimation.tiling.tiles import Cut
    >>> windows(Cut(12, 4, 4, blended=True).tiles(4, 20), 4, (4, 20), 3)
    [(slice(0, 4, None), slice(8, 12, None))]
    """
    meeting = [tile for tile in tiles if tile.rows[0] or tile.columns[0]]
    places = [tile for tile in meeting if tile.rows[0] and tile.columns[0]] or meeting
    chosen = [places[index] for index in sorted(set(np.linspace(0, len(places) - 1, most).astype(int).tolist()))]
    return [(_span(tile.rows[0], side, size[0]), _span(tile.columns[0], side, size[1])) for tile in chosen]


def _span(start: int, side: int, length: int) -> slice:
    """Along one side: an overlap, or the middle where tiles do not meet."""
    first = start or max(0, (length - side) // 2)
    return slice(first, min(length, first + side))


def error_of(
    pairs: list[tuple[Mapping[str, Plane], Mapping[str, Plane]]], *, exact: bool
) -> BlendingError:  # pairs of maps h w, "prediction" among them
    """Blended and exact maps of some windows, compared."""
    names = [name for name in pairs[0][1] if name != "prediction"]
    apart = {
        name: np.concatenate([np.abs(np.asarray(b[name]) - np.asarray(e[name])).ravel() for b, e in pairs])
        for name in names
    }
    other = np.concatenate([(np.asarray(b["prediction"]) != np.asarray(e["prediction"])).ravel() for b, e in pairs])
    return BlendingError(
        windows=len(pairs),
        pixels=len(next(iter(apart.values()), other)),
        exact=exact,
        largest={name: float(values.max()) for name, values in apart.items()},
        mean={name: float(values.mean()) for name, values in apart.items()},
        other_class=float(other.mean()),
    )
