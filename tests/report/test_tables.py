"""The result in sentences says no more than its tests show."""

from __future__ import annotations

from segment.report.comparison import Comparison
from segment.report.tables import BEST_TWO, best_two, in_short
from segment.scores.board import Entry


def difference(value: float, half: float, p: float) -> Entry:
    return {"value": value, "low": value - half, "high": value + half, "p": p, "holm_p": p}


def compared(**differences: Entry) -> Comparison:
    names = ("mcbn", *differences)
    values: dict[str, Entry] = {name: {"value": 0.4, "low": 0.3, "high": 0.5} for name in names}
    return Comparison("nll", values, dict.fromkeys(names, ""), differences)


def test_the_best_is_significantly_best_only_where_it_is_so_against_every_other_method() -> None:
    clear, open_ = difference(-0.02, 0.01, 0.001), difference(-0.03, 0.05, 0.2)
    assert in_short([compared(tta=clear, dropout=clear)], []) == ["Significantly best: **mcbn** in NLL."]
    assert in_short([compared(tta=clear, dropout=open_)], []) == [
        "Best, but not significantly against the methods named: **mcbn** in NLL (against dropout)."
    ]
    many = compared(**dict.fromkeys("abcde", open_))
    assert in_short([many], [])[0].endswith("**mcbn** in NLL (against a, b, c and 2 more).")
    (row,) = best_two([compared(tta=clear, dropout=open_)])
    assert row[-1] == "significant"
    assert BEST_TWO[-1] == "significant against the next"
