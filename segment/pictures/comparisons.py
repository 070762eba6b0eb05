"""Two runs in one picture: how far each number moved with its interval, and the images themselves.

Needs matplotlib, the extra `plots`. Must not know how a number was made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segment.pictures.plots import new_figure, png_of, quiet

SIGNIFICANT, OPEN = "#d1495b", "#7a8794"
FIRST, SECOND = "#1b6ca8", "#d1495b"
LEAST = 0.1
"""How far the axis of changes reaches at least, so that rounding does not fill it."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One number's change: a name, its value with the interval (None where there is none), and the verdict."""

    name: str
    value: float
    low: float | None
    high: float | None
    significant: bool


def comparison_picture(
    moved: Sequence[Moved],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    names: tuple[str, str],
    number: str,
    paired: bool,
    nothing: float,
) -> bytes:
    """A forest of changes, and beside it the images' numbers in both runs, as the bytes of a PNG.

    Args:
        moved: The changes, top to bottom.
        first: One number of every image of A; with `paired`, in the order of `second`.
        second: The same of B.
        names: Of A and B, for the legend.
        number: What the images' number is called.
        paired: Whether images are dots of A against B, or two distributions.
        nothing: Where a change is none: 0 of a difference, .5 of an AUROC.

    Returns:
        The bytes of a PNG.

    Raises:
        MissingExtra: matplotlib is not installed.

    """
    figure = new_figure(11, max(3.2, 0.42 * len(moved) + 1.4), 130)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    for row, change in enumerate(moved):
        colour = SIGNIFICANT if change.significant else OPEN
        if change.low is not None and change.high is not None:
            left.plot([change.low, change.high], [row, row], color=colour, linewidth=2.2, solid_capstyle="round")
        face = colour if change.significant else "white"
        left.plot([change.value], [row], "o", color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.6)
    reached = [end for change in moved for end in (change.value, change.low, change.high) if end is not None]
    if max((abs(end - nothing) for end in reached), default=0.0) < LEAST:
        left.set_xlim(nothing - LEAST, nothing + LEAST)
    left.axvline(nothing, color="#333333", linewidth=0.9)
    left.set_yticks(range(len(moved)), [change.name for change in moved])
    left.invert_yaxis()
    unit = "B - A, in standard deviations of the difference over images" if paired else "AUROC of B's images over A's"
    left.set(title="What moved (95 %)", xlabel=unit)
    left.plot([], [], "o", color=SIGNIFICANT, label="significant after Holm's correction")
    left.plot([], [], "o", color=OPEN, markerfacecolor="white", markeredgewidth=1.6, label="not significant")
    left.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    if paired:
        ends = float(min(first.min(), second.min())), float(max(first.max(), second.max()))
        right.plot(ends, ends, color="#333333", linewidth=0.9)
        right.plot(first, second, "o", color=FIRST, markersize=4, alpha=0.55, markeredgewidth=0)
        right.set(title=f"{number}, a dot an image", xlabel=f"A: {names[0]}", ylabel=f"B: {names[1]}")
    else:
        bins = np.histogram_bin_edges(
            np.concatenate([first, second]), bins=max(8, min(24, 2 * round(min(first.size, second.size) ** 0.5)))
        )
        for values, colour, name in ((first, FIRST, f"A: {names[0]}"), (second, SECOND, f"B: {names[1]}")):
            right.hist(values, bins=bins.tolist(), density=True, color=colour, alpha=0.5, label=name)
        right.set(title=f"{number}, by images", xlabel=number, ylabel="density of images")
        right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        quiet(axes)
    return png_of(figure)
