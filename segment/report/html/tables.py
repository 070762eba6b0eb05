"""Scores, triages and comparisons that were written, → the tables of the report, with the sentences above them.

Must not know HTML.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter

from segment.errors import SegmentError
from segment.guarantees.sentences import sentences
from segment.guarantees.triage import Triage, percent
from segment.report.method_comparison import best_entry
from segment.report.tables import ARROWS, arrow, difference_decimals, entry_decimals, gained, heading, units_of, words

SHOWN = ("nll", "miou", "accuracy", "brier", "ece")
RANKING = ("error_auroc", "ause")
"""Scores of the uncertainty, each by the method's best measure."""
BEST_MEASURE = "Error AUROC and AUSE are by the measure that does best in each, which is named below them."
TITLES = {"nll": "NLL, nats", "brier": "Brier score"}
MEANING = (
    "Significant: the 95 % interval leaves out 0, also after Holm's correction for the number of tests, and with "
    "several banks the difference is larger than twice its standard deviation over them. " + ARROWS
)
NO = ("not significant", "no")
MOST = 200
"""Rows of a file that is none of ours."""
Table = dict[str, Any]
"""title, columns, rows; text: sentences above it."""


def score_tables(scores: Mapping[str, Any], title: str) -> list[Table]:
    """The scores of each method, with their 95 % intervals on a second line."""
    rows = []
    for name, method in scores.get("methods", {}).items():
        scores_of = method["scores"]
        cells = [_with_interval(scores_of.get(score) or {}) for score in SHOWN]
        cells += [_of_best_measure(score, scores_of) for score in RANKING]
        rows.append([name, str(method["passes_per_image"]), *cells])
    columns = [
        "method",
        "passes",
        *(f"{TITLES.get(score, words(score))} {arrow(score)}" for score in (*SHOWN, *RANKING)),
    ]
    title = f"{title}, with 95 % intervals over {units_of(scores)[1]}" if rows else title
    return [{"title": title, "text": [f"{BEST_MEASURE} {ARROWS}"], "columns": columns, "rows": rows}] if rows else []


def gain_tables(comparisons: Mapping[str, Any]) -> list[Table]:
    """How a method differs from its rival, score by score, and whether it is better or worse by more than chance."""
    tables = []
    for gain in comparisons.get("gains", []):
        rows = [
            [heading(score), *signed_with_interval(entry), in_short(score, entry)]
            for score, entry in gain["differences"].items()
            if entry.get("value") is not None and entry.get("low") is not None
        ]
        title = f"{gain['method']} minus {gain['rival']}, image by image"
        columns = ["score", "difference", "95 %", "significant"]
        if rows:
            tables.append({"title": title, "text": [MEANING], "columns": columns, "rows": rows})
    return tables


def signed_with_interval(entry: Mapping[str, Any]) -> tuple[str, str]:
    """A difference and its interval, in two texts.

    >>> signed_with_interval({"value": -0.00043, "low": -0.0006, "high": -0.0002})
    ('-0.00043', '-0.00060 to -0.00020')
    """
    digits = difference_decimals(entry, 4)
    value, low, high = (f"{entry[key]:+z.{digits}f}" for key in ("value", "low", "high"))
    return value, f"{low} to {high}"


def in_short(score: str, entry: Mapping[str, Any]) -> str:
    """Which way a difference is significant, and if it is not for what.

    >>> in_short("nll", {"value": 0.2, "low": 0.1, "high": 0.3})
    'worse'
    >>> in_short("nll", {"value": 0.2, "low": 0.1, "high": 0.3, "holm_p": 0.2})
    "no, after Holm's correction"
    """
    outcome = gained(score, entry).removeprefix("significantly ")
    return outcome.replace("not significant after", "no, after").replace(*NO)


def table_of_file(content: Mapping[str, Any], title: str) -> Table:
    """A triage or a comparison; what is neither, or damaged, as names and values."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        if "decisions" in content:
            return _triage(content, title)
        if "sentences" in content:
            return _comparison(content, title)
    return {"title": title, "columns": ["name", "value"], "rows": _pairs(content)[:MOST]}


def _triage(content: Mapping[str, Any], title: str) -> Table:
    rows = []
    for decision in content["decisions"].values():
        threshold = "nothing" if decision["threshold"] is None else f"{decision['threshold']:.5g}"
        shares = [f"{decision['accepted']:.1%}", f"{decision['loss']:.2%}"]  # digits as in the text
        shares = [*(share.replace("%", " %") for share in shares), str(decision["groups"])]
        rows.append([decision["unit"], decision["measure"].replace("_", " "), threshold, *shares])
    columns = ["unit", "measure", "accept below", "accepted", "mean loss", "calibrated on"]
    lines = [sentence for sentence in (*_triage_lines(content), *content.get("warnings", ())) if sentence]
    limit = percent(content["plan"]["max_error"])
    return {"title": f"Accept or review, limit {limit} ({title})", "text": lines, "columns": columns, "rows": rows}


def _triage_lines(content: Mapping[str, Any]) -> list[str]:
    """The sentences of a triage's text one by one, where it is that of this version; else as one."""
    text = str(content.get("text", ""))
    with suppress(ValueError, LookupError, SegmentError):
        lines = sentences(TypeAdapter(Triage).validate_python(content))
        if " ".join(lines) == text:
            return lines
    return [text]


def _comparison(content: Mapping[str, Any], title: str) -> Table:
    first, second = content["names"]
    rows = []
    for column, test in content["columns"].items():
        if content["paired"]:
            change, digits = test["difference"], "+.4g"
        else:
            change, digits = test["auroc"], ".3f"
        cells = [f"{test['first']:.4g}", f"{test['second']:.4g}", f"{change['value']:{digits}}"]
        interval = "none" if change["low"] is None else f"{change['low']:{digits}} to {change['high']:{digits}}"
        holm = "none" if test["holm_p"] is None else f"{test['holm_p']:.2g}"
        rows.append([words(column), *cells, interval, holm, test["verdict"]])
    change = "difference" if content["paired"] else "AUROC"
    columns = ["number", first, second, change, "95 %", "p (Holm)", "verdict"]
    return {
        "title": f"{second} against {first} ({title})",
        "text": content["sentences"],
        "columns": columns,
        "rows": rows,
    }


def _pairs(content: Any, name: str = "") -> list[list[str]]:
    """Dotted names and values as text.

    >>> _pairs({"a": {"b": 0.25, "c": [1, 2]}, "d": None})
    [['a.b', '0.25'], ['a.c', '1, 2'], ['d', 'none']]
    """
    if isinstance(content, Mapping):
        return [row for key, value in content.items() for row in _pairs(value, f"{name}.{key}" if name else str(key))]
    if isinstance(content, list):
        if any(isinstance(item, dict | list) for item in content):
            return [row for number, item in enumerate(content[:20]) for row in _pairs(item, f"{name}.{number}")]
        return [[name, ", ".join(map(_text, content[:12]))]]
    return [[name, _text(content)]]


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _with_interval(entry: Mapping[str, Any]) -> str:
    value, low, high = (entry.get(key) for key in ("value", "low", "high"))
    if value is None:
        return "none"
    digits = entry_decimals(entry)
    shown = f"{value:.{digits}f}"
    return shown if low is None or high is None else f"{shown}\n{low:.{digits}f} to {high:.{digits}f}"


def _of_best_measure(score: str, scores: Mapping[str, Any]) -> str:
    r"""A ranking score by the measure that does best in it, which is the last line.

    >>> _of_best_measure("ause", {"ause.variance": {"value": 0.02}, "ause.margin": {"value": 0.01}})
    '0.010\nmargin'
    """
    best = best_entry(score, scores)
    return f"{_with_interval(scores[best])}\n{best.partition('.')[2].replace('_', ' ')}" if best else "none"
