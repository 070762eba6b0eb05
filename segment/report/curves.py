"""The plots of an evaluation and of a sweep, into their folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segment.files.writing import write_bytes
from segment.pictures.plots import Line, line_of, plot
from segment.report.comparison import best_entry
from segment.report.over_banks import curve_name
from segment.report.results import CLEAN, DETERMINISTIC, Row, Setting

MOST = 8
"""Lines in one picture; more cannot be distinguished."""


def plot_evaluation(scores: Mapping[str, Any], folder: Path) -> list[Path]:
    """reliability.png, risk_coverage.png and sparsification.png of an evaluation; the files that were written."""
    methods = scores["methods"]
    reliability = [
        line_of(curve_name(name, method["curves"]["reliability"]), _common(method["curves"]["reliability"]))
        for name, method in methods.items()
        if "reliability" in method["curves"]
    ]
    risk, oracle = _risks(methods)
    written = []
    if reliability:
        written.append(
            _write(
                folder / "reliability.png",
                plot(
                    reliability[:MOST],
                    title="Reliability: how often a confidence is right",
                    x="confidence, mean max p",
                    y="share of pixels that are right",
                    diagonal=True,
                ),
            )
        )
    if risk:
        lines = [*risk[:MOST], *oracle]
        written.append(
            _write(
                folder / "risk_coverage.png",
                plot(
                    lines,
                    title="Risk against coverage, most confident pixels first",
                    x="share of pixels retained",
                    y="share of them that is wrong",
                    points=False,
                ),
            )
        )
        removed = [replace(line, x=[1 - x for x in line.x]) for line in lines]
        written.append(
            _write(
                folder / "sparsification.png",
                plot(
                    removed,
                    title="Sparsification, most uncertain pixels removed first",
                    x="share of pixels removed",
                    y="share of the rest that is wrong",
                    points=False,
                ),
            )
        )
    return written


def _common(curve: Mapping[str, Any]) -> dict[str, Any]:
    """A reliability curve without the bins that only one image fills: their interval is a point."""
    kept = [at for at, low in enumerate(curve["low"]) if low is None or low < curve["high"][at]]
    return {axis: [curve[axis][at] for at in kept] for axis in ("x", "y", "low", "high")}


def _risks(methods: Mapping[str, Any]) -> tuple[list[Line], list[Line]]:
    """Each method's risk by the measure with its best AUSE, and the oracle's for the first of them."""
    risk: list[Line] = []
    oracle: list[Line] = []
    for name, method in methods.items():
        measure = best_entry("ause", method["scores"]).partition(".")[2]
        curves = method["curves"]
        if f"risk_coverage.{measure}" in curves:
            name = curve_name(name, curves[f"risk_coverage.{measure}"])
            risk.append(line_of(f"{name}, {_words(measure)}", curves[f"risk_coverage.{measure}"]))
            best = curves["risk_coverage.oracle"]
            oracle = oracle or [line_of(f"oracle of {name}", {"x": best["x"], "y": best["y"]}, dashed=True)]
    return risk, oracle


def plot_sweep(rows: Sequence[Row], folder: Path) -> list[Path]:
    """pll_vs_draws.png, quality_vs_batch.png, shift_<corruption>.png: those whose axis has more than one value."""
    clean = [row for row in rows if row.condition == CLEAN]
    written = _along_draws(clean, folder) + _along_batches(clean, folder)
    for condition in dict.fromkeys(row.condition for row in rows if row.condition != CLEAN):
        written += _along_severity(rows, condition, folder)
    return written


def _along_draws(rows: Sequence[Row], folder: Path) -> list[Path]:
    sampled = [row for row in rows if row.method == "mcbn"]
    ticks = sorted({row.draws for row in sampled})
    if len(ticks) < 2:
        return []
    lines = [
        _line(str(setting), [row for row in sampled if row.setting == setting], lambda row: row.draws, "nll", sign=-1)
        for setting in dict.fromkeys(row.setting for row in sampled)
    ][: MOST - 1]
    lines += _levels([row for row in rows if row.method == DETERMINISTIC], ticks, "nll", sign=-1)
    picture = plot(
        lines,
        title="Predictive log likelihood against the number of draws",
        x="T, draws",
        y="PLL, nats a pixel",
        logarithmic=True,
        ticks=ticks,
    )
    return [_write(folder / "pll_vs_draws.png", picture)]


def _along_batches(rows: Sequence[Row], folder: Path) -> list[Path]:
    most: dict[tuple[str, str], int] = {}  # of each method and setting: T is one number along a line
    for row in rows:
        if row.setting is not None:
            kind = (row.method, _without_batch(row.setting))
            most[kind] = max(most.get(kind, 1), row.draws)
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        if row.setting is not None and row.draws == (draws := most[row.method, _without_batch(row.setting)]):
            name = f"{row.method}, {_without_batch(row.setting)}" + (f", T={draws}" if draws > 1 else "")
            kinds.setdefault(name, []).append(row)
    ticks = sorted({row.setting.batch for kind_rows in kinds.values() for row in kind_rows if row.setting})
    if len(ticks) < 2:
        return []
    written = []
    for score, words in (("nll", "NLL, nats a pixel"), ("error_auroc.predictive_entropy", "error AUROC, entropy")):
        lines = [_line(name, kind_rows, _batch, score) for name, kind_rows in kinds.items()][: MOST - 1]
        lines += _levels([row for row in rows if row.method == DETERMINISTIC], ticks, score)
        picture = plot(
            lines,
            title="Quality against the mini-batch behind a draw",
            x="M, images in a mini-batch",
            y=words,
            logarithmic=True,
            ticks=ticks,
        )
        written.append(_write(folder / f"quality_vs_batch_{score.split('.')[0]}.png", picture))
    return written


def _batch(row: Row) -> float:
    return float(row.setting.batch) if row.setting else 0.0


def _without_batch(setting: Setting) -> str:
    return str(setting).partition(", ")[2]


def _along_severity(rows: Sequence[Row], condition: str, folder: Path) -> list[Path]:
    """Severity 0 is the clean images."""
    shifted = [row for row in rows if row.condition == condition]
    names = dict.fromkeys(row.name for row in shifted)
    lines = [
        _line(
            name,
            [row for row in rows if row.name == name and row.condition in (CLEAN, condition)],
            lambda row: row.severity,
            "nll",
        )
        for name in names
    ][:MOST]
    picture = plot(
        lines,
        title=f"NLL under {condition}",
        x="severity",
        y="NLL, nats a pixel",
        ticks=sorted({0, *(row.severity for row in shifted)}),
    )
    return [_write(folder / f"shift_{condition}.png", picture)]


def _line(name: str, rows: Sequence[Row], at: Callable[[Row], float], score: str, *, sign: int = 1) -> Line:
    """A score of rows along an axis; a score that is not defined leaves its place out."""
    entries = [(at(row), row.result["scores"].get(score) or {}) for row in rows]
    known = sorted(((x, e) for x, e in entries if e.get("value") is not None), key=lambda pair: pair[0])
    ends = [(e.get("low"), e.get("high")) for _, e in known]
    low = [None if a is None or b is None else min(sign * a, sign * b) for a, b in ends]
    high = [None if a is None or b is None else max(sign * a, sign * b) for a, b in ends]
    return Line(name=name, x=[x for x, _ in known], y=[sign * e["value"] for _, e in known], low=low, high=high)


def _levels(rows: Sequence[Row], ticks: Sequence[int], score: str, *, sign: int = 1) -> list[Line]:
    """What does not depend on the axis, as a dashed line across it."""
    lines = []
    for row in rows:
        value = (row.result["scores"].get(score) or {}).get("value")
        if value is not None:
            x = [float(ticks[0]), float(ticks[-1])]
            lines.append(Line(name=row.name, x=x, y=[sign * value] * 2, dashed=True))
    return lines


def _words(measure: str) -> str:
    return measure.replace("_", " ")


def _write(path: Path, picture: bytes) -> Path:
    write_bytes(path, picture)
    return path
