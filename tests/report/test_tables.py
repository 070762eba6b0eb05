"""The result in sentences says no more than its tests show."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from segment.cli import screen
from segment.report.best_methods import BEST_TWO, best_two, best_two_lines, in_short
from segment.report.html.charts import risk_coverage
from segment.report.html.details import Sums
from segment.report.html.tables import signed_with_interval
from segment.report.html.words import finding
from segment.report.method_comparison import Comparison, Gain
from segment.report.tables import (
    COLUMNS,
    MASK_COLUMNS,
    UNCERTAINTY_COLUMNS,
    compact,
    gained,
    number,
    screen_tables,
    signed,
    table,
    verdict,
)
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
    open_one = compared(tta=clear, dropout=open_)
    assert in_short([open_one, replace(open_one, score="brier")], [], 9) == [
        "Best, but not significantly against every other method: **mcbn** in NLL, Brier."
    ], "a method is named once"
    (line,) = best_two_lines([compared(tta=clear, dropout=open_)])
    assert line == "NLL: mcbn, next tta (-0.02), significant"
    (line,) = best_two_lines([compared(dropout=open_)])
    assert line == "NLL: mcbn, next dropout (-0.03), not significant: the interval includes 0"
    (line,) = best_two_lines([compared(**{"mean_statistics+tta+temperature": difference(-0.02, 0.01, 0.2)})])
    first, second = line.splitlines()
    assert (len(first) <= 78, second) == (True, "    not significant: p = 0.2")
    tie = replace(compared(tta=difference(0.0, 0.01, 1.0), dropout=open_), score="miou")
    assert in_short([tie], [], 9) == ["Best, and equal to each other: **mcbn** and **tta** in mIoU."]
    assert best_two_lines([tie]) == ["mIoU: mcbn and tta are equal"]
    (row,) = best_two([compared(tta=clear, dropout=open_)])
    assert row[-1] == "significant"
    assert BEST_TWO[-1] == "significant against the next"


@pytest.mark.parametrize(
    ("value", "low", "high", "text", "narrow"),
    [
        (0.00043, 0.00031, 0.00049, "0.00043 (0.00031..0.00049)", ".00043 .00031-.00049"),
        (0.0099, 0.0, 0.012, "0.010 (0.000..0.012)", ".010 .000-.012"),
        (0.0123, 0.0004, 0.03, "0.012 (0.000..0.030)", ".012 .000-.030"),
        (0.0, 0.0, 0.0004, "0.000 (0.000..0.000)", ".000 .000-.000"),
        (-1.5, -2.0, 0.5, "-1.500 (-2.000..0.500)", "-1.500 -2.000-.500"),
    ],
)
def test_small_scores_have_two_significant_digits_and_large_ones_three_decimals(
    value: float, low: float, high: float, text: str, narrow: str
) -> None:
    entry = {"value": value, "low": low, "high": high}
    assert number(entry) == text
    assert compact(entry).split() == narrow.split()
    assert signed(entry) == (text if value <= 0 else f"+{text}") or low == 0.0004


def test_no_end_of_an_interval_without_zero_is_written_as_zero() -> None:
    below, above = {"value": -0.0019, "low": -0.0037, "high": -0.000027}, {"value": 0.0123, "low": 0.0004, "high": 0.03}
    assert signed(below) == "-0.00190 (-0.00370..-0.00003)"
    assert signed_with_interval(below) == ("-0.00190", "-0.00370 to -0.00003")
    assert signed(above) == "+0.0123 (0.0004..0.0300)"
    assert signed({"value": -0.0019, "low": -0.0037, "high": 0.000027}) == "-0.0019 (-0.0037..0.0000)", "0 is within"


def test_numbers_of_values_too_small_to_be_shown_are_those_of_every_pixel_in_turn() -> None:
    generator = np.random.default_rng(2)
    values = generator.uniform(1e-7, 4e-5, 4000).astype(np.float32)  # 0.0000 with the decimals of a variance
    wrong = generator.random(4000) < values / 4e-5
    sums = Sums(images=1)
    for part in (slice(1000), slice(1000, None)):
        sums.add_ranked("variance", values[part], wrong[part])
    (chart,) = risk_coverage(sums, {"variance": "variance"}, {})
    (line,) = chart["lines"]
    risks = np.cumsum(wrong[np.argsort(values)]) / np.arange(1, 4001)
    best = np.cumsum(np.sort(wrong)) / np.arange(1, 4001)
    area, oracle = float(risks.mean()), float(best.mean())
    assert line["legend"] == f"variance, AURC {area:.4f}, AUSE {area - oracle:.4f}"
    for at in (0, 50, len(line["x"]) - 1):
        kept = values <= float(line["notes"][at].split()[1])
        assert (line["x"][at], line["y"][at]) == pytest.approx((kept.mean(), wrong[kept].mean()), abs=1e-6)
    rows = [{"id": name, "means": {"variance": mean}} for name, mean in (("a", 2e-6), ("b", 3.2e-5))]
    measure = {"name": "variance", "title": "variance", "unit": "", "decimals": 4}
    sums.add_levels("variance", np.array([[4000, (~wrong).sum(), wrong.sum()]]))
    first, second = finding(rows, measure, sums)
    threshold = float(first.split("is above ")[1].split(",")[0])
    assert (values > threshold).mean() == pytest.approx(0.1, abs=0.002)
    assert "the largest: 0.000032; no image lies above twice the median of 0.000017" in second


def test_means_that_are_close_are_stated_with_the_digits_in_which_they_differ() -> None:
    rows = [
        {"id": name, "means": {"predictive_entropy": mean}}
        for name, mean in zip("abc", (0.41, 0.421, 0.4243), strict=True)
    ]
    measure = {"name": "predictive_entropy", "title": "predictive entropy", "unit": "nats", "decimals": 2}
    first, second = finding(rows, measure, Sums())
    assert first == "Half of the 3 images have a mean predictive entropy below 0.4210 nats."
    assert "the largest: 0.4243 nats; no image lies above twice the median of 0.4210 nats" in second


def test_of_fewer_than_six_images_no_count_of_significant_scores_is_given() -> None:
    untested: Entry = {"value": -0.02, "low": -0.03, "high": -0.01, "p": None, "holm_p": None}
    gain = Gain("mcbn", "deterministic", (16, 1), {"nll": untested})
    assert in_short([compared(deterministic=untested)], [gain], 5) == [
        "With 5 images no difference can be significant: 6 are the least.",
        "**mcbn over deterministic** (16 passes instead of 1): NLL -0.020 (-0.030..-0.010).",
    ]
    assert in_short([], [gain], 6)[0].endswith("; significantly better in 0 of 1 scores, worse in 0.")


def test_of_few_images_a_gain_is_first_said_to_be_seen_only_where_it_is_large() -> None:
    clear, open_ = difference(-0.02, 0.01, 0.001), difference(-0.03, 0.05, 0.2)
    gain = Gain("mcbn", "deterministic", (16, 1), {"nll": clear, "miou": clear, "brier": open_})
    few, line, best = in_short([compared(tta=clear)], [gain], 6)
    assert few.startswith("6 images are few: a gain below 1.9 standard deviations over images would be missed"), few
    assert line.endswith("significantly better in 1 of 3 scores, worse in 1."), "6 images can show a large difference"
    assert best == "Significantly best: **mcbn** in NLL."
    assert in_short([], [gain], 30) == [line], "30 are not few"


def test_a_gain_counts_ranking_scores_by_the_measure_that_both_methods_have() -> None:
    better, worse = difference(0.02, 0.01, 0.001), difference(-0.08, 0.01, 0.001)
    by_measure = {"error_auroc.predictive_entropy": worse, "error_auroc of the best measure": better}
    (line,) = in_short([], [Gain("mcbn", "deterministic", (16, 1), by_measure)], 30)
    assert "error AUROC by predictive entropy -0.08" in line
    assert "significantly better in 0 of 1 scores, worse in 1" in line
    (alone,) = in_short([], [Gain("mcbn", "deterministic", (16, 1), {"error_auroc of the best measure": better})], 30)
    assert "better in 1 of 1" in alone, "where no measure is common"


def test_a_significant_gain_is_called_better_or_worse_by_the_direction_of_its_score() -> None:
    clear, open_ = difference(-0.02, 0.01, 0.001), difference(-0.03, 0.05, 0.2)
    assert [gained(score, clear) for score in ("nll", "miou", "ause of the best measure")] == [
        "significantly better",
        "significantly worse",
        "significantly better",
    ]
    assert gained("miou", open_) == verdict(open_)


def test_numbers_of_one_column_have_as_many_decimals() -> None:
    values = {"deterministic": 0.0103, "mcbn": 0.0039}
    methods = {
        name: {
            "passes_per_image": 1,
            "seconds": 1.0,
            "scores": {"ece": {"value": value, "low": value - 0.0005, "high": value + 0.0005}},
        }
        for name, value in values.items()
    }
    shown = [row[1] for row in screen_tables({"methods": methods})[1]]
    assert shown == [".0103\n.0098-.0108", ".0039\n.0034-.0044"]
    written = [row[COLUMNS.index("ECE ↓")] for row in table({"methods": methods})]
    assert written == ["0.0103 (0.0098..0.0108)", "0.0039 (0.0034..0.0044)"]


def test_a_measure_that_is_equal_in_all_images_names_none_to_begin_with() -> None:
    measure = {"name": "variance", "title": "variance", "unit": "", "decimals": 4}
    rows = [{"id": name, "means": {"variance": 0.0}} for name in "ab"]
    assert finding(rows, measure, Sums()) == ["The report holds 2 images. Variance is 0 in every image: it ranks none."]


def test_the_tables_of_an_evaluation_fit_80_columns_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(screen, "out", Console(file=stream, width=screen.WIDE))
    plain = ("miou", "accuracy", "nll", "brier", "ece", "error_auroc.predictive_entropy", "ause.predictive_entropy")
    scores = {key: {"value": 0.123, "low": 0.111, "high": 0.135} for key in plain}
    names = ("deterministic", "mcbn+tta+temperature")
    methods = {name: {"passes_per_image": 16, "seconds": 12.34, "scores": scores} for name in names}
    for columns, rows in zip((MASK_COLUMNS, UNCERTAINTY_COLUMNS), screen_tables({"methods": methods}), strict=True):
        screen.table("Scores", list(columns), rows)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    for name in names:
        assert text.count(name) == 2, "a row in each of two tables"
    assert text.count(" .123") == 2 * 7
    assert text.count(".111-.135") == 2 * 7
    assert text.count("predictive entropy") == 2 * 2
