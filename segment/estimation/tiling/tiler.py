"""Which tiles an image gets within a memory budget, and how much work they are beside a pass over the whole.

Must not know how a tile is estimated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from segment.errors import WrongUse, warn_once
from segment.estimation.memory_budget import FIRST_PASS_BYTES, MemoryBudget, bytes_text
from segment.estimation.tiling.tiles import Cut
from segment.images.prepare import padding
from segment.networks.load import Network
from segment.tracing.receptive_field import STRIPS, TileGeometry, measure_tiling, sides_change_outputs

log = logging.getLogger(__name__)

Tiling = int | Literal["auto", "off"]
TileMode = Literal["exact", "blended"]
TILE_MODES: tuple[TileMode, ...] = ("exact", "blended")

UNTILED_PIXELS = 2 * 64 * 2304
"""Images up to this many pixels are not tiled where half as many do not fit: the halo is measured on that many."""

WARN_ABOVE_WORK = 2.0
"""Times the work of a pass over the whole image, above which a cheaper way is named."""


WARN_ABOVE_SECONDS = 5.0
"""Seconds that are not worth a warning."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """Bytes that an image takes.

    per_pixel: of a pass; untiled: the image in one pass; during_tiles: beside the passes over its tiles;
    before_tiles: before they begin
    """

    per_pixel: float
    untiled: float
    during_tiles: float
    before_tiles: float

    def in_tiles(self, side: int) -> float:
        return min(self.untiled, max(self.before_tiles, self.during_tiles + side**2 * self.per_pixel))


@dataclass(frozen=True, kw_only=True)
class TilingCost:
    """What the tiles of some images take, stated before they are estimated.

    images: how many are tiled; size: H, W of the largest. cut: of that one
    work: pixels of all tiles over those of their images. seconds: about how long their passes take, at most
    enough: bytes of memory with which the largest takes at most `WARN_ABOVE_WORK` times its work; None: none do
    blended: the work of the largest in blended tiles; None where they are blended
    """

    images: int
    size: tuple[int, int]
    cut: Cut
    work: float
    seconds: float
    enough: float | None
    blended: float | None

    @property
    def expensive(self) -> bool:
        """Whether a person wants to know before it starts: not of a few seconds."""
        return self.work > WARN_ABOVE_WORK and self.seconds > WARN_ABOVE_SECONDS

    def sentence(self) -> str:
        """What a person decides by."""
        many = f"{self.images} images go" if self.images > 1 else f"1 image of {self.size[0]} x {self.size[1]} goes"
        kind = "blended tiles" if self.cut.blended else "tiles"
        said = f"{many} through in {kind} of {self.cut.side} pixels: {self.work:.3g} times the work of whole images, "
        said += f"about {duration(self.seconds)}."
        if self.work <= WARN_ABOVE_WORK:
            return said
        ways = [f"--memory {bytes_text(self.enough).replace(' ', '')} takes at most twice"] if self.enough else []
        if self.blended is not None and self.blended < self.work:
            ways.append(f"--tile-mode blended takes {self.blended:.3g} times, and measures how far its maps are off")
        return f"{said} {'; '.join(ways)}." if ways else said

    def record(self) -> dict[str, Any]:
        """`tiling` of run.json."""
        record: dict[str, Any] = {
            "images": self.images,
            "side": self.cut.side,
            "halo": self.cut.halo,
            "blended": self.cut.blended,
        }
        return record | {"work": round(self.work, 3), "seconds_expected": round(self.seconds, 1)}


def duration(seconds: float) -> str:
    """For people, to two digits.

    >>> duration(41.3), duration(754), duration(9000)
    ('41 s', '13 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.2g} min" if seconds < 6000 else f"{seconds / 3600:.2g} h"


class Tiler:
    """How the images of a network are cut."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._warned = False
        self._longest: dict[int, int] = {}

    @cached_property
    def geometry(self) -> TileGeometry:
        """Where the network's images may be cut, and the halo that a tile needs."""
        stride = self.network.card.input.stride
        return measure_tiling(self.network, self.network.module, channels=self.network.channels, card_stride=stride)

    def cut(self, side: int, mode: TileMode) -> Cut:
        """Tiles of that side.

        The measured halo, or a quarter of a tile where none is large enough; blended tiles never overlap by more than
        a quarter, so that they take less than twice the work.
        """
        halo, align = self.geometry.halo, self.geometry.align
        quarter = max(align, side // 4 // align * align)
        if mode == "blended":
            return Cut(side, quarter if halo is None else min(halo, quarter), align, blended=True)
        return Cut(side, quarter if halo is None else halo, align)

    def least(self, mode: TileMode) -> int | None:
        """The side of the smallest tiles that are made unless asked; None: the network depends on the whole image."""
        halo, align = self.geometry.halo, self.geometry.align
        if mode == "blended":
            return 4 * align
        return None if halo is None else 2 * halo + align

    def asked(self, tile: int, mode: TileMode, fixed: Sequence[str] = ()) -> int:
        """The side in pixels of the tiles for `--tile N`, a multiple of what cuts are aligned to.

        fixed: methods that cannot be tiled. Errors: WrongUse where there are such, or the tiles are too small.
        """
        if fixed:
            raise WrongUse(
                f"--tile {tile} would change the maps of {', '.join(fixed)}, whose views or dropout masks are of the "
                f"whole image. Leave --tile out, give more than the sides of the images, or take a method without them."
            )
        geometry, least = self.geometry, self.least(mode)
        side = tile // geometry.align * geometry.align
        if geometry.halo is None or mode == "blended":
            smallest = least or 3 * geometry.align
            if side < smallest:
                raise WrongUse(f"--tile {tile} is too small for this network; take {smallest} or more.")
        elif least is not None and side < least:
            raise WrongUse(
                f"--tile {tile} is too small: a cut changes this network's outputs up to {geometry.halo} pixels away, "
                f"so its tiles need {least} or more."
            )
        if geometry.halo is None:
            log.warning(
                "%s depends on the whole image: cut into tiles of %d, its maps change, most of all along the cuts. %s.",
                self.network.name,
                side,
                geometry.reason.capitalize(),
            )
        return side

    def within(self, budget: MemoryBudget, area: int, needs: MemoryNeeds, mode: TileMode) -> int:
        """The side of the largest tiles that fit, for an image of that many pixels which does not fit whole.

        Errors: OutOfMemory where the smallest tiles do not fit, or the network depends on the whole image.
        """
        if area <= UNTILED_PIXELS and UNTILED_PIXELS / 2 * needs.per_pixel + FIRST_PASS_BYTES > budget.free:
            raise budget.too_small(needs.untiled, "Give more --memory.")
        least = self.least(mode)
        if least is None:
            raise budget.too_small(
                needs.untiled,
                f"Give more --memory, or --tile-mode blended, or --tile N: {self.network.name!r} depends on the whole "
                f"image, so its maps change where it is cut: {self.geometry.reason}.",
            )
        if needs.in_tiles(least) > budget.free:
            smaller = self.least("blended") or least
            way = ", or --tile-mode blended" if mode == "exact" and needs.in_tiles(smaller) <= budget.free else ""
            raise budget.too_small(needs.in_tiles(least), f"Give more --memory{way}.")
        align = self.geometry.align
        return max(least, math.isqrt(int((budget.free - needs.during_tiles) / needs.per_pixel)) // align * align)

    def around(self, cut: Cut, needs: MemoryNeeds | None, free: int) -> int:
        """Pixels around a window in which blended tiles are compared: the halo of exact tiles, or as many as fit."""
        fits = cut.side if needs is None else math.isqrt(max(0, int((free - needs.during_tiles) / needs.per_pixel)))
        fitting = (max(fits, cut.side) - cut.halo) // 2 // cut.align * cut.align
        halo = self.geometry.halo
        return fitting if halo is None else halo if needs is None else min(halo, fitting)

    def enough(self, height: int, width: int, needs: MemoryNeeds, mode: TileMode) -> float:
        """Bytes with which the tiles of an image take at most `WARN_ABOVE_WORK` times its work."""
        side = self.least(mode) or 3 * self.geometry.align
        while side < max(height, width) and self.cut(side, mode).work(height, width) > WARN_ABOVE_WORK:
            side += self.geometry.align
        return needs.in_tiles(side)

    def warn_of_sides(self, height: int, width: int, cut: Cut) -> None:
        """Once, where an image's maps in tiles differ from those of the whole image."""
        self._warn_of_another_way(max(height, width), cut)
        stride = self.geometry.stride
        bottom, right = padding(height, width, self.network.card.input.stride)
        if ((height + bottom) % stride or (width + right) % stride) and not self._warned:
            self._warned = True
            log.warning(
                "%s has a stride of %d pixels, and %d x %d pixels are no multiple of it: maps in tiles differ from "
                "those of the whole image. Say `input: {stride: %d}` in its card.",
                self.network.name,
                stride,
                height,
                width,
                stride,
            )

    def _warn_of_another_way(self, length: int, cut: Cut) -> None:
        """Where it takes one for images of that length; looked at again where a longer one comes."""
        reach = min(length, cut.side * cut.side // STRIPS[0])  # the longest strip of no more pixels than a tile
        if cut.blended or self.geometry.halo is None or reach <= self._longest.get(cut.side, cut.side):
            return
        self._longest[cut.side] = reach
        network = self.network
        if sides_change_outputs(
            network, network.module, channels=network.channels, geometry=self.geometry, side=cut.side, length=length
        ):
            warn_once(
                log,
                "%s computes something else for tiles of %d pixels than for images of %d: it takes another way by the "
                "size. Maps in tiles differ from those of the whole image.",
                network.name,
                cut.side,
                length,
            )


def total_cost(
    tiler: Tiler,
    sides: Sequence[tuple[tuple[int, int], int | None]],
    *,
    mode: TileMode,
    needs: MemoryNeeds | None,
    held: int,
    pixel_seconds: float,
) -> TilingCost | None:
    """What the tiles of these images take; None where none is tiled.

    sides: H, W and the side of the tiles of each. needs: of the largest, where memory decides; held: bytes that the
    process takes besides. pixel_seconds: of all passes over a pixel
    """
    tiled = [(size, side) for size, side in sides if side is not None]
    if not tiled:
        return None
    size, side = max(tiled, key=lambda each: math.prod(each[0]))
    pixels = sum(math.prod(each) for each, _ in tiled)
    done = sum(tiler.cut(side, mode).work(*each) * math.prod(each) for each, side in tiled)
    expensive = done > WARN_ABOVE_WORK * pixels
    return TilingCost(
        images=len(tiled),
        size=size,
        cut=tiler.cut(side, mode),
        work=done / pixels,
        seconds=pixel_seconds * done,
        enough=tiler.enough(*size, needs, mode) + held if expensive and needs is not None else None,
        blended=tiler.cut(side, "blended").work(*size) if mode == "exact" else None,
    )
