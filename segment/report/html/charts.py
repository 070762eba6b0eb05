"""Sums over images, and scores that were written, → the lines of the report's plots.

Must not know HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.report.best_lines import KEPT, MOST, NAMED, best_lines
from segment.report.html.details import Sums, upper_edges
from segment.report.method_comparison import lower_is_better
from segment.report.over_banks import curve_name
from segment.report.results import CLEAN, OVER, Row
from segment.report.tables import decimals
from segment.scores.functional.rejection import aurc, ause

POINTS = 160
"""Points of a line at most."""
DIFFERENCES = {
    "nll": ("NLL", "NLL difference, nats (below 0: better)"),
    "miou": ("mIoU", "mIoU difference (above 0: better)"),
}
"""Scores that are plotted minus those of the plain network: their name, and the axis."""

Chart = dict[str, Any]


def reliability(sums: Sums, evaluations: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """How often a confidence is right: of the run itself, with the pixels of each bin, and of scored methods."""
    lines, errors = [], list[float]()
    count, right, confidence = sums.confidence.T
    if count.sum():
        there = count > 0
        ece = float(np.abs(right - confidence).sum() / count.sum())
        errors.append(ece)
        lines.append(
            {
                "name": "this run",
                "legend": f"this run, ECE {_score(ece)}",
                "x": _rounded(confidence[there] / count[there]),
                "y": _rounded(right[there] / count[there]),
                "notes": [f"{int(pixels):,} pixels" for pixels in count[there]],
            }
        )
    for scores in evaluations:
        for name, method in scores.get("methods", {}).items():
            curve = method.get("curves", {}).get("reliability")
            if curve:
                value = (method["scores"].get("ece") or {}).get("value")
                shown = curve_name(name, curve)
                legend = shown if value is None else f"{shown}, ECE {_score(value)}"
                points = {key: curve[key] for key in ("x", "y", "low", "high") if key in curve}
                line = {"name": name, "legend": legend, **points}
                if "pixels" in curve:  # scores of older versions have none
                    line["notes"] = [f"{pixels:,} pixels" for pixels in curve["pixels"]]
                lines.append(line)
                errors.append(math.inf if value is None else value)
    if not lines:
        return []
    best = _best(lines, errors, "methods", "ECE")
    words = {"x": "confidence, mean largest probability", "y": "share that is right"}
    more = {"shares": True, "xWord": "confidence", "yWord": "right", "points": True, "diagonal": True}
    return [{"title": "Reliability: how often a confidence is right", **best, **words, **more}]


def risk_coverage(sums: Sums, titles: Mapping[str, str], scored: Mapping[str, Any]) -> list[Chart]:
    """The error rate of the pixels below each threshold, one line a measure.

    scored: scores.json's entry of the same pixels, whose AURC and AUSE are taken; else those of the line itself
    """
    lines = []
    for name, counts in sums.ranked.items():
        right, wrong = counts.sum(axis=0)
        if not (right and wrong):
            continue
        there = np.flatnonzero(counts.any(axis=1))
        kept, errors = np.cumsum(counts[there].sum(axis=1)), np.cumsum(counts[there, 1])
        at = np.unique(np.searchsorted(kept, np.linspace(kept[0], kept[-1], POINTS)))
        values = {"aurc": float(aurc(counts[None])[0]), "ause": float(ause(counts[None])[0])}
        for score in values:
            known = (scored.get(f"{score}.{name}") or {}).get("value")
            values[score] = values[score] if known is None else known
        lines.append(
            {
                "name": titles[name],
                "legend": f"{titles[name]}, AURC {_score(values['aurc'])}, AUSE {_score(values['ause'])}",
                "x": _rounded(kept[at] / kept[-1]),
                "y": _rounded(errors[at] / kept[at]),
                "notes": [f"threshold {threshold:.7g}" for threshold in upper_edges()[there[at]]],
            }
        )
    if not lines:
        return []
    words = {"x": "share of pixels that is kept", "y": "share of them that is wrong"}
    more = {"shares": True, "xWord": "kept", "yWord": "of them wrong", "hint": "Point at a line to read its threshold."}
    title = "Risk and coverage of this run: errors below a threshold"
    return [{"title": title, "lines": lines, **words, **more}]


def sweep_charts(rows: Sequence[Row]) -> list[Chart]:
    """Paired differences from the plain network against T and M, and NLL under each corruption."""
    charts = []
    clean = [row for row in rows if row.condition == CLEAN and row.setting]
    for axis, title in (("draws", "T, draws"), ("batch", "M, images behind a draw")):
        for score, (name, label) in DIFFERENCES.items():
            lines = _along(clean, axis, score)
            if lines:
                at = sorted({x for line in lines for x in line["x"]})
                more = {"zero": True, "points": True, "ticks": at, "logarithmic": True}
                charts.append(
                    {
                        "title": f"{name} minus that of the plain network, by {title}",
                        **_best(lines, [_lowest(line, score) for line in lines], "settings", name),
                        "x": title,
                        "y": label,
                        **more,
                    }
                )
    for condition in dict.fromkeys(row.condition for row in rows if row.condition != CLEAN):
        lines = []
        shifted = [row for row in rows if row.condition == condition]
        for name in dict.fromkeys(row.name for row in shifted):
            of_name = [row for row in rows if row.name == name and row.condition in (CLEAN, condition)]
            points = [(row.severity, row.result["scores"].get("nll") or {}) for row in of_name]
            lines.append(_line(name, points))
        at = sorted({x for line in lines for x in line["x"]})
        words = {"x": "severity, 0 where there is none", "y": "NLL, nats"}
        means = [float(np.mean(line["y"])) if line["y"] else math.inf for line in lines]
        shown = _best(lines, means, "settings", "mean NLL")
        charts.append({"title": f"NLL under {condition}", **shown, **words, "points": True, "ticks": at})
    return charts


def _along(rows: Sequence[Row], axis: str, score: str) -> list[dict[str, Any]]:
    def place(row: Row) -> float:
        return float(row.draws if axis == "draws" or row.setting is None else row.setting.batch)

    def rest(row: Row) -> str:
        setting = str(row.setting)
        if axis == "draws":
            return f"{row.method}, {setting}"
        return f"{row.method}, {setting.partition(', ')[2]}, T={row.draws}"  # M comes first

    lines = []
    for name in dict.fromkeys(rest(row) for row in rows):
        points = [(place(row), (row.result.get(OVER) or {}).get(score) or {}) for row in rows if rest(row) == name]
        if len({x for x, entry in points if entry}) > 1:
            lines.append(_line(name, points))
    return lines


def _lowest(line: Mapping[str, Any], score: str) -> float:
    """The best value along a line, negative where a higher score is better."""
    return min(line["y"]) if lower_is_better(score) else -max(line["y"])


def _best(lines: Sequence[dict[str, Any]], ranks: Sequence[float], kind: str, score: str) -> Chart:
    """The MOST lines of the lowest ranks, among them the best of each method of KEPT; and which are not shown.

    >>> names = [*"abcdefgh", "deterministic", "mcbn"]
    >>> shown = _best([{"name": name} for name in names], range(10), "methods", "ECE")
    >>> [line["name"] for line in shown["lines"]]
    ['a', 'b', 'c', 'd', 'e', 'f', 'deterministic', 'mcbn']
    >>> shown["left_out"]
    'Not shown: g; h (2 of 10 methods). Shown are the best by ECE, and the best of deterministic and mcbn.'
    """
    order = sorted(range(len(lines)), key=lambda number: ranks[number])
    names = [line["name"] for line in lines]
    chosen = best_lines(names, ranks, MOST)
    left = [names[number] for number in order if number not in chosen]
    if not left:
        return {"lines": list(lines)}
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    what = f"Not shown: {'; '.join(left[:NAMED])}{more} ({len(left)} of {len(lines)} {kind})."
    also = " and ".join(name for name in KEPT[1:] if any(each.partition(",")[0] == name for each in names))
    best = f"Shown are the best by {score}" + (f", and the best of {also}." if also else ".")
    return {
        "lines": [lines[number] for number in chosen],
        "left_out": f"{what} {best}",
    }


def _line(name: str, points: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    known = sorted(((x, e) for x, e in points if e.get("value") is not None), key=lambda point: point[0])
    ends = {end: [e.get(end) for _, e in known] for end in ("low", "high")}
    return {"name": name, "x": [x for x, _ in known], "y": [e["value"] for _, e in known], **ends}


def _score(value: float) -> str:
    return f"{value:.{decimals(value, 4)}f}"


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in values]
