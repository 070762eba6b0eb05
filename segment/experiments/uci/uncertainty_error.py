"""Errors in the order of the uncertainty estimated for them: does the error grow where a method says it does.

Must not know how a method is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import WrongUse
from segment.experiments.regression.predictive import Array
from segment.experiments.reporting import (
    COLOURS,
    INK,
    MUTED,
    Budget,
    Progress,
    Row,
    Verdict,
    judged_by,
    judged_by_majority,
    styled,
    write_figure,
    write_page,
    write_table,
)
from segment.experiments.uci.splits import PLANS, Plan, SplitResult, run_splits, seeds_in
from segment.files.writing import check_writable
from segment.pictures.plots import new_figure
from segment.scores.functional.image_level import rank_correlation
from segment.scores.intervals import middle_95

METHODS = {"mcbn": "MCBN", "mcdo": "MC dropout", "mnf": "MNF"}
REPLICATES = 1000
WINDOW = 0.1  # of the points, about each


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: Plan | None = None,
    kept: Path | None = None,
) -> list[Verdict]:
    """Write the figure, the table of rank correlations and the page.

    kept: where finished splits lie; the folder of the UCI experiment saves training the same networks again
    """
    check_writable(out / "page.md")
    if plan is None:
        plan = PLANS[budget]
        if budget == "quick":
            plan = replace(plan, splits=plan.splits[:2])
    splits_by_set = run_splits(plan, data=data, kept=kept or out / "kept", seed=seed, say=progress or (lambda _: None))
    rows: list[dict[str, Any]] = []
    for name, splits in splits_by_set.items():
        for method in METHODS:
            errors, spreads, points = pooled(splits, method)
            value, low, high = spearman_with_interval(errors, spreads, points, seed=seed)
            fifth = len(errors) // 5
            order = spreads.argsort(kind="stable")
            rows.append(
                {
                    "set": name,
                    "method": method,
                    "test points": len(errors),
                    "spearman": value,
                    "low": low,
                    "high": high,
                    "mean error, least uncertain fifth": float(errors[order[:fifth]].mean()),
                    "mean error, most uncertain fifth": float(errors[order[-fifth:]].mean()),
                }
            )
    table = write_table(out, "uncertainty_error", rows, shown=_shown(rows))
    _figure(out, splits_by_set)
    verdicts = [_verdict(rows, method, label) for method, label in METHODS.items()]
    write_page(
        out,
        "Error against estimated uncertainty",
        _opening(splits_by_set, budget, seed),
        verdicts,
        {
            "Rank correlation of |error| and estimated uncertainty": table,
            "Errors sorted by estimated uncertainty": "![Running mean of the error](uncertainty_error.png)",
        },
    )
    return verdicts


def pooled(splits: Sequence[SplitResult], method: str) -> tuple[Array, Array, Array]:
    """|error|, predictive sd (both in original units) and row number of every test point of every split.

    Error: WrongUse where a split was kept without the numbers of its rows.
    """
    for split in splits:
        if len(split.methods[method].errors) != len(split.rows):
            raise WrongUse(
                f"The kept split {split.name}-{split.split}.json has no errors of its {len(split.rows)} test rows; "
                "remove it to compute it again, or leave it out with --splits and --sets."
            )
    errors = np.concatenate([np.array(split.methods[method].errors) for split in splits])
    spreads = np.concatenate([np.array(split.methods[method].spreads) for split in splits])
    return errors, spreads, np.concatenate([np.array(split.rows, dtype=np.float64) for split in splits])


def spearman_with_interval(errors: Array, spreads: Array, rows: Array, *, seed: int) -> tuple[float, float, float]:
    """Spearman's rho and its 95 % interval; ties share their mean rank, and a constant has a rho of 0.

    Percentiles of a bootstrap over table rows: a row that is tested in several splits is drawn as one.
    """
    order = np.argsort(rows, kind="stable")
    errors, spreads = errors[order], spreads[order]
    _, starts, counts = np.unique(rows[order], return_index=True, return_counts=True)
    rng = np.random.default_rng([seed, 17])
    values = []
    for _ in range(REPLICATES):
        drawn = rng.integers(len(starts), size=len(starts))
        sizes = counts[drawn]
        ends = sizes.cumsum()
        index = np.repeat(starts[drawn] - (ends - sizes), sizes) + np.arange(ends[-1])
        values.append(_spearman(errors[index], spreads[index]))
    return _spearman(errors, spreads), *middle_95(values)


def _spearman(first: Array, second: Array) -> float:
    rho = rank_correlation(first, second)
    return 0.0 if math.isnan(rho) else rho


def running(values: Array, share: float) -> tuple[Array, Array]:
    """Mean and sd of a window of that share of the points about each point (cut off at the ends).

    >>> running(np.array([1.0, 2.0, 3.0, 4.0]), 0.75)[0]
    array([1.5, 2. , 3. , 3.5])
    """
    half = int(share * len(values)) // 2
    first = np.concatenate([[0.0], values.cumsum()])
    second = np.concatenate([[0.0], (values**2).cumsum()])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    count = high - low
    mean = (first[high] - first[low]) / count
    return mean, np.sqrt(np.maximum((second[high] - second[low]) / count - mean**2, 0))


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        {
            "set": row["set"],
            "method": row["method"],
            "test points": row["test points"],
            "Spearman (95 %)": f"{row['spearman']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
            "mean error, least uncertain fifth": row["mean error, least uncertain fifth"],
            "mean error, most uncertain fifth": row["mean error, most uncertain fifth"],
        }
        for row in rows
    ]


def _verdict(rows: Sequence[Mapping[str, Any]], method: str, label: str) -> Verdict:
    own = [row for row in rows if row["method"] == method]
    held = [row for row in own if row["low"] > 0]
    listed = "; ".join(f"{row['set']} {row['spearman']:.2f} ({row['low']:.2f} to {row['high']:.2f})" for row in own)
    return Verdict(
        experiment="uncertainty-error",
        claim=f"The error grows with the uncertainty that {label} estimates",
        outcome=judged_by_majority([judged_by(row["low"], row["high"], least=0) for row in own]),
        numbers=f"Spearman's rho above 0 with 95 % confidence on {len(held)} of {len(own)} sets: {listed}",
    )


def _figure(out: Path, splits_by_set: Mapping[str, Sequence[SplitResult]]) -> None:
    figure = new_figure(8.2, 0.9 + 1.75 * len(splits_by_set))
    panels: Any = figure.subplots(len(splits_by_set), len(METHODS), sharex=True, sharey="row", squeeze=False)
    for number, (name, splits) in enumerate(splits_by_set.items()):
        line = panels[number]
        top = 0.0
        for axes, (method, label) in zip(line, METHODS.items(), strict=True):
            errors, spreads, _ = pooled(splits, method)
            order = spreads.argsort(kind="stable")
            mean, spread = running(errors[order], WINDOW)
            share = (np.arange(len(errors)) + 0.5) / len(errors) * 100
            styled(axes)
            axes.plot(share, errors[order], ".", color=MUTED, markersize=1.6, alpha=0.3, zorder=1, rasterized=True)
            axes.fill_between(
                share,
                np.maximum(mean - spread, 0),
                mean + spread,
                color=COLOURS[method],
                alpha=0.22,
                linewidth=0,
                zorder=2,
            )
            axes.plot(share, mean, color=COLOURS[method], linewidth=1.8, zorder=4)
            axes.plot(
                share, spreads[order] * np.sqrt(2 / np.pi), color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=3
            )
            top = max(top, float(np.percentile(errors, 98)), float((mean + spread).max()))
            if number == 0:
                axes.set_title(label, loc="left", color=INK, fontsize=10)
        line[0].set_ylabel(f"{name}\n|error|")
        line[0].set_ylim(0, top)
        line[0].set_xlim(0, 100)
    figure.supxlabel("test points, by estimated uncertainty (%)", color=INK, fontsize=9)
    _legend(figure)
    write_figure(figure, out, "uncertainty_error")


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Line2D([], [], color=MUTED, linewidth=1.8, label=f"running mean of |error| ({WINDOW:.0%} window)"),
        Patch(color=MUTED, alpha=0.3, linewidth=0, label="± its sd"),
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="|error| that the estimate expects"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)


def _opening(results: Mapping[str, Sequence[SplitResult]], budget: Budget, seed: int) -> str:
    return f"""
Budget `{budget}`, seed {seed}; the networks of the UCI experiment, sets {", ".join(results)}, the test points of
splits {seeds_in(results)} pooled. Estimated uncertainty: the predictive sd, from the variance of the
draws plus 1/tau. Intervals: {REPLICATES} bootstrap replicates over table rows. The expected |error| is sd sqrt(2 / pi).
"""
