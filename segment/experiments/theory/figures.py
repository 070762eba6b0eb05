"""Quantile plots, distances by M, and the gradients of weight decay and of the closest prior.

Must not know how a statistic was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri

from segment.experiments.regression.predictive import Array
from segment.experiments.reporting import COLOURS, INK, MUTED, styled, write_figure
from segment.experiments.theory.statistics import BatchStatistics, Prior, distance
from segment.pictures.plots import new_figure

QUANTILES = np.linspace(0.005, 0.995, 199)
PARTS = {"mean": "mean", "sd": "standard deviation"}
SHADES = ("#9ecae1", "#6baed6", "#4292c6", "#2a7ab9", "#1461a8", "#08478a", "#08306b")
"""Light to dark as M grows."""
LAYERS = (COLOURS["mcbn"], COLOURS["mcdo"], COLOURS["mnf"])


def draw_quantiles(out: Path, layers: Mapping[str, Mapping[int, BatchStatistics]]) -> None:
    """Quantiles of the standardised statistics against the Gaussian's, median over channels, one line an M."""
    figure = new_figure(2.8 * len(layers) + 0.4, 5.6)
    panels: Any = figure.subplots(len(PARTS), len(layers), squeeze=False, sharex=True, sharey=True)
    expected = ndtri(QUANTILES)
    for line, (part, words) in zip(panels, PARTS.items(), strict=True):
        first = part == next(iter(PARTS))
        for axes, (name, batches) in zip(line, layers.items(), strict=True):
            styled(axes)
            axes.plot(expected, expected, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            shades = [SHADES[place] for place in np.linspace(0, len(SHADES) - 1, len(batches)).round().astype(int)]
            for (batch, statistics), shade in zip(batches.items(), shades, strict=True):
                quantiles = np.median(np.quantile(getattr(statistics, part), QUANTILES, axis=0), axis=1)
                axes.plot(expected, quantiles, color=shade, linewidth=1.6, label=f"M = {batch}")
            if first:
                axes.set_title(name, loc="left", color=INK, fontsize=10)
            else:
                axes.set_xlabel("Gaussian quantile")
        line[0].set_ylabel(f"{words}: quantile,\nin predicted sds")
    panels[0, 0].set_xlim(-2.6, 2.6)
    panels[0, 0].set_ylim(-4, 4)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=8, frameon=False, fontsize=9, labelcolor=INK)
    write_figure(figure, out, "theory")


def draw_distances(out: Path, layers: Mapping[str, Mapping[int, BatchStatistics]], floor: float) -> None:
    """KS distance by M, for the mean and for the standard deviation, and what Gaussian draws would show."""
    figure = new_figure(8.2, 3.3)
    panels: Any = figure.subplots(1, 2, sharey=True)
    for axes, (part, words) in zip(panels, PARTS.items(), strict=True):
        styled(axes)
        for (name, batches), colour in zip(layers.items(), LAYERS, strict=False):
            values = [distance(getattr(statistics, part)) for statistics in batches.values()]
            axes.plot(list(batches), values, "o-", color=colour, linewidth=1.8, markersize=4, label=name)
        axes.axhline(floor, color=INK, linewidth=1, linestyle=(0, (4, 3)), label="as many Gaussian draws")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        batches_shown = list(next(iter(layers.values())))
        axes.set_xticks(batches_shown, [str(batch) for batch in batches_shown])
        axes.set_yticks([0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5"])
        axes.minorticks_off()
        axes.set_xlabel("M, images in a mini-batch")
        axes.set_title(f"Mini-batch {words}", loc="left", color=INK, fontsize=10)
    panels[0].set_ylabel("KS distance from the predicted Gaussian")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK)
    write_figure(figure, out, "theory_distance")


def draw_prior(out: Path, layers: Mapping[str, tuple[Array, Prior]]) -> None:
    """For each layer every weight: the gradient of L2 against that of the closest divergence."""
    figure = new_figure(3.9 * len(layers) + 0.2, 3.7)
    panels: Any = figure.subplots(1, len(layers), squeeze=False)
    for axes, (name, (decay, prior)), colour in zip(panels[0], layers.items(), LAYERS, strict=False):
        styled(axes)
        reach = float(np.abs(decay).max())
        axes.plot(
            [-reach, reach],
            [-reach, reach],
            color=INK,
            linewidth=1,
            linestyle=(0, (4, 3)),
            zorder=3,
            label="where both are equal",
        )
        axes.plot(decay.ravel(), prior.gradient.ravel(), ".", color=colour, markersize=3, alpha=0.5, rasterized=True)
        axes.set_title(f"{name}: cosine {prior.cosine:.2f}", loc="left", color=INK, fontsize=10)
        axes.set_xlabel("gradient of weight decay")
        axes.set_xlim(-1.05 * reach, 1.05 * reach)
        axes.locator_params(nbins=5)
        axes.axhline(0, color=MUTED, linewidth=0.6)
    panels[0, 0].set_ylabel("gradient of the divergence\nfrom the closest prior")
    panels[0, 0].legend(loc="upper left", frameon=False, fontsize=8.5, labelcolor=INK)
    write_figure(figure, out, "theory_prior")
