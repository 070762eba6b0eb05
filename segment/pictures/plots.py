"""Curves of scores as PNG files: reliability, risk against coverage, sparsification, a score along an axis.

A few curves show their 95 % intervals as bands. Needs matplotlib, the extra `plots`. Must not know how a score is made.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segment.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Mapping[str, Sequence[float | None]]
"""x, y, low, high, as in `scores.json`."""

LINE_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#a35fd0"),
    *("#8c564b", "#a3b51e", "#b5307f", "#1a1a1a"),
)
"""The first eight are those of the HTML report; six of them are for the colour-blind (Okabe and Ito, 2008)."""
BLACK = 11
"""The number of black."""
MARKERS = ("o", "s", "^", "D")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (1, 1.4)), (0, (7, 2, 1.4, 2)))
"""One after the other, so that lines of like colours differ also without colour."""
BANDS = 3
"""Lines with a band in one plot, at most: more bands cover each other."""
LETTERS = 100
"""Letters of a legend that fit beside each other."""
WIDTH, HEIGHT, DPI = 6.4, 4.6, 150


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a plot.

    name: for the legend
    x, y: the points
    low, high: the interval of each y; None where it has none
    dashed: drawn as a reference, thinner and without markers
    colour: its number among the colours and markers; None: the place of the line
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
    ring: tuple[float, float] | None = None,
    note: str = "",
) -> bytes:
    """A plot of the lines, as the bytes of a PNG.

    x, y: labels of the axes
    logarithmic: whether the x axis is, to base 2
    diagonal: whether to draw the ideal line from (0, 0) to (1, 1)
    points: whether to mark the points
    ticks: of the x axis; empty: matplotlib's
    ring: the point that was chosen
    note: a sentence below the plot; what the bands are is said anyway
    Errors: MissingExtra without matplotlib
    """
    with_band = [line for line in lines if _interval(line)]
    banded = len(lines) - sum(line.dashed for line in lines) <= BANDS
    if with_band:
        bands = "Bands: 95 % intervals." if banded else f"95 % intervals are drawn for up to {BANDS} lines."
        note = f"{bands} {note}".strip()
    labels = [line.name for line in lines] + ["ideal"] * diagonal + ["chosen"] * (ring is not None)
    columns = max(1, min(3, LETTERS // (max(map(len, labels), default=0) + 8)))
    notes = textwrap.wrap(note, LETTERS)
    figure = new_figure(WIDTH, HEIGHT + 0.17 * (-(-len(labels) // columns) + len(notes)), DPI)
    axes = quiet(figure.add_subplot())
    if diagonal:
        axes.plot([0, 1], [0, 1], color="#999999", linewidth=1, linestyle=":", label="ideal")
    for place, line in enumerate(lines):
        _draw(axes, line, place if line.colour is None else line.colour, points=points, band=banded)
    if ring is not None:
        ringed = {"markersize": 12, "markerfacecolor": "none", "markeredgecolor": "#1a1a1a", "markeredgewidth": 1.6}
        axes.plot([ring[0]], [ring[1]], "o", label="chosen", **ringed)
    if logarithmic:
        axes.set_xscale("log", base=2)
    if ticks:
        axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set(title=title, xlabel=x, ylabel=y)
    figure.legend(
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
        title="\n".join(notes) or None,
        title_fontsize=8,
        handlelength=3.2,
    )
    return png_of(figure)


def _draw(axes: Any, line: Line, number: int, *, points: bool, band: bool) -> None:
    """A line in the colour of that number; a single point has no line in the legend either."""
    colour = LINE_COLOURS[number % len(LINE_COLOURS)]
    kind = (number + number // len(LINE_COLOURS)) % len(MARKERS)
    style: dict[str, Any] = {"linestyle": "--", "linewidth": 1.2} if line.dashed else {"linewidth": 1.8}
    if not line.dashed:
        style |= {"marker": MARKERS[kind], "markersize": 4.5} if points else {"linestyle": DASHES[kind]}
        style |= {"linestyle": "none"} if points and len(line.x) == 1 else {}
    axes.plot(line.x, line.y, color=colour, label=line.name, **style)
    known = _interval(line)
    if known and band:
        axes.fill_between(*zip(*known, strict=True), color=colour, alpha=0.16, lw=0)


def _interval(line: Line) -> list[tuple[float, float, float]]:
    """For each point with an interval: x and both ends."""
    ends = zip(line.x, line.low, line.high, strict=False)
    return [(at, low, high) for at, low, high in ends if low is not None and high is not None]


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
