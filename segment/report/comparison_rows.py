"""Two runs compared, as a table for a screen: each number of both, the difference, and what it shows.

The page has the tests as well. Must not know a file.
"""

from __future__ import annotations

from collections.abc import Sequence

from segment.report.run_comparison import QUALITY, RunComparison, better
from segment.report.tables import arrow, decimals, short, words
from segment.significance.corrections import SIGNIFICANT, verdict

PAIRED = ("number", "A", "B", "B - A (95 %)", "B is")
UNPAIRED = ("number", "A", "B", "AUROC (95 %)", "they are")
MOST = 5
"""Decimals of a column at the most."""


def screen_rows(compared: RunComparison) -> tuple[tuple[str, ...], list[list[str]]]:
    """The columns and a row a number; those of one column have as many decimals. B is: where it is significant."""
    if compared.paired:
        tests = compared.paired
        ends = [(test.difference.value, test.difference.low, test.difference.high) for test in tests.values()]
        means = [(test.first, test.second) for test in tests.values()]
        last = _intervals(ends, "+")
        ways = [_outcome(compared, column, test.difference.value) for column, test in tests.items()]
        return PAIRED, _rows(list(tests), means, last, ways)
    apart = compared.unpaired
    ends = [(test.auroc.value, test.auroc.low, test.auroc.high) for test in apart.values()]
    means = [(test.first, test.second) for test in apart.values()]
    outcomes = [verdict(compared.adjusted.get(column)) for column in apart]
    return UNPAIRED, _rows(list(apart), means, _intervals(ends, ""), outcomes)


def _outcome(compared: RunComparison, column: str, difference: float) -> str:
    if verdict(compared.adjusted.get(column)) != SIGNIFICANT:
        return "–"
    return better(column, difference, comparable=not compared.other_labels)


def _rows(
    columns: Sequence[str], means: Sequence[tuple[float, float]], last: Sequence[str], outcomes: Sequence[str]
) -> list[list[str]]:
    digits = _digits([mean for pair in means for mean in pair])
    names = [f"{words(column)} {arrow(column)}" if column in QUALITY else words(column) for column in columns]
    names = [name.replace(", ", ",\n") for name in names]  # the measure on a line of its own, for 80 columns
    return [
        [name, short(a, digits), short(b, digits), span, outcome]
        for name, (a, b), span, outcome in zip(names, means, last, outcomes, strict=True)
    ]


def _intervals(ends: Sequence[tuple[float, float | None, float | None]], sign: str) -> list[str]:
    digits, to = _digits([value for value, _, _ in ends]), ".." if sign else "-"  # .000...500 could not be read
    return [
        short(value, digits, sign)
        + ("" if low is None or high is None else f" ({short(low, digits, sign)}{to}{short(high, digits, sign)})")
        for value, low, high in ends
    ]


def _digits(values: Sequence[float]) -> int:
    """Decimals that show two significant digits of each value, MOST at the most.

    >>> _digits([0.5, 0.0032]), _digits([0.5, 0.0000032])
    (4, 5)
    """
    return min(MOST, max(map(decimals, values), default=3))
