"""A map as colours on a fixed scale, and the legend of the scale.

Must not know the image, nor other images' values: a colour depends on the value alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from segment.axes import Head, Plane, strips
from segment.errors import WrongUse, near
from segment.pictures.lettering import BOLD, INK, rising, shortened, width_of, write
from segment.pictures.palettes import Picture

ABSENT = (128, 128, 128)
"""The colour of NaN; the colour map does not contain it."""

PAPER = (255, 255, 255)

TICKS = 6
"""Steps between the numbers of a legend, at most."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The meaning of a measure's colours, the same for every image of a run.

    title: of the legend, as "predictive entropy"
    unit: as "nats"; empty for a probability
    high: the value of the last colour; larger values have the same colour
    bound: the largest possible value of the measure; legends write the top number as "≥" where it is above `high`
    """

    title: str
    unit: str
    high: float
    bound: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.high) and self.high > 0):
            raise WrongUse(f"A heat map's maximum is a number above 0, not {self.high}.")


def _max_entropy(classes: int) -> float:
    return math.log(classes)


def _max_one_minus_max(classes: int) -> float:
    return 1 - 1 / classes


def _max_variance(classes: int) -> float:
    return (1 - 1 / classes) / classes


# title, unit, K -> largest value, default maximum of the scale (None: the largest value)
SCALES: dict[str, tuple[str, str, Callable[[int], float], float | None]] = {
    "predictive_entropy": ("predictive entropy", "nats", _max_entropy, None),
    "expected_entropy": ("expected entropy", "nats", _max_entropy, None),
    "mutual_information": ("mutual information", "nats", _max_entropy, 0.3),  # up to its bound, maps would be black
    "variance": ("variance", "", _max_variance, 0.02),
    "predicted_std": ("std of the predicted class", "", lambda _: 0.5, 0.25),
    "one_minus_max": ("1 − largest probability", "", _max_one_minus_max, None),
    "margin": ("1 − margin", "", lambda _: 1.0, None),
    "variation_ratio": ("variation ratio", "", _max_one_minus_max, None),
    "standard_error": ("Monte Carlo standard error", "", lambda _: math.sqrt(0.5), 0.1),
}


def scale_of(measure: str, classes: int, head: Head = "softmax", high: float | None = None) -> Scale:
    """The run-wide scale of a measure for K classes; `high` replaces the default maximum.

    The spread measures' defaults are for banks that keep no scale of their own (`segment.estimation.colour_scales`).
    A sigmoid head has two classes; a multi-label head's measures are means over two-class tasks.
    Bounds: ln K for entropies, (1 - 1/K)/K for the variance; the standard error's sqrt(1/2) holds for any weights.

    >>> round(scale_of("predictive_entropy", 11).high, 3), scale_of("variance", 11).high
    (2.398, 0.02)
    """
    if measure not in SCALES:
        raise WrongUse(f"No measure is called {measure!r}.{near(measure, SCALES)} Known: {', '.join(SCALES)}.")
    title, unit, bound_of, shown = SCALES[measure]
    bound = bound_of(classes if head == "softmax" else 2)
    default = bound if shown is None else min(shown, bound)
    return Scale(title=title, unit=unit, high=default if high is None else high, bound=bound)


def heatmap(values: NDArray[np.floating], *, high: float) -> Picture:  # H W -> H W 3
    """Each value's colour on the scale 0..high; beyond it the end colours, ABSENT where the value is NaN.

    Error: half of one of 256 steps, high / 510.

    >>> heatmap(np.array([[0.0, 9.0, np.nan]]), high=1.0).tolist()
    [[[0, 0, 4], [252, 255, 164], [128, 128, 128]]]
    """
    if not (math.isfinite(high) and high > 0):
        raise WrongUse(f"A heat map's scale must rise: its ends are 0 and {high}.")
    table = ramp()
    picture = np.empty((*values.shape, 3), np.uint8)
    for rows in strips(values.shape):
        block = values[rows]
        absent = np.isnan(block)
        steps = np.rint(np.where(absent, 0.0, block) * (255 / high))
        painted = table[np.clip(steps, 0, 255).astype(np.uint8)]
        painted[absent] = ABSENT
        picture[rows] = painted
    return picture


def ramp() -> Picture:  # -> 256 3
    """The 256 colours of a heat map, lowest value first.

    Inferno: its lightness rises, nearly evenly, so that it is readable in grey and with colour blindness.
    """
    grey = np.arange(256, dtype=np.uint8)[None]
    return np.ascontiguousarray(cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[0, :, ::-1])


def ticks(high: float) -> list[tuple[float, str]]:
    """Round numbers from 0 up to, but not too near, high; high itself is written at the end of the bar.

    >>> [text for _, text in ticks(2.398)], [text for _, text in ticks(0.02)]
    (['0', '0.5', '1.0', '1.5', '2.0'], ['0', '0.005', '0.010', '0.015'])
    """
    power = 10.0 ** math.floor(math.log10(high / TICKS))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if high / (power * factor) <= TICKS)
    marks = [index * step for index in range(TICKS + 2)]
    marks = [mark for mark in marks if mark < high - 0.6 * step]
    kind = "f" if step >= 1e-4 else "e"
    decimals = next(  # the fewest that distinguish every mark from its neighbours
        places
        for places in range(99)
        if all(abs(float(f"{mark:.{places}{kind}}") - mark) < 0.01 * step for mark in marks)
    )
    return [(mark, f"{mark:.{decimals}{kind}}" if mark else "0") for mark in marks]


def legend(length: int, scale: Scale, *, size: int = 13) -> Picture:  # -> length x about 6 * size, 3
    """A vertical bar, lowest value at the bottom, with numbers and the measure's name, as a strip `length` pixels high.

    length: raised to 10 * size, or to the length of the name, where it is less
    size: of the letters, pixels
    """
    turned = rising(_title(scale), size, BOLD)
    length = max(length, 10 * size, turned.shape[0] + size)
    bar, gap = size, size // 2
    top, foot = size, length - size
    marks = [*ticks(scale.high), (scale.high, _top(scale))]
    wide = max(width_of(text, size) for _, text in marks)
    left = gap + bar + size  # where the numbers begin
    strip = np.full((length, left + wide + gap + turned.shape[1] + gap, 3), PAPER, np.uint8)
    rows = np.linspace(255, 0, foot - top).round().astype(np.uint8)
    strip[top:foot, gap : gap + bar] = ramp()[rows][:, None]
    cv2.rectangle(strip, (gap, top), (gap + bar - 1, foot - 1), INK, 1)
    for mark, text in marks:
        row = round(foot - 1 - (foot - 1 - top) * mark / scale.high)
        strip[row, gap + bar : gap + bar + size // 3] = INK
        write(strip, text, left, row + round(size * 0.36), size=size)
    x, y = left + wide + gap, (length - turned.shape[0]) // 2
    strip[y : y + turned.shape[0], x : x + turned.shape[1]] = turned
    return strip


def level_legend(width: int, scale: Scale, *, size: int = 13) -> Picture:  # -> about 4 * size, width, 3
    """The legend as a horizontal bar, title above, lowest value at the left."""
    strip = np.full((4 * size, width, 3), PAPER, np.uint8)
    write(strip, shortened(_title(scale), size, width, BOLD), 0, size, size=size, weight=BOLD)
    top, foot, end = round(1.5 * size), round(2.4 * size), width - 1
    columns = np.linspace(0, 255, width).round().astype(np.uint8)
    strip[top:foot] = ramp()[columns][None]
    cv2.rectangle(strip, (0, top), (end, foot - 1), INK, 1)
    last = _top(scale)
    free = width - width_of(last, size) - size // 2  # where the top number begins
    places = []
    for mark, text in ticks(scale.high):
        column, wide = round(end * mark / scale.high), width_of(text, size)
        left = max(0, column - wide // 2)
        if left + wide < free:
            places.append((column, left, wide, text))
    step = 1
    while any(left + wide + size // 2 > after for (_, left, wide, _), (_, after, *_) in pairwise(places[::step])):
        step += 1
    for column, left, _, text in places[::step]:
        strip[foot : foot + size // 4, column] = INK
        write(strip, text, left, foot + round(1.25 * size), size=size)
    write(strip, last, width - width_of(last, size), foot + round(1.25 * size), size=size)
    return strip


def _top(scale: Scale) -> str:
    return ("≥ " if scale.bound > scale.high * (1 + 1e-6) else "") + f"{scale.high:.3g}"


def _title(scale: Scale) -> str:
    return scale.title + (f", {scale.unit}" if scale.unit else "")


def legend_beside(rows: int, columns: int, scale: Scale) -> Picture:  # -> h w 3
    """The legend beside a heat map of that size, on white.

    Letters grow with the picture (13 to 52 pixels). A legend taller than the picture extends below it; in a very tall
    picture the legend is 40 lines of its letters high.
    """
    size = round(min(max(13.0, 13 * math.sqrt(rows * columns) / 600), 52.0))
    return legend(min(rows, 40 * size), scale, size=size)


def beside(heat: Plane, strip: Picture, rows: slice) -> Picture:
    """Some rows of a heat map (H W 3) with its legend."""
    columns = heat.shape[1]
    canvas = np.full((rows.stop - rows.start, columns + strip.shape[1], 3), PAPER, np.uint8)
    for left, part in ((0, heat), (columns, strip)):
        stop = min(rows.stop, part.shape[0])
        if rows.start < stop:
            canvas[: stop - rows.start, left : left + part.shape[1]] = part[rows.start : stop]
    return canvas
