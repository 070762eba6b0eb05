"""When to stop drawing for an image: `--draws auto`.

The rule computes the Monte Carlo standard error of the mean prediction on a grid of 64 x 64 pixels, which depends on
the image's size alone, so that neither its tiles nor other images change the decision. It decides for the image as a
whole, because a pass computes the whole image. Stopping single pixels would save nothing and would bias them: a pixel
of low variance after few draws may be one whose rare large probabilities are still to come. So an image of low
variance stops early, and another uses up to all draws of the bank.

The rule is checked at few numbers of draws only (8, 16, 32, ...) and depends on a variance pooled over thousands of
pixels, never on the mean, so that it seldom stops by chance and hardly biases the mean.

Must not know a network, a bank or a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from segment.axes import Head
from segment.errors import WrongUse
from segment.uncertainty.measures import standard_error
from segment.uncertainty.moments import DrawMoments

CELLS = 64
"""Cells of the grid along each side of an image."""


@dataclass(frozen=True, kw_only=True)
class StopPlan:
    """The precision at which an image has enough draws.

    tolerance: largest standard error of the predicted class's mean probability, within (0, 1/2]
    quiet: share of the grid's pixels that must be at or below the tolerance, within (0, 1]
    first: draws before the first check, a count from 2 up; each further check is at twice as many draws
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
            raise WrongUse(f"first = {self.first}, but one draw has no variance: check at 2 draws or more.")


def check_counts(draws: int, first: int = 8) -> tuple[int, ...]:
    """The numbers of draws at which the standard error is checked; the last is all of them.

    >>> check_counts(50)
    (8, 16, 32, 50)
    """
    counts = []
    while first < draws:
        counts.append(first)
        first *= 2
    return (*counts, draws)


def grid(length: int) -> Tensor:  # -> min(length, 64)
    """The rows (or columns) of the grid: the middle of each of 64 equal cells, or all where there are fewer.

    >>> grid(6).tolist(), grid(128)[:3].tolist()
    ([0, 1, 2, 3, 4, 5], [1, 3, 5])
    """
    cells = min(length, CELLS)
    return (2 * torch.arange(cells, device="cpu") + 1) * length // (2 * cells)


def on_grid(maps: Tensor, corner: tuple[int, int] = (0, 0), whole: tuple[int, int] | None = None) -> Tensor:
    """Maps (... H W) at the pixels of the grid: (... h w); for a tile, at those within it.

    corner: (row, column) of the tile in its image; whole: (H, W) of that image; None: the maps are the whole image
    """
    rows, columns = (grid(length) for length in (whole or maps.shape[-2:]))
    for_rows, for_columns = (
        points[(points >= start) & (points < start + length)] - start
        for points, start, length in zip((rows, columns), corner, maps.shape[-2:], strict=True)
    )
    return maps.index_select(-2, for_rows.to(maps.device)).index_select(-1, for_columns.to(maps.device))


def error_quantile(errors: Tensor, quiet: float = 0.95) -> float:
    """The quantile `quiet` of the standard errors (any shape): the smallest that so large a share is at or below.

    >>> error_quantile(torch.arange(1.0, 101.0))
    95.0
    """
    errors = errors.flatten().sort().values
    return float(errors[max(math.ceil(quiet * len(errors) - 1e-6), 1) - 1])


def check_single_image(images: int) -> None:
    """Errors: WrongUse for several images, which would stop together."""
    if images != 1:
        raise WrongUse(f"--draws auto counts the draws of one image at a time, not of {images} together.")


class StoppingRule:
    """The stopping rule for one image, updated draw by draw on the grid.

    head: what the probabilities mean
    draws: the largest number of draws, 2 or more
    plan: the precision; None: its defaults
    error: the quantile of the standard error at the last check; infinite before the first
    """

    def __init__(self, head: Head, draws: int, plan: StopPlan | None = None) -> None:
        self.plan = plan or StopPlan()
        self.error = math.inf
        self._check_counts = frozenset(check_counts(draws, self.plan.first))
        self._moments = DrawMoments(head, keep=("square",))

    def __call__(self, p: Tensor, weight: float) -> bool:  # 1 K H W
        """Add one draw's probabilities of the whole image; returns whether to stop.

        Errors: WrongUse for several images, which would stop together.
        """
        check_single_image(len(p))
        moments = self._moments
        moments.update(on_grid(p), weight)
        if moments.draws not in self._check_counts:
            return False
        errors = standard_error(moments.variance, moments.mean, moments.effective_draws, moments.head)
        self.error = error_quantile(errors, self.plan.quiet)
        return self.error <= self.plan.tolerance
