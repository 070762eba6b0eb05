"""A curve with gaps in its data: where the 95 % band of each method lies, inside the data and out of it.

Must not know the UCI sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segment.experiments.regression.methods import Protocol, drawn_methods, folded, scored
from segment.experiments.regression.predictive import Array, moments
from segment.experiments.regression.reductions import reductions
from segment.experiments.regression.search import Race
from segment.experiments.regression.stack import TrainingData, standardised
from segment.experiments.reporting import (
    COLOURS,
    INK,
    MUTED,
    Budget,
    Progress,
    Row,
    Verdict,
    judged_by,
    ranged,
    styled,
    t_interval,
    with_error,
    write_figure,
    write_page,
    write_table,
)
from segment.files.writing import check_writable
from segment.pictures.plots import new_figure

PIECES = ((-2.0, -0.8), (0.2, 0.9), (1.7, 2.4))  # where there is data
SPAN = (-3.4, 3.8)
NOISE = 0.15
QUANTILE = 1.959964  # 95 %
PANELS = {"mcbn": "MCBN", "mcdo": "MC dropout", "mnf": "MNF", "constant": "constant (MCBN's mean)"}


@dataclass(frozen=True, kw_only=True)
class ToyPlan:
    """repeats: data sets drawn anew; rows: training points; points: test points over the whole span."""

    repeats: int = 10
    rows: int = 180
    points: int = 721
    protocol: Protocol = field(
        default_factory=lambda: Protocol(
            l2=(1e-1, 1e-3, 1e-5),
            batches=(32, 64),
            dropouts=(0.1, 0.05, 0.01),
            precisions=(10.0, 100.0),
            flow_rate=3e-3,
            flow_steps=2000,
            race=Race(epochs=1000, rungs={100: 0.5, 300: 0.5}),
        )
    )


PLANS: Mapping[Budget, ToyPlan] = {
    "paper": ToyPlan(),
    "quick": ToyPlan(
        repeats=2,
        protocol=Protocol(
            l2=(1e-3,),
            batches=(32,),
            dropouts=(0.05,),
            precisions=(100.0,),
            folds=3,
            flow_rate=3e-3,
            flow_steps=2000,
            race=Race(epochs=600, patience=30, draws=10),
            draws=300,
            members=2,
        ),
    ),
}


@dataclass(frozen=True)
class Band:
    """Mean and half width of a 95 % band over the test points."""

    mean: Array
    half: Array


def curve(x: Array) -> Array:
    """The true mean."""
    return np.sin(1.8 * x) + 0.35 * x


def inside(x: Array) -> NDArray[np.bool_]:
    """Whether a point lies in a piece that has data."""
    held: NDArray[np.bool_] = np.any([(low <= x) & (x <= high) for low, high in PIECES], axis=0)
    return held


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: ToyPlan | None = None,
) -> list[Verdict]:
    """Write the figure, the coverage table and the page of the toy experiment; `data` is not read."""
    check_writable(out / "page.md")
    plan, say = plan or PLANS[budget], progress or (lambda _: None)
    x = np.linspace(*SPAN, plan.points)
    coverage: dict[str, dict[str, list[float]]] = {}
    for repeat in range(plan.repeats):
        say(f"toy, data set {repeat + 1} of {plan.repeats}")
        train_x, train_y, y, bands = _bands_of_repeat(plan, x, seed, repeat)
        if repeat == 0:
            _figure(out, x, bands, train_x, train_y)
        for method, band in bands.items():
            covered, parts = np.abs(y - band.mean) <= band.half, coverage.setdefault(method, {})
            within = inside(x)
            for label, chosen in (("inside", within), ("outside", np.logical_not(within))):
                parts.setdefault(f"coverage {label}", []).append(float(covered[chosen].mean()))
                parts.setdefault(f"half width {label}", []).append(float(band.half[chosen].mean()))
    rows: list[Row] = []
    shown: list[Row] = []
    for method, parts in coverage.items():
        rows.append(
            {
                "method": method,
                "data sets": plan.repeats,
                **{label: float(np.mean(values)) for label, values in parts.items()},
            }
        )
        shown.append({"method": method, **{label: with_error(values) for label, values in parts.items()}})
    table = write_table(out, "toy", rows, shown=shown)
    verdicts = _verdicts(coverage)
    write_page(
        out,
        "One-dimensional regression with gaps",
        _opening(plan, budget, seed),
        verdicts,
        {
            "Coverage of the 95 % band and its half width": f"{table}\n![Bands of the first data set](toy.png)",
        },
    )
    return verdicts


def _bands_of_repeat(plan: ToyPlan, x: Array, seed: int, repeat: int) -> tuple[Array, Array, Array, dict[str, Band]]:
    rng = np.random.default_rng([seed, repeat, 41])
    widths = np.array([high - low for low, high in PIECES])
    piece = rng.choice(len(PIECES), size=plan.rows, p=widths / widths.sum())
    train_x = np.array([rng.uniform(*PIECES[number]) for number in piece])
    train_y = curve(train_x) + NOISE * rng.normal(size=plan.rows)
    y = curve(x) + NOISE * rng.normal(size=len(x))
    table_x = torch.from_numpy(np.concatenate([train_x, x]))[:, None]
    table_y = torch.from_numpy(np.concatenate([train_y, y]))
    train, test = torch.arange(plan.rows), torch.arange(plan.rows, plan.rows + len(x))
    own = int(rng.integers(10**6))
    final = standardised(table_x, table_y, train[None], test[None])
    folds = folded(train, table_x, table_y, plan.protocol, own)
    return train_x, train_y, y, _bands(folds, final, plan.protocol, own)


def _bands(folds: TrainingData, final: TrainingData, protocol: Protocol, seed: int) -> dict[str, Band]:
    centre, scale = float(final.y_mean[0]), float(final.y_scale[0])
    bands = {}
    for drawn in drawn_methods(folds, final, protocol, seed, lambda _: None):
        result = scored(drawn, final)
        mean = moments(drawn.test)[0] * scale + centre
        bands[drawn.method] = Band(mean, QUANTILE * np.array(result.spreads))
        if drawn.method == "mcbn":
            bands["constant"] = Band(mean, np.full(len(mean), QUANTILE * scale / np.sqrt(result.constant)))
    return bands


def _verdicts(coverage: Mapping[str, Mapping[str, list[float]]]) -> list[Verdict]:
    mcbn, constant = coverage["mcbn"], coverage["constant"]
    mean = {label: float(np.mean(values)) for label, values in mcbn.items()}
    ratio = t_interval(
        [
            outside / inside
            for outside, inside in zip(mcbn["half width outside"], mcbn["half width inside"], strict=True)
        ]
    )
    inside = t_interval(mcbn["coverage inside"])
    gain = t_interval(
        [own - other for own, other in zip(mcbn["coverage outside"], constant["coverage outside"], strict=True)]
    )
    others = "; ".join(
        f"{method} {with_error(coverage[method]['coverage outside'], digits=2)}" for method in ("mcdo", "mnf")
    )
    return [
        Verdict(
            experiment="toy",
            claim="MCBN's band is wider away from the data than inside it",
            outcome=judged_by(*ratio, least=1),
            numbers="mean half width outside / inside: "
            f"{mean['half width outside'] / mean['half width inside']:.2f} ({ranged(*ratio, digits=2)})",
        ),
        Verdict(
            experiment="toy",
            claim="MCBN's 95 % band covers 95 % of new points inside the data, to 3 points",
            outcome=judged_by(*inside, least=0.92, most=0.98),
            numbers=f"coverage inside {with_error(mcbn['coverage inside'])} ({ranged(*inside)})",
        ),
        Verdict(
            experiment="toy",
            claim="Away from the data MCBN's band covers more than the constant's",
            outcome=judged_by(*gain, least=0),
            numbers=f"coverage outside {with_error(mcbn['coverage outside'], digits=2)} against "
            f"{with_error(constant['coverage outside'], digits=2)}, gain {ranged(*gain, digits=2)}; {others}",
        ),
    ]


def _figure(out: Path, x: Array, bands: Mapping[str, Band], train_x: Array, train_y: Array) -> None:
    figure = new_figure(8.2, 5.2)
    panels: Any = figure.subplots(2, 2, sharex=True, sharey=True)
    truth = curve(x)
    for axes, (method, title) in zip(panels.flat, PANELS.items(), strict=True):
        styled(axes)
        axes.grid(visible=False)
        band, colour = bands[method], COLOURS[method]
        for low, high in PIECES:
            axes.axvspan(low, high, color="#f1f3f5", linewidth=0, zorder=0)
        axes.fill_between(x, band.mean - band.half, band.mean + band.half, color=colour, alpha=0.25, linewidth=0)
        axes.plot(x, band.mean, color=colour, linewidth=1.8)
        axes.plot(x, truth, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        axes.plot(train_x, train_y, "o", color=MUTED, markersize=2, alpha=0.7, zorder=3)
        axes.set_title(title, loc="left", color=INK, fontsize=10)
        axes.set_xlim(*SPAN)
        axes.set_ylim(truth.min() - 1.6, truth.max() + 1.6)
    for axes in panels[1]:
        axes.set_xlabel("x")
    for axes in panels[:, 0]:
        axes.set_ylabel("y")
    _legend(figure)
    write_figure(figure, out, "toy")


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Line2D([], [], color=MUTED, linewidth=1.8, label="mean"),
        Patch(color=MUTED, alpha=0.3, linewidth=0, label="95 % band"),
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="truth"),
        Line2D([], [], color=MUTED, marker="o", markersize=3, linestyle="none", label="training data"),
        Patch(facecolor="#f1f3f5", edgecolor="#d5dade", label="where data lies"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=5, frameon=False, fontsize=9, labelcolor=INK)


def _opening(plan: ToyPlan, budget: Budget, seed: int) -> str:
    return f"""
Budget `{budget}`, seed {seed}. {plan.rows} training points of sin 1.8x + 0.35x with noise of sd {NOISE} on
{", ".join(f"[{low}, {high}]" for low, high in PIECES)}; {plan.points} new noisy points evenly over
[{SPAN[0]}, {SPAN[1]}]; {plan.repeats} data sets. Networks and cross-validation as the paper has them for the UCI sets.
{reductions(plan.protocol)}
A band is the predictive mean ± 1.96 sd, the variance of the draws plus 1/tau. Mean ± standard error over the data sets.
"""
