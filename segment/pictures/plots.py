"""Curves of scores as PNG files: reliability, risk against coverage, sparsification, a score along an axis.

Every curve shows its 95 % interval as a band. Needs matplotlib, the extra `plots`. Must not know how a score was made.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segment.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[str, Sequence[float | None]]
"""x, y, low, high, as in `scores.json`."""

LINE_COLOURS = (
    *("#1b6ca8", "#d1495b", "#3c8d53", "#e0982f", "#7b5ea7", "#4fb0ae"),
    *("#8c564b", "#777777", "#b5307f", "#1a1a1a", "#a3b51e", "#8fb8e8"),
)
INSIDE = 8
"""Lines whose legend fits into a plot; that of more stands beside it."""
WIDTH, HEIGHT, DPI = 6.4, 4.6, 150


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a plot.

    name: for the legend
    x, y: the points
    low, high: the interval of each y; None where it has none
    dashed: drawn as a reference, thinner and without markers
    colour: its number among the colours; None: the place of the line
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dashed: bool = False
    colour: int | None = None


def line_of(name: str, curve: Curve, *, dashed: bool = False) -> Line:
    """A curve of `scores.json` as a line; where some points have an interval, those without one are left out."""
    low, high = curve.get("low", ()), curve.get("high", ())
    with_interval = [at for at, end in enumerate(low) if end is not None]
    kept = with_interval or range(len(curve["x"]))
    x, y = ([float(curve[axis][at] or 0.0) for at in kept] for axis in ("x", "y"))
    ends = ([values[at] for at in with_interval] for values in (low, high))
    return Line(name=name, x=x, y=y, low=next(ends), high=next(ends), dashed=dashed)


def plot(
    lines: Sequence[Line],
    *,
    title: str,
    x: str,
    y: str,
    logarithmic: bool = False,
    diagonal: bool = False,
    points: bool = True,
    ticks: Sequence[float] = (),
) -> bytes:
    """A plot of the lines, as the bytes of a PNG.

    x, y: labels of the axes
    logarithmic: whether the x axis is, to base 2
    diagonal: whether to draw the ideal line from (0, 0) to (1, 1)
    points: whether to mark the points
    ticks: of the x axis; empty: matplotlib's
    Errors: MissingExtra without matplotlib
    """
    figure = new_figure(WIDTH, HEIGHT, DPI)
    axes = quiet(figure.add_subplot())
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":", label="ideal")
    for number, line in enumerate(lines):
        colour = LINE_COLOURS[(number if line.colour is None else line.colour) % len(LINE_COLOURS)]
        style: dict[str, Any] = {"linestyle": "--", "linewidth": 1.2} if line.dashed else {"linewidth": 1.8}
        if points and not line.dashed:
            style |= {"marker": "o", "markersize": 4}
        axes.plot(line.x, line.y, color=colour, label=line.name, **style)
        known = [
            (at, low, high)
            for at, low, high in zip(line.x, line.low, line.high, strict=False)
            if low is not None and high is not None
        ]
        if known:
            axes.fill_between(*zip(*known, strict=True), color=colour, alpha=0.06 if len(lines) > 3 else 0.16, lw=0)
    if logarithmic:
        axes.set_xscale("log", base=2)
    if ticks:
        axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set(title=title, xlabel=x, ylabel=y)
    if len(lines) > INSIDE:
        figure.legend(loc="outside right center", frameon=False, fontsize=8)
    else:
        axes.legend(frameon=False, fontsize=8)
    return png_of(figure)


def new_figure(width: float, height: float, dpi: float | None = None) -> Figure:
    """An empty figure of that many inches. Errors: MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtra("Figures need matplotlib: pip install 'mcbn-segment[plots]'.") from None
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)  # no window and no global state, so that several threads can draw
    return figure


def quiet(axes: Any) -> Any:
    """The same matplotlib axes with a pale grid behind what is drawn, and no lines at the top and right."""
    axes.grid(visible=True, which="major", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


def png_of(figure: Figure) -> bytes:
    """The bytes of a PNG, which are the same for the same figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def needs_matplotlib() -> None:
    """Check for matplotlib before a long computation. Errors: MissingExtra."""
    new_figure(WIDTH, HEIGHT)
