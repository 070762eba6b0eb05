"""The contents of `scores.json` of several banks → one of their means; what has no mean says which bank it is of.

Must not know how a score was made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segment.scores.board import Entry

FIRST = "bank"
"""Key of a curve, or of thresholds, that are those of one bank of several; its value is 1, the first."""


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation over banks (divisor n - 1)."""
    spread = float(np.std(values, ddof=1))
    return None if math.isnan(spread) else round(spread, 12)


def mean_entry(entries: Sequence[Entry]) -> Entry:
    """The mean of a score and of its interval's ends over the banks that define it, and `bank_sd`.

    >>> mean_entry([{"value": 0.5, "low": 0.0, "high": 0.7}, {"value": 0.7, "low": 0.2, "high": 0.9}])
    {'value': 0.6, 'low': 0.1, 'high': 0.8, 'bank_sd': 0.141421356237}
    """
    known = [entry for entry in entries if entry["value"] is not None]
    if not known:
        return {**entries[0], "bank_sd": None}
    why = next((entry["why"] for entry in known if "why" in entry), "")
    means = {key: _mean([entry[key] for entry in known]) for key in ("value", "low", "high")}
    spread = deviation([entry["value"] for entry in known]) if len(known) == len(entries) else None
    return {**means, **({"why": why} if why else {}), "bank_sd": spread}


def mean_of_classes(banks: Sequence[Mapping[str, Entry]]) -> dict[str, Entry]:
    """`per_class` of several banks: each number's mean over the banks that define it; the pixels are the labels'."""
    return {name: _mean_of_class([bank[name] for bank in banks]) for name in banks[0]}


def _mean_of_class(entries: Sequence[Entry]) -> Entry:
    known = [entry for entry in entries if "why" not in entry] or entries
    numbers = {key: _mean([entry[key] for entry in known if entry[key] is not None]) for key in ("iou", "dice", "ece")}
    return {**known[0], **numbers}


def of_first_bank(named: Mapping[str, Any]) -> dict[str, Any]:
    """Curves or thresholds with the number of their bank; bins and thresholds differ between banks."""
    return {name: {**entry, FIRST: 1} for name, entry in named.items()}


def curve_name(method: str, curve: Mapping[str, Any]) -> str:
    """What a legend calls a method's curve.

    >>> curve_name("mcbn", {"x": [], "y": []}), curve_name("mcbn", {"x": [], "y": [], "bank": 1})
    ('mcbn', 'mcbn (curve of the first bank)')
    """
    return f"{method} (curve of the first bank)" if FIRST in curve else method


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is, or there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
