"""How images are estimated: whole or in tiles, within which memory, and under how many draws."""

from __future__ import annotations

from dataclasses import dataclass

from segment.estimation.memory_budget import MemoryBudget
from segment.estimation.tiling.assembly import Blank
from segment.estimation.tiling.tiler import TileMode, Tiling
from segment.uncertainty.stopping import StopPlan


@dataclass(frozen=True, kw_only=True)
class EstimatePlan:
    """How images are estimated.

    tile: "auto": tiles where an image does not fit whole; "off": never; N: tiles of N x N wherever an image is larger
    mode: "exact": tiles have the maps of the whole image; "blended": they overlap less, and are mixed there
    budget: memory that may be taken; None: tiles are used only after a device has run out of memory
    beside: bytes a pixel that the caller takes for an estimate during the next image's passes
    blank: makes the arrays that the tiles of an image are written into; None: in memory, as are the overlaps of
    blended tiles then, which the budget does not count
    held_passes: how many passes' tensors the engine holds at once
    stop: when an image has enough draws; None: it gets all. In tiles the whole image is passed under 8, 16, 32, ...
    draws until it has enough, which takes up to twice the passes
    """

    tile: Tiling = "auto"
    mode: TileMode = "exact"
    budget: MemoryBudget | None = None
    beside: int = 0
    blank: Blank | None = None
    held_passes: int = 1
    stop: StopPlan | None = None
