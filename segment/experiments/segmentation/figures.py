"""The pictures and the score lines of the segmentation experiment.

Must not know how an estimate was made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segment.estimation.estimate import Estimate
from segment.experiments.reporting import COLOURS, INK, MUTED, styled, write_figure
from segment.networks.load import Network
from segment.pictures.heatmaps import scale_of
from segment.pictures.palettes import colour_mask, palette
from segment.pictures.plots import new_figure

THUMB = 240
"""Pixels across a picture in the figure."""
COLUMNS = 6
"""Pictures side by side; more go into two lines."""
SHADES = 1e-3
"""Least variance with a colour of its own, as a share of the scale's end: it spans decades between M = 1 and M = 64."""
PANELS = (
    ("error AUROC", "error_auroc", 1, "higher is better"),
    ("AUSE", "ause", 1, "lower is better"),
    ("PLL, nats a pixel", "nll", -1, "higher is better"),
)
LINES = {"variance": COLOURS["mcbn"], "predictive_entropy": COLOURS["mnf"]}


def draw_pictures(
    out: Path,
    name: str,
    network: Network,
    image: NDArray[Any],
    label: NDArray[np.int64],
    estimates: Mapping[str, Estimate[Tensor]],
) -> None:
    """Image and label first; then each method's mask above its variance, on one logarithmic scale."""
    from matplotlib.colors import LogNorm

    colours = palette(len(network.card.classes), network.card.palette)
    high = scale_of("variance", len(network.card.classes)).high
    shown = {title: made for title, made in estimates.items() if made.draws > 1}
    pairs = {"image": (np.asarray(image), colour_mask(label, colours))}
    for title, estimate in shown.items():
        mask, variance = colour_mask(estimate.prediction.numpy(), colours), estimate.maps["variance"].numpy()
        pairs[title.replace(" inside", "\ninside, M = 8")] = (mask, np.maximum(variance, high * SHADES))
    columns = len(pairs) if len(pairs) <= COLUMNS else math.ceil(len(pairs) / 2)
    lines = math.ceil(len(pairs) / columns)
    step = max(1, round(image.shape[1] / THUMB))
    wide, aspect = 1.7, image.shape[0] / image.shape[1]
    figure = new_figure(wide * columns + 0.7, lines * (2 * wide * aspect + 0.5))
    panels: Any = figure.subplots(2 * lines, columns, squeeze=False)
    for axes in panels.flat:
        axes.set_axis_off()
    scale = LogNorm(high * SHADES, high)
    for place, (title, pair) in enumerate(pairs.items()):
        line, column = divmod(place, columns)
        for axes, picture in zip(panels[2 * line : 2 * line + 2, column], pair, strict=True):
            thumb = picture[::step, ::step]
            if thumb.ndim == 2:
                heat = axes.imshow(thumb, cmap="inferno", norm=scale, interpolation="nearest")
            else:
                axes.imshow(thumb, interpolation="nearest")
        panels[2 * line, column].set_title(title, color=INK, fontsize=8.5)
    panels[1, 0].set_title("label", color=INK, fontsize=8.5)
    bar = figure.colorbar(heat, ax=panels, fraction=0.02, pad=0.01, shrink=0.6, extend="both")
    bar.ax.tick_params(labelsize=7, colors=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)
    bar.set_label("variance", color=INK, fontsize=8)
    write_figure(figure, out, name)


def draw_scores(out: Path, lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Each case a row: how well uncertainty finds errors, and the likelihood, by M; the trained statistics dashed."""
    figure = new_figure(8.6, 0.7 + 2.1 * len(lines))
    panels: Any = figure.subplots(len(lines), len(PANELS), squeeze=False, sharex="row")
    for number, (line, (case, rows)) in enumerate(zip(panels, lines.items(), strict=True)):
        sized = [row for row in rows if str(row["method"]).startswith("M = ")]
        batches = [int(str(row["method"]).removeprefix("M = ")) for row in sized]
        (trained,) = (row for row in rows if row["method"] == "trained statistics")
        for axes, (title, kind, sign, better) in zip(line, PANELS, strict=True):
            styled(axes)
            for measure, colour in {"": COLOURS["mcdo"]}.items() if kind == "nll" else LINES.items():
                score = f"{kind}.{measure}" if measure else kind
                _line(axes, batches, sized, score, sign, colour)
                if trained[score] is not None:
                    axes.axhline(sign * trained[score], color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.set_xscale("log", base=2)
            axes.set_xticks(batches, [str(batch) for batch in batches])
            axes.minorticks_off()
            if number == 0:
                axes.set_title(f"{title} ({better})", loc="left", color=INK, fontsize=9)
            if number == len(lines) - 1:
                axes.set_xlabel("M, images behind a draw")
        line[0].set_ylabel(case.replace(", ", "\n"), color=INK, fontsize=9)
    _legend(figure)
    write_figure(figure, out, "segmentation")


def _line(
    axes: Any, batches: Sequence[int], rows: Sequence[Mapping[str, Any]], score: str, sign: int, colour: str
) -> None:
    at = [(batch, row) for batch, row in zip(batches, rows, strict=True) if row[score] is not None]
    x = [batch for batch, _ in at]
    axes.plot(x, [sign * row[score] for _, row in at], "o-", color=colour, linewidth=1.7, markersize=4)
    if at and all(row[f"{score} low"] is not None for _, row in at):
        low, high = ([sign * row[f"{score} {end}"] for _, row in at] for end in ("low", "high"))
        axes.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Line2D([], [], color=LINES["variance"], marker="o", markersize=4, label="by variance"),
        Line2D([], [], color=LINES["predictive_entropy"], marker="o", markersize=4, label="by predictive entropy"),
        Line2D([], [], color=COLOURS["mcdo"], marker="o", markersize=4, label="log-likelihood"),
        Line2D([], [], color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="trained statistics, one pass"),
        Patch(color=MUTED, alpha=0.25, linewidth=0, label="95 %"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=5, frameon=False, fontsize=8.5, labelcolor=INK)
