"""What a sweep found, in sentences, and the short names of its settings.

Must not know how a setting was scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segment.errors import count_of
from segment.report.method_comparison import corrected
from segment.report.results import CLEAN, DETERMINISTIC, OVER, Row
from segment.report.tables import few, gained, units_of, words
from segment.scores.board import Entry
from segment.significance.paired import FEW, LEAST, seen_by_t_test

TESTED = ("nll", "miou")
"""Scores in which a setting is compared with the deterministic network."""
NAMED = 3
"""Settings that a sentence names."""


def shown_names(rows: Sequence[Row]) -> tuple[str, dict[str, str]]:
    """What all settings share, as a sentence, "" for nothing; and each row's name without that, by `Row.name`."""
    parts = {row.name: _parts(row) for row in rows}
    shared: dict[str, str] = {}
    for axis in ("M", "transform", "layers", "alpha", "adapted", "T"):
        values = [of_row[axis] for of_row in parts.values() if axis in of_row]
        if len(values) > 1 and len(set(values)) == 1:
            shared[axis] = values[0]
    methods = {row.name: row.method for row in rows}
    names = {
        name: ", ".join([methods[name], *(text for axis, text in of_row.items() if text and axis not in shared)])
        for name, of_row in parts.items()
    }
    said = ", ".join(text for text in shared.values() if text and text != "alpha=1")
    given = any(row.setting is not None and row.setting.file for row in rows)
    return (f"All that draw{', but from a given bank' if given else ''}: {said}." if said else ""), names


def _parts(row: Row) -> dict[str, str]:
    """The axes of a row and what it says of each; T only where there are draws."""
    setting = row.setting
    if setting is None:
        return {"passes": count_of(row.draws, "pass")} if row.draws > 1 else {}
    drawn = {} if row.method.startswith("mean_statistics") else {"T": f"T={row.draws}"}
    if setting.file:
        return {"given M": f"M={setting.batch}", "file": setting.file, **drawn}
    return {
        "M": f"M={setting.batch}",
        "transform": f"transform {setting.transform}",
        "layers": f"layers {setting.layers}",
        "alpha": f"alpha={setting.alpha:g}",
        "adapted": "adapted" if setting.adapted else "",
        **drawn,
    }


def condition_name(row: Row) -> str:
    """The condition of a row as a reader calls it: "clean", or as "fog 3"."""
    return CLEAN if row.condition == CLEAN else f"{row.condition} {row.severity}"


def best_and_plain(rows: Sequence[Row], most: int) -> list[Row]:
    """The best rows of one condition by NLL, so many at most, and beside them the deterministic network."""
    ordered = sorted(rows, key=lambda row: row.nll)
    return ordered[:most] + [row for row in ordered[most:] if row.method == DETERMINISTIC]


def sweep_sentences(rows: Sequence[Row]) -> list[str]:
    """For each condition, which settings differ significantly from the deterministic network in NLL or mIoU.

    Image by image; Holm's correction is over all settings, conditions and both scores. Nothing where that network
    is not among the rows, or nothing is beside it.
    """
    differences = {f"{condition_name(row)}|{row.name}": _differences(row) for row in rows if row.result.get(OVER)}
    tests = sum(entry.get("p") is not None for entries in differences.values() for entry in entries.values())
    if not differences:
        return []
    units, over = max(units_of(row.result) for row in rows)
    if units < LEAST:
        how = count_of(units, over.removesuffix("s"))
        return [f"With {how} no difference can be significant: {LEAST} are the least."]
    adjusted = corrected(differences)
    _, names = shown_names(rows)
    lines = []
    for shift in dict.fromkeys(map(condition_name, rows)):
        settings_of: dict[tuple[str, str], list[str]] = {}
        for row in sorted((row for row in rows if condition_name(row) == shift), key=lambda row: row.nll):
            for score, entry in adjusted.get(f"{shift}|{row.name}", {}).items():
                settings_of.setdefault((gained(score, entry), score), []).append(names[row.name])
        lines.append(f"{shift}: {_outcome(settings_of)}.")
    if tests and units < FEW:
        lines.append(f"{few(units, over, 'difference', seen_by_t_test(units, tests))}.")
    return lines


def _differences(row: Row) -> dict[str, Entry]:
    over: Mapping[str, Entry] = row.result[OVER]
    return {score: over[score] for score in TESTED if score in over}


def _outcome(settings_of: Mapping[tuple[str, str], Sequence[str]]) -> str:
    """What differs, by (outcome, score) -> settings, the best NLL first; scores of the same settings together."""
    parts: list[str] = []
    for way in ("better", "worse"):
        scores: dict[tuple[str, ...], list[str]] = {}
        for score in TESTED:
            if settings := settings_of.get((f"significantly {way}", score)):
                scores.setdefault(tuple(settings), []).append(words(score))
        for settings, named in scores.items():
            more = f" and {len(settings) - NAMED} more" if len(settings) > NAMED else ""
            rival = "" if parts else f" than {DETERMINISTIC}"
            parts.append(f"{way}{rival} in {' and '.join(named)}: {'; '.join(settings[:NAMED])}{more}")
    if not parts:
        return f"no setting differs significantly from {DETERMINISTIC} in {' or '.join(map(words, TESTED))}"
    return f"significantly {'. Significantly '.join(parts)}"
