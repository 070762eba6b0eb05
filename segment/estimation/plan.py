"""How images are estimated: whole or in tiles, within which memory, and under how many draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from segment.draws.bank import Bank
from segment.errors import WrongUse
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


Draws = int | Literal["auto"] | None
"""The first N of a bank; "auto": as many as each image needs; None: all."""


def resolve_draws(asked: Draws, bank: Bank, plan: StopPlan) -> tuple[Bank, StopPlan | None]:
    """The draws that may be used, and when an image has enough of them; None: it gets all.

    Errors: WrongUse for more draws than there are, and for "auto" where there is no standard error to stop by.
    """
    if asked != "auto":
        return bank if asked is None else bank.first(asked), None
    if bank.distilled:
        raise WrongUse(
            "--draws auto stops by the Monte Carlo standard error, and a distilled bank has none: its draws are no "
            f"random sample. Its {len(bank)} draws are used whole; leave --draws out."
        )
    if len(bank) < 2:
        raise WrongUse("--draws auto stops by the spread of the draws, and one draw has none: fit a larger bank.")
    return bank, plan
