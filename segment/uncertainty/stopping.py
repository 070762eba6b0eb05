"""When an image has had draws enough: `--draws auto`.

The Monte Carlo standard error of the mean prediction is watched on a grid of 64 x 64 pixels that depends on the image's
size alone, so neither its tiles nor the images beside it can move the decision. It is taken for the image as a whole,
because a pass computes the whole image: to freeze quiet pixels would save nothing, and would bias them, for a pixel
that looks quiet after few draws is one whose rare large probabilities have not come yet. So a quiet image stops early,
a restless one goes on up to the length of the bank.

The rule looks at few moments only (8, 16, 32, ... draws) and at a spread pooled over thousands of pixels, never at the
mean, so a lucky start seldom ends it and the mean is hardly shifted.

Must not know a network, a bank or a file.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from segment.axes import Head
from segment.errors import WrongUse
from segment.uncertainty.measures import standard_error
from segment.uncertainty.moments import DrawMoments

Stop = Callable[[Tensor, float], bool]
"""Called after each draw with its probabilities (1 K H W) and its weight; whether it was the last."""

CELLS = 64
"""Cells of the grid along each side of an image."""


@dataclass(frozen=True, kw_only=True)
class StopPlan:
    """When the draws of an image are enough.

    tolerance: largest standard error of the predicted class's mean probability, within (0, 1/2]
    quiet: share of the grid's pixels that must be at or below it, within (0, 1]
    first: draws before the first look, a count from 2 up; every look comes at twice the draws of the one before
    """

    tolerance: float = 0.02
    quiet: float = 0.95
    first: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 0.5:
            raise WrongUse(f"tolerance = {self.tolerance}, but a standard error lies within (0, 0.5].")
        if not 0 < self.quiet <= 1:
            raise WrongUse(f"quiet = {self.quiet}, but it is a share of pixels within (0, 1].")
        if self.first < 2:
            raise WrongUse(f"first = {self.first}, but one draw has no spread: look at 2 draws or more.")


def looks(draws: int, first: int = 8) -> tuple[int, ...]:
    """The numbers of draws at which is looked, the last one being all of them.

    >>> looks(50)
    (8, 16, 32, 50)
    """
    found = []
    while first < draws:
        found.append(first)
        first *= 2
    return (*found, draws)


def grid(length: int) -> Tensor:  # -> min(length, 64)
    """The rows (or columns) of the grid: the middle of each of 64 equal cells, or all where there are fewer.

    >>> grid(6).tolist(), grid(128)[:3].tolist()
    ([0, 1, 2, 3, 4, 5], [1, 3, 5])
    """
    cells = min(length, CELLS)
    return (2 * torch.arange(cells) + 1) * length // (2 * cells)


def on_grid(maps: Tensor, corner: tuple[int, int] = (0, 0), whole: tuple[int, int] | None = None) -> Tensor:
    """Maps (... H W) at the pixels of the grid: (... h w); for a tile those that lie in it.

    corner: (row, column) of the tile in its image; whole: (H, W) of that image; None: the maps are the whole image
    """
    rows, columns = (grid(length) for length in (whole or maps.shape[-2:]))
    for_rows, for_columns = (
        points[(points >= start) & (points < start + length)] - start
        for points, start, length in zip((rows, columns), corner, maps.shape[-2:], strict=True)
    )
    return maps.index_select(-2, for_rows.to(maps.device)).index_select(-1, for_columns.to(maps.device))


def reached(errors: Tensor, quiet: float = 0.95) -> float:
    """The smallest of the standard errors (any shape) that the share `quiet` of them stays at or below.

    >>> reached(torch.arange(1.0, 101.0))
    95.0
    """
    errors = errors.flatten().sort().values
    return float(errors[max(math.ceil(quiet * len(errors) - 1e-6), 1) - 1])


def refuse_several(images: int) -> None:
    """Errors: WrongUse for several images, which would stop each other."""
    if images != 1:
        raise WrongUse(f"--draws auto counts the draws of one image at a time, not of {images} together.")


class Watch:
    """Follows one image on its grid, draw by draw, and says when it has had enough.

    draws: how many there are at most (the cap), 2 or more; error: what was reached at the last look
    """

    def __init__(self, head: Head, draws: int, plan: StopPlan | None = None) -> None:
        self.plan = plan or StopPlan()
        self.error = math.inf
        self._looks = frozenset(looks(draws, self.plan.first))
        self._moments = DrawMoments(head, keep=("square",))

    def __call__(self, p: Tensor, weight: float) -> bool:  # 1 K H W
        """Add one draw's probabilities of the whole image; whether the image needs no more.

        Errors: WrongUse for several images, which would stop each other.
        """
        refuse_several(len(p))
        moments = self._moments
        moments.update(on_grid(p), weight)
        if moments.draws not in self._looks:
            return False
        errors = standard_error(moments.variance, moments.mean, moments.effective_draws, moments.head)
        self.error = reached(errors, self.plan.quiet)
        return self.error <= self.plan.tolerance


def after(draws: int) -> Stop:
    """Stop after so many draws."""
    counted = itertools.count(1)
    return lambda p, weight: next(counted) >= draws
