"""The result in sentences says no more than its tests show."""

from __future__ import annotations

from segment.report.comparison import Comparison, Gain
from segment.report.html.details import Sums
from segment.report.html.words import finding
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
    assert in_short([compared(tta=clear, dropout=clear)], [], 9) == ["Significantly best: **mcbn** in NLL."]
    assert in_short([compared(tta=clear, dropout=open_)], [], 9) == [
        "Best, but not significantly against the methods named: **mcbn** in NLL (against dropout)."
    ]
    many = compared(**dict.fromkeys("abcde", open_))
    assert in_short([many], [], 9)[0].endswith("**mcbn** in NLL (against a, b, c and 2 more).")
    (row,) = best_two([compared(tta=clear, dropout=open_)])
    assert row[-1] == "significant"
    assert BEST_TWO[-1] == "significant against the next"


def test_of_fewer_than_six_images_no_count_of_significant_scores_is_given() -> None:
    untested: Entry = {"value": -0.02, "low": -0.03, "high": -0.01, "p": None, "holm_p": None}
    gain = Gain("mcbn", "deterministic", (16, 1), {"nll": untested})
    assert in_short([compared(deterministic=untested)], [gain], 5) == [
        "With 5 images no difference can be significant: 6 are the least.",
        "**mcbn over deterministic** (16 passes for 1): NLL -0.020 (-0.030..-0.010).",
    ]
    assert in_short([], [gain], 6)[0].endswith("; significantly better in 0 of 1 scores, worse in 0.")


def test_a_measure_that_is_equal_in_all_images_names_none_to_begin_with() -> None:
    measure = {"name": "variance", "title": "variance", "unit": "", "decimals": 4}
    rows = [{"id": name, "means": {"variance": 0.0}} for name in "ab"]
    assert finding(rows, measure, Sums()) == ["The report holds 2 images. Variance is 0 in every image: it ranks none."]
