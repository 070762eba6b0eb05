"""Processor seconds of each method as bars, to a map and before the first map.

Must not know how a second is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.experiments.cost.timing import MEMBERS
from segment.experiments.reporting import (
    COLOURS,
    INK,
    MUTED,
    styled,
    write_figure,
)
from segment.pictures.plots import new_figure

LABELS = {
    "single pass": "single pass",
    "mcbn": "MCBN",
    "mcdo": "MC dropout",
    "ensemble": f"ensemble of {MEMBERS}",
    "mnf": "MNF",
}


def draw_costs(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    figure = new_figure(8.6, 2.9)
    panels: Any = figure.subplots(1, 2, sharey=True)
    colours = [COLOURS.get(row["method"], MUTED) for row in rows]
    height = list(range(len(rows)))
    names = [f"{LABELS[row['method']]}\n{row['passes']} {'passes' if row['passes'] > 1 else 'pass'}" for row in rows]
    for axes, key, title in zip(
        panels,
        ("seconds to a map", "seconds before the first map"),
        ("Seconds to a map", "Seconds before the first map"),
        strict=True,
    ):
        styled(axes)
        values = [row[key] for row in rows]
        low = min(value for value in values if value > 0)
        start = 10 ** math.floor(math.log10(low / 1.5))
        axes.barh(height, [max(value, start) - start for value in values], left=start, color=colours, height=0.62)
        for at, value in zip(height, values, strict=True):
            text = f" {value:,.0f} s" if value >= 100 else f" {value:.2g} s" if value else " none"
            axes.text(max(value, start), at, text, va="center", color=INK, fontsize=8.5)
        axes.set_xscale("log")
        axes.set_xlim(start, 6 * max(values))
        axes.set_title(title, loc="left", color=INK, fontsize=10)
        axes.grid(visible=False, axis="y")
        axes.minorticks_off()
    panels[0].set_yticks(height, names)
    panels[0].invert_yaxis()
    write_figure(figure, out, "cost")
