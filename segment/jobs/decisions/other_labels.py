"""Whether two evaluations measure quality by the same labels, pixel by pixel.

Must not know which numbers are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segment.jobs.decisions.run_table import RunTable

OPTIONS = {"void": "void", "unseen": "unseen", "labels": "the card's `labels`"}
"""Of an evaluation, what decides which pixels count and what their ids mean: in its settings, else in its card."""


def other_labels(a: RunTable, b: RunTable, pairs: Sequence[str]) -> str:
    """What differs between the labels of two evaluations, in a sentence or two; "" where nothing does.

    Args:
        a: Run A.
        b: Run B.
        pairs: The ids that are compared image by image.

    """
    if not (a.labelled and b.labelled):
        return ""
    parts = [
        f"{words} is {_option(a, key)} in A and {_option(b, key)} in B"
        for key, words in OPTIONS.items()
        if _option(a, key) != _option(b, key)
    ]
    pixels = sum(a.rows[name].get("pixels") != b.rows[name].get("pixels") for name in pairs)
    if pixels:
        parts.append(f"{pixels} of {len(pairs)} pairs have another number of scored pixels")
    first, second = a.label_files(), b.label_files()
    files = sum(name in first and name in second and first[name] != second[name] for name in pairs)
    if files:
        parts.append(f"{files} of {len(pairs)} pairs have other label files")
    if not parts:
        return ""
    return (
        f"THE LABELS DIFFER: {'; '.join(parts)}. Accuracy, NLL and all other numbers by labels compare the labels too: "
        "no difference in them says that one run is better."
    )


def _option(table: RunTable, key: str) -> Any:
    """As given to the evaluation, else of the card; "none" where neither names any."""
    settings = table.record.get("settings", {})
    card = settings.get("card")
    given = None if key == "labels" else settings.get(key)  # there it is where they were read
    value = given if given not in (None, []) else card.get(key) if isinstance(card, dict) else None
    return "none" if value in (None, [], {}) else value
