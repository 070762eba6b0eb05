"""Several tests at once: Holm's correction, and what significant means after it.

Must not know what was tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LEVEL = 0.05
"""Chance, at most, that any of the differences that are called significant is none."""

SIGNIFICANT, NOT_SIGNIFICANT = "significant", "not significant"


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values after Holm's correction: with all that are at most .05 called significant, any is wrong once in 20.

    Args:
        p_values: Name of each test to its p-value, within 0..1; every test that was made, not only small ones.

    Returns:
        The adjusted p-values, within 0..1, in the same order: the ith smallest of m times m - i + 1, never decreasing.
        Source: Holm 1979, "A simple sequentially rejective multiple test procedure".

    >>> {name: round(p, 3) for name, p in holm({"a": 0.01, "b": 0.04, "c": 0.03}).items()}
    {'a': 0.03, 'b': 0.06, 'c': 0.06}

    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for number, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - number) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def verdict(adjusted: float | None) -> str:
    """The words for a p-value after correction; a test that could not be made is not significant.

    >>> verdict(0.03), verdict(0.2), verdict(None)
    ('significant', 'not significant', 'not significant')
    """
    return SIGNIFICANT if adjusted is not None and adjusted <= LEVEL else NOT_SIGNIFICANT


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval; without one where there are too few images."""

    value: float
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "low": self.low, "high": self.high}
