"""Sums over images, and scores that were written, → the lines of the report's plots and the rows of its tables.

Must not know HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.report.html.details import Sums, decimals_of
from segment.report.results import CLEAN

POINTS = 160
"""Of a line at most."""
SHOWN = ("nll", "miou", "accuracy", "brier", "ece")
NAMES = {"nll": "NLL, nats", "miou": "mIoU", "accuracy": "accuracy", "brier": "Brier score", "ece": "ECE"}
Chart = dict[str, Any]


def reliability(sums: Sums, evaluations: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """How often a confidence is right: of the run itself, with the pixels of each bin, and of scored methods."""
    lines = []
    count, right, confidence = sums.confidence.T
    if count.sum():
        there = count > 0
        ece = float(np.abs(right - confidence).sum() / count.sum())
        lines.append(
            {
                "name": "this run",
                "legend": f"this run, ECE {ece:.4f}",
                "x": _rounded(confidence[there] / count[there]),
                "y": _rounded(right[there] / count[there]),
                "notes": [f"{int(pixels):,} pixels" for pixels in count[there]],
            }
        )
    for scores in evaluations:
        for name, method in scores.get("methods", {}).items():
            curve = method.get("curves", {}).get("reliability")
            if curve and len(lines) < 7:
                value = (method["scores"].get("ece") or {}).get("value")
                legend = name if value is None else f"{name}, ECE {value:.4f}"
                line = {"name": name, "legend": legend, **{key: curve[key] for key in ("x", "y", "low", "high")}}
                if "pixels" in curve:  # scores of older versions have none
                    line["notes"] = [f"{pixels:,} pixels" for pixels in curve["pixels"]]
                lines.append(line)
    if not lines:
        return []
    words = {"x": "confidence, mean largest probability", "y": "share that is right"}
    more = {"shares": True, "xWord": "confidence", "yWord": "right", "points": True, "diagonal": True}
    return [{"title": "Reliability: how often a confidence is right", "lines": lines, **words, **more}]


def risk_coverage(sums: Sums, titles: Mapping[str, str], scored: Mapping[str, Any]) -> list[Chart]:
    """The error rate of the pixels below each threshold, one line a measure.

    scored: scores.json's entry of the method that the run shows; its AURC and AUSE are taken where they are there
    """
    lines = []
    for name, counts in sums.levels.items():
        right, wrong = counts.T.astype(np.float64)
        if not (right.sum() and wrong.sum()):
            continue
        kept, errors = np.cumsum(right + wrong), np.cumsum(wrong)
        there = np.flatnonzero(right + wrong)
        there = there[np.unique(np.linspace(0, len(there) - 1, min(POINTS, len(there))).round().astype(int))]
        own_aurc, own_oracle = aurc(counts), oracle(float(right.sum()), float(wrong.sum()))
        values = {"aurc": own_aurc, "ause": own_aurc - own_oracle}
        for score in values:
            known = (scored.get(f"{score}.{name}") or {}).get("value")
            values[score] = values[score] if known is None else known
        digits = decimals_of(name)
        lines.append(
            {
                "name": titles[name],
                "legend": f"{titles[name]}, AURC {values['aurc']:.4f}, AUSE {values['ause']:.4f}",
                "x": _rounded(kept[there] / kept[-1]),
                "y": _rounded(errors[there] / kept[there]),
                "notes": [f"threshold {(level + 0.5) / 10**digits:.{digits + 1}f}" for level in there],
            }
        )
    if not lines:
        return []
    words = {"x": "share of pixels that is kept", "y": "share of them that is wrong"}
    more = {"shares": True, "xWord": "kept", "yWord": "of them wrong", "hint": "Point at a line to read its threshold."}
    return [{"title": "Risk and coverage: errors below a threshold", "lines": lines, **words, **more}]


def aurc(counts: NDArray[np.int64]) -> float:  # levels 2
    """Mean error rate over all coverages; pixels of one level share their mean error, so a coverage may split a level.

    The sum over pixels is replaced by its integral. Error: under 1e-4 from a million pixels on.

    >>> round(aurc(np.array([[500000, 0], [0, 500000]])), 4)
    0.1534
    """
    pixels = counts.sum(axis=1).astype(np.float64)
    wrong = counts[:, 1].astype(np.float64)
    before, errors = np.cumsum(pixels) - pixels, np.cumsum(wrong) - wrong
    total = 0.0
    for n, w, start, error in zip(pixels, wrong, before, errors, strict=True):
        if n and start:
            total += w + (error - w * start / n) * math.log((start + n) / start)
        elif n:
            total += w
    return float(total / pixels.sum())


def oracle(right: float, wrong: float) -> float:
    """The area where all wrong pixels come last."""
    if not (right and wrong):
        return wrong / max(right + wrong, 1.0)
    return (wrong - right * math.log((right + wrong) / right)) / (right + wrong)


def sweep_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Paired differences from the plain network against T and M, and NLL under each corruption."""
    charts = []
    clean = [row for row in rows if row["condition"] == CLEAN and row["setting"]]
    for axis, title in (("draws", "T, draws"), ("batch", "M, images behind a draw")):
        for score in ("nll", "miou"):
            lines = _along(clean, axis, score)
            if lines:
                name = f"{NAMES[score]} minus that of the plain network"
                charts.append(
                    {
                        "title": f"{name}, by {title}",
                        "lines": lines,
                        "x": title,
                        "y": name,
                        "zero": True,
                        "points": True,
                    }
                )
    for condition in dict.fromkeys(row["condition"] for row in rows if row["condition"] != CLEAN):
        lines = []
        shifted = [row for row in rows if row["condition"] == condition]
        for name in list(dict.fromkeys(_name(row) for row in shifted))[:8]:
            of_name = [row for row in rows if _name(row) == name and row["condition"] in (CLEAN, condition)]
            points = [(row["severity"], row["result"]["scores"].get("nll") or {}) for row in of_name]
            lines.append(_line(name, points))
        charts.append(
            {"title": f"NLL under {condition}", "lines": lines, "x": "severity", "y": NAMES["nll"], "points": True}
        )
    return charts


def _along(rows: Sequence[Mapping[str, Any]], axis: str, score: str) -> list[dict[str, Any]]:
    def place(row: Mapping[str, Any]) -> float:
        return float(row["draws"] if axis == "draws" else row["setting"]["batch"])

    def rest(row: Mapping[str, Any]) -> str:
        setting = row["setting"]
        parts = [row["method"], setting["transform"], setting["layers"], setting.get("file", "")]
        parts.append(f"M = {setting['batch']}" if axis == "draws" else f"T = {row['draws']}")
        parts += [f"alpha {setting['alpha']:g}"] if setting["alpha"] != 1 else []
        return ", ".join(part for part in parts if part)

    lines = []
    for name in dict.fromkeys(rest(row) for row in rows):
        points = [
            (place(row), (row["result"].get("over_deterministic") or {}).get(score) or {})
            for row in rows
            if rest(row) == name
        ]
        if len({x for x, entry in points if entry}) > 1:
            lines.append(_line(name, points))
    return lines[:8]


def _line(name: str, points: Sequence[tuple[float, Mapping[str, Any]]]) -> dict[str, Any]:
    known = sorted(((x, e) for x, e in points if e.get("value") is not None), key=lambda point: point[0])
    ends = {end: [e.get(end) for _, e in known] for end in ("low", "high")}
    return {"name": name, "x": [x for x, _ in known], "y": [e["value"] for _, e in known], **ends}


def _name(row: Mapping[str, Any]) -> str:
    setting = row["setting"]
    return str(row["method"]) if setting is None else f"{row['method']}, M = {setting['batch']}, T = {row['draws']}"


def score_tables(scores: Mapping[str, Any], title: str) -> list[dict[str, Any]]:
    """The scores of each method with their 95 % intervals."""
    rows = []
    for name, method in scores.get("methods", {}).items():
        cells = [_with_interval(method["scores"].get(score) or {}) for score in SHOWN]
        rows.append([name, str(method["passes_per_image"]), *cells])
    columns = ["method", "passes", *(NAMES[score] for score in SHOWN)]
    return [{"title": f"{title}, with 95 % intervals over images", "columns": columns, "rows": rows}] if rows else []


def gain_tables(comparisons: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a method gains over its rival, score by score."""
    tables = []
    for gain in comparisons.get("gains", []):
        rows = []
        for score, entry in gain["differences"].items():
            if entry.get("value") is not None and entry.get("low") is not None:
                sure = "yes" if entry["low"] > 0 or entry["high"] < 0 else "no"
                rows.append([score, f"{entry['value']:+.4f}", f"{entry['low']:+.4f} to {entry['high']:+.4f}", sure])
        title = f"{gain['method']} minus {gain['rival']}, paired over images"
        if rows:
            tables.append({"title": title, "columns": ["score", "difference", "95 %", "significant"], "rows": rows})
    return tables


def plain_table(content: Mapping[str, Any], title: str) -> dict[str, Any]:
    """Any JSON of ours (a triage, a comparison) as names and values."""
    rows: list[list[str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}.{key}" if name else str(key), inner)
        elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
            for number, item in enumerate(value[:20]):
                add(f"{name}.{number}", item)
        else:
            text = ", ".join(map(str, value[:12])) if isinstance(value, list) else value
            rows.append([name, f"{text:.6g}" if isinstance(text, float) else str(text)])

    add("", content)
    return {"title": title, "columns": ["name", "value"], "rows": rows[:200]}


def _with_interval(entry: Mapping[str, Any]) -> str:
    value, low, high = (entry.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "none"
    return f"{value:.4f}" if low is None or high is None else f"{value:.4f} ({low:.4f} to {high:.4f})"


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in values]
