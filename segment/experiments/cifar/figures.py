"""Log-likelihood against the number of draws, and its gain over a single draw.

Must not know how a curve is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segment.experiments.cifar.curve import Curve, interval
from segment.experiments.reporting import (
    COLOURS,
    INK,
    MUTED,
    styled,
    write_figure,
)
from segment.pictures.plots import new_figure


def draw_curves(out: Path, curves: Mapping[int, Curve], single: Mapping[str, Curve], *, flat: int, seed: int) -> None:
    figure = new_figure(8.2, 3.6)
    left, right = figure.subplots(1, 2)
    colours = (COLOURS["mcbn"], COLOURS["mnf"], COLOURS["ensemble"])
    for (batch, curve), colour in zip(curves.items(), colours, strict=False):
        for axes, values in ((left, curve.likelihood), (right, curve.likelihood - curve.likelihood[:, :1])):
            ends = np.array([interval(values[:, place], seed=seed) for place in range(len(curve.draws))])
            axes.fill_between(curve.draws, ends[:, 0], ends[:, 1], color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                curve.draws,
                values.mean(axis=(0, 2)),
                "o-",
                color=colour,
                linewidth=1.8,
                markersize=4,
                label=f"MCBN, M = {batch}",
            )
    height = float(single["trained statistics"].likelihood.mean())
    left.axhline(height, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="trained statistics, one pass")
    mean_of_bank = next(value for name, value in single.items() if name.startswith("mean"))
    left.axhline(
        float(mean_of_bank.likelihood.mean()),
        color=COLOURS["trained statistics"],
        linewidth=1.4,
        linestyle=(0, (1, 1.5)),
        label=f"mean statistics of a bank, M = {next(iter(curves))}",
    )
    right.axvline(flat, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    last = max(curve.draws[-1] for curve in curves.values())
    for axes, title in ((left, "nats an image"), (right, "nats above one draw, paired")):
        styled(axes)
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(last.bit_length())]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("draws")
        axes.set_title(f"Log-likelihood, {title}", loc="left", color=INK, fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    write_figure(figure, out, "cifar")
