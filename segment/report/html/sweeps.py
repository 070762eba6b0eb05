"""The rows of a sweep → its sentences, and the table of its best settings.

Must not know HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from segment.errors import count_of
from segment.report.html.tables import Table, score_tables
from segment.report.results import CLEAN, DETERMINISTIC, Row
from segment.report.sweep_words import best_and_plain, shown_names, sweep_sentences
from segment.report.tables import decimals

SHOWN = 10
"""Settings in the table, at most, and beside them the deterministic network."""


def sweep_tables(rows: Sequence[Row], title: str) -> list[Table]:
    """The best settings on images as they are, by NLL, below what the sweep says of all conditions."""
    clean = [row for row in rows if row.condition == CLEAN]
    shared, names = shown_names(rows)
    shown = best_and_plain(clean, SHOWN)
    if not shown:
        return []
    methods = {names[row.name]: row.result for row in shown}
    (table,) = score_tables({**shown[0].result, "methods": methods}, f"Best settings in {title}, on clean images")
    which = f"the best {SHOWN} of {len(clean)} settings by NLL" if len(clean) > SHOWN else "best NLL first"
    order = f"Below: {which}{f', and {DETERMINISTIC}' if len(shown) > SHOWN else ''}. {shared}".rstrip()
    return [table | {"text": [*sweep_sentences(rows), order, *table["text"]]}]


def sweep_finding(rows: Sequence[Row]) -> list[str]:
    """How many settings were compared, which has the best NLL, and what is significant on images as they are."""
    conditions = len({(row.condition, row.severity) for row in rows})
    first = f"The report holds a sweep of {count_of(len({row.name for row in rows}), 'setting')}"
    first += f" under {count_of(conditions, 'condition')}" if conditions > 1 else ""
    outcomes = [line.partition(f"{CLEAN}: ")[2] for line in sweep_sentences(rows) if line.startswith(f"{CLEAN}: ")]
    sentences = [first, *(f"On clean images, {outcome}" for outcome in outcomes)]
    known = [row for row in rows if row.condition == CLEAN and math.isfinite(row.nll)]
    if known:
        best, *plain = [min(known, key=lambda row: row.nll), *(row for row in known if row.method == DETERMINISTIC)]
        _, names = shown_names(rows)
        sentences[0] += f"; {names[best.name]} has the best NLL on clean images, {_nll(best)}"
        sentences[0] += f" ({DETERMINISTIC}: {_nll(plain[0])})" if plain and plain[0] is not best else ""
    sentences[0] += "."
    return sentences


def _nll(row: Row) -> str:
    return f"{row.nll:.{decimals(row.nll)}f}"
