"""Laws of plots: which lines they show, how lines differ, and what is said of their bands."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segment.pictures.plots import BANDS, DASHES, LINE_COLOURS, MARKERS, Line, plot
from segment.report import curves
from segment.report.best_lines import KEPT, MOST
from segment.report.curves import best_of, plot_evaluation
from segment.report.html.page import ASSETS


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn, in order."""
    drawn: list[Any] = []

    def kept(figure: Any) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr("segment.pictures.plots.png_of", kept)
    return drawn


def a_line(name: str, *, dashed: bool = False, points: int = 2) -> Line:
    x, y = [float(at) for at in range(points)], [0.5] * points
    low, high = ([], []) if dashed else ([0.4] * points, [0.6] * points)
    return Line(name=name, x=x, y=y, low=low, high=high, dashed=dashed)


def under(figure: Any) -> str:
    """What is written above the legend."""
    return str(figure.legends[0].get_title().get_text()).replace("\n", " ")


def test_the_colours_of_plots_are_those_of_the_html_report() -> None:
    script = (ASSETS / "charts.js").read_text(encoding="utf-8")
    (listed,) = re.findall(r"const LINES = (\[.*?\]);", script)
    assert json.loads(listed) == list(LINE_COLOURS[:8])


@pytest.mark.parametrize("points", [False, True])
def test_no_two_of_many_lines_look_alike_and_neighbours_differ_without_colour(
    figures: list[Any], *, points: bool
) -> None:
    lines = [a_line(str(number)) for number in range(2 * len(LINE_COLOURS))]
    plot(lines, title="", x="", y="", points=points)
    drawn = [(line.get_color(), str(line._dash_pattern), line.get_marker()) for line in figures[0].axes[0].lines]
    assert len(set(drawn)) == len(lines)
    shapes = [shape for _, *shape in drawn]
    assert all(a != b for a, b in itertools.pairwise(shapes))
    assert len(DASHES) == len(MARKERS)


@pytest.mark.parametrize("count", [BANDS, BANDS + 1])
def test_few_lines_have_bands_and_the_plot_says_what_they_are(figures: list[Any], count: int) -> None:
    lines = [*(a_line(str(number)) for number in range(count)), a_line("reference", dashed=True)]
    plot(lines, title="", x="", y="", note="More.")
    bands = len(figures[0].axes[0].collections)
    if count <= BANDS:
        assert (bands, under(figures[0])) == (count, "Bands: 95 % intervals. More.")
    else:
        assert (bands, under(figures[0])) == (0, "95 % intervals are drawn for up to 3 lines. More.")
    plot([a_line("reference", dashed=True)], title="", x="", y="")
    assert under(figures[1]) in ("", "None")


def test_a_single_point_has_no_line_in_the_legend_and_the_chosen_point_is_ringed(figures: list[Any]) -> None:
    plot([a_line("one", points=1), a_line("two")], title="", x="", y="", ring=(0.0, 0.5))
    one, two, ring = figures[0].axes[0].lines
    assert (one.get_linestyle(), two.get_linestyle()) == ("None", "-")
    assert (list(ring.get_xdata()), list(ring.get_ydata()), ring.get_label()) == ([0.0], [0.5], "chosen")
    assert ring.get_markerfacecolor() == "none"


@given(st.dictionaries(st.sampled_from([*KEPT, *"abcdefghij"]), st.none() | st.floats(0, 1), min_size=1))
def test_the_best_and_the_kept_are_shown_and_all_others_are_named(values: dict[str, float | None]) -> None:
    shown, left_out = best_of(values, 4, "methods")
    assert len(shown) == min(4, len(values))
    assert shown == [name for name in values if name in shown], "in their order"
    assert set(values) & set(KEPT) <= set(shown)
    others = [name for name in values if name not in shown]
    worst = max((2.0 if (v := values[name]) is None else v for name in shown if name not in KEPT), default=-1.0)
    assert all(values[name] is None or values[name] >= worst for name in others)  # type: ignore[operator]
    assert bool(left_out) == bool(others)
    if others:
        assert left_out.startswith(f"{len(others)} of {len(values)} methods not shown: {others[0]}")


def test_the_plots_of_an_evaluation_leave_out_the_worst_methods_and_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def a_method(score: float) -> dict[str, Any]:
        curve = {"x": [0.5, 1.0], "y": [0.1, 0.2], "low": [0.0, 0.1], "high": [0.2, 0.3]}
        named = ("reliability", "risk_coverage.margin", "risk_coverage.oracle")
        scores = {name: {"value": score} for name in ("ece", "ause.margin", "aurc.margin")}
        return {"curves": dict.fromkeys(named, curve), "scores": scores}

    names = [*"abcdefgh", "mcbn", "deterministic"]
    methods = {name: a_method(1 - number / 20) for number, name in enumerate(names)}
    methods["mcbn"] = a_method(2.0)
    asked: dict[str, Any] = {}

    def kept(lines: list[Line], *, title: str, note: str, **_: object) -> bytes:
        asked[title.split()[0].rstrip(":,")] = ([line.name for line in lines], note)
        return b""

    monkeypatch.setattr(curves, "plot", kept)
    plot_evaluation({"methods": methods}, tmp_path)
    left_out = "2 of 10 methods not shown: a; b."
    shown = [name for name in names if name not in ("a", "b")]
    risks = [f"{name}, margin" for name in shown]
    assert asked == {
        "Reliability": (shown, left_out),
        "Risk": ([*risks, "oracle of c: wrong pixels last"], left_out),
        "Sparsification": ([*risks, "oracle of c: wrong pixels first"], left_out),
    }
    assert len(shown) == MOST
    for name in ("a", "b"):
        del methods[name]
    plot_evaluation({"methods": methods}, tmp_path)
    assert {note for _, note in asked.values()} == {""}
