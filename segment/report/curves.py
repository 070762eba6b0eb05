"""The plots of an evaluation and of a sweep, into their folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from segment.files.writing import write_bytes
from segment.pictures.plots import BLACK, Line, line_of, plot
from segment.report.best_lines import MOST, NAMED, best_lines
from segment.report.method_comparison import best_entry
from segment.report.over_banks import curve_name
from segment.report.results import CLEAN, DETERMINISTIC, Row, Setting
from segment.report.tables import words


def plot_evaluation(scores: Mapping[str, Any], folder: Path) -> list[Path]:
    """reliability.png, risk_coverage.png and sparsification.png of an evaluation; the files that were written."""
    methods = scores["methods"]
    written = []
    lines, left_out = _reliabilities(methods)
    if lines:
        picture = plot(
            lines,
            title="Reliability: how often a confidence is right",
            x="confidence, mean max p",
            y="share of pixels that are right",
            diagonal=True,
            note=left_out,
        )
        written.append(_write(folder / "reliability.png", picture))
    lines, oracle, left_out = _risks(methods)
    if lines:
        picture = plot(
            [*lines, replace(oracle, name=f"{oracle.name}: wrong pixels last")],
            title="Risk against coverage, most confident pixels first",
            x="share of pixels retained",
            y="share of them that is wrong",
            points=False,
            note=left_out,
        )
        written.append(_write(folder / "risk_coverage.png", picture))
        removed = [
            replace(line, x=[1 - x for x in line.x])
            for line in (*lines, replace(oracle, name=f"{oracle.name}: wrong pixels first"))
        ]
        picture = plot(
            removed,
            title="Sparsification, most uncertain pixels removed first",
            x="share of pixels removed",
            y="share of the rest that is wrong",
            points=False,
            note=left_out,
        )
        written.append(_write(folder / "sparsification.png", picture))
    return written


def best_of(values: Mapping[str, float | None], most: int, kind: str) -> tuple[list[str], str]:
    """The names of the lowest values, in their order, and a sentence that names the others.

    As `segment.report.best_lines` chooses.

    values: None where it is not defined, which is worst. kind: what they are, "methods"

    >>> best_of({"mcbn": 0.3, "tta": 0.1, "dropout": 0.2}, 2, "methods")
    (['mcbn', 'tta'], '1 of 3 methods not shown: dropout.')
    >>> best_of({"mcbn": 0.3, "tta": 0.1}, 2, "methods")
    (['mcbn', 'tta'], '')
    >>> best_of({"mcbn, M=8": 0.3, "mcbn, M=4": 0.4, "tta": 0.1, "dropout": 0.2}, 2, "settings")
    (['mcbn, M=8', 'tta'], '2 of 4 settings not shown: mcbn, M=4; dropout.')
    """
    names = list(values)
    shown = [names[at] for at in best_lines(names, [inf if v is None else v for v in values.values()], most)]
    others = [name for name in names if name not in shown]
    listed = "; ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    sentence = f"{len(others)} of {len(values)} {kind} not shown: {listed}." if others else ""
    return shown, sentence


def _reliabilities(methods: Mapping[str, Any]) -> tuple[list[Line], str]:
    """Each method's curve, of many those with the best ECE, and which are left out."""
    curves = {name: method["curves"]["reliability"] for name, method in methods.items() if _has(method, "reliability")}
    shown, left_out = best_of({name: _value(methods[name], "ece") for name in curves}, MOST, "methods")
    return [
        replace(line_of(curve_name(name, curves[name]), _common(curves[name])), colour=list(methods).index(name))
        for name in shown
    ], left_out


def _common(curve: Mapping[str, Any]) -> dict[str, Any]:
    """A reliability curve without the bins that only one image fills: their interval is a point."""
    kept = [at for at, low in enumerate(curve["low"]) if low is None or low < curve["high"][at]]
    return {axis: [curve[axis][at] for at in kept] for axis in ("x", "y", "low", "high")}


def _risks(methods: Mapping[str, Any]) -> tuple[list[Line], Line, str]:
    """Each method's risk by the measure with its best AUSE, the first one's oracle, and which are left out.

    Of many those with the lowest AURC, the area below a line, are shown.
    """
    best = {name: best_entry("ause", method["scores"]) for name, method in methods.items()}
    ranked = {name: score for name, score in best.items() if _has(methods[name], _risk(score))}
    areas = {name: _value(methods[name], score.replace("ause", "aurc", 1)) for name, score in ranked.items()}
    shown, left_out = best_of(areas, MOST, "methods")
    lines, oracle = [], Line(name="", x=(), y=())
    for name in shown:
        curves, measure = methods[name]["curves"], best[name].partition(".")[2]
        called = curve_name(name, curves[_risk(best[name])])
        line = line_of(f"{called}, {measure.replace('_', ' ')}", curves[_risk(best[name])])
        lines.append(replace(line, colour=list(methods).index(name)))
        if len(lines) == 1:
            ideal = curves["risk_coverage.oracle"]
            oracle = line_of(f"oracle of {called}", {"x": ideal["x"], "y": ideal["y"]}, dashed=True)
            oracle = replace(oracle, colour=BLACK)
    return lines, oracle, left_out


def _risk(score: str) -> str:
    return f"risk_coverage.{score.partition('.')[2]}"


def _has(method: Mapping[str, Any], curve: str) -> bool:
    return curve in method["curves"]


def _value(method: Mapping[str, Any], score: str) -> float | None:
    value: float | None = (method["scores"].get(score) or {}).get("value")
    return value


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
    ]
    lines, left_out = _best_lines(lines, MOST - 1, sign=-1)
    lines += _levels([row for row in rows if row.method == DETERMINISTIC], ticks, "nll", sign=-1)
    picture = plot(
        lines,
        title="Predictive log likelihood against the number of draws",
        x="T, draws",
        y="PLL, nats a pixel",
        logarithmic=True,
        ticks=ticks,
        note=left_out,
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
    for score, unit, sign in (("nll", ", nats a pixel", 1), ("error_auroc.predictive_entropy", "", -1)):
        lines = [_line(name, kind_rows, _batch, score) for name, kind_rows in kinds.items()]
        lines, left_out = _best_lines(lines, MOST - 1, sign=sign)
        lines += _levels([row for row in rows if row.method == DETERMINISTIC], ticks, score)
        picture = plot(
            lines,
            title="Quality against the mini-batch behind a draw",
            x="M, images in a mini-batch",
            y=words(score) + unit,
            logarithmic=True,
            ticks=ticks,
            note=left_out,
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
    ]
    lines, left_out = _best_lines(lines, MOST)
    picture = plot(
        lines,
        title=f"NLL under {condition}",
        x="severity",
        y="NLL, nats a pixel",
        ticks=sorted({0, *(row.severity for row in shifted)}),
        note=left_out,
    )
    return [_write(folder / f"shift_{condition}.png", picture)]


def _best_lines(lines: Sequence[Line], most: int, *, sign: int = 1) -> tuple[list[Line], str]:
    """The lines with the lowest points, and which are left out; `sign` is -1 where more is better."""
    values = {line.name: min((sign * y for y in line.y), default=None) for line in lines}
    shown, left_out = best_of(values, most, "settings")
    return [line for line in lines if line.name in shown], left_out


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


def _write(path: Path, picture: bytes) -> Path:
    write_bytes(path, picture)
    return path
