"""Tables, figures, verdicts: the same numbers write the same bytes, files are whole, a missing tool is named."""

from __future__ import annotations

import csv
import math
import re
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from scipy.stats import sem, t

from segment.errors import MissingExtra, WrongUse
from segment.experiments.pages import assemble
from segment.experiments.regression import toy
from segment.experiments.reporting import (
    Outcome,
    Verdict,
    judged,
    judged_by,
    judged_by_all,
    judged_by_majority,
    markdown_table,
    styled,
    t_interval,
    with_error,
    write_figure,
    write_page,
    write_table,
)
from segment.experiments.uci import experiment as uci
from segment.experiments.uci import uncertainty_error
from segment.pictures.plots import new_figure

ROWS = [{"set": "yacht", "rmse": 0.1 + 0.2, "p": None}, {"set": "wine", "rmse": -0.0001, "p": math.nan}]


def test_a_csv_keeps_every_digit_and_markdown_rounds(tmp_path: Path) -> None:
    text = write_table(tmp_path, "scores", ROWS)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["rmse"]) == 0.1 + 0.2
    assert text.splitlines()[2:] == ["| yacht | 0.300 | – |", "| wine | 0.000 | – |"]
    assert (tmp_path / "scores.md").read_text() == text


def test_numbers_stand_to_the_right() -> None:
    assert markdown_table(ROWS).splitlines()[1] == "| --- | ---: | ---: |"


def test_a_mean_is_shown_with_its_standard_error() -> None:
    assert with_error([2.0, 4.0, 6.0, 8.0], digits=2) == "5.00 ± 1.29"
    assert with_error([2.0]) == "2.000"


def test_the_same_figure_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        figure = new_figure(3, 2)
        styled(figure.subplots()).plot([0, 1], [1, 0], label="a line")
        write_figure(figure, tmp_path / name, "line")
    for suffix in ("png", "svg"):
        first, second = ((tmp_path / name / f"line.{suffix}").read_bytes() for name in ("first", "second"))
        assert first == second
    with Image.open(tmp_path / "first" / "line.png") as picture:
        assert picture.size == (600, 400)
    assert b"<dc:date>" not in (tmp_path / "first" / "line.svg").read_bytes()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"mcbn-segment\[plots\]"):
        new_figure(1, 1)


@pytest.mark.parametrize("experiment", [toy, uci, uncertainty_error])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, experiment: ModuleType) -> None:
    (tmp_path / "out").write_text("a file where the folder should be")
    messages: list[str] = []
    with pytest.raises(WrongUse, match="Cannot write"):
        experiment.run(tmp_path / "out", budget="quick", data=tmp_path, progress=messages.append)
    assert messages == []


def test_a_page_holds_the_verdicts_and_every_section(tmp_path: Path) -> None:
    verdict = Verdict(experiment="uci", claim="MCBN is better", outcome=judged(holds=False), numbers="0 of 2")
    write_page(tmp_path, "UCI", "Opening.", [verdict], {"Scores": markdown_table(ROWS)})
    page = (tmp_path / "page.md").read_text()
    assert "- **not reproduced** — MCBN is better (0 of 2)" in page
    assert "### Scores" in page
    assert (tmp_path / "verdicts.csv").read_text().startswith("experiment,claim,outcome,numbers\n")


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'maybe'"):
        Verdict(experiment="uci", claim="c", outcome="maybe", numbers="")  # type: ignore[arg-type]


def left_a_page(folder: Path, experiment: str) -> Path:
    verdict = Verdict(experiment=experiment, claim="it holds", outcome="reproduced", numbers="1 of 1")
    write_page(folder, experiment, "Opening.", [verdict], {"A figure": f"![{experiment}]({experiment}.png)"})
    Image.new("RGB", (1500, 300), "#0072b2").save(folder / f"{experiment}.png")
    return folder


def test_pages_put_together_hold_every_verdict_and_reach_their_figures(tmp_path: Path) -> None:
    folders = [left_a_page(tmp_path / "run" / name, name) for name in ("toy", "uci")]
    assemble(folders, tmp_path / "run" / "index.md", title="All", command="segment experiment all")
    assemble(folders, tmp_path / "docs" / "reproduction.md", title="All", command="segment experiment all")
    for document in (tmp_path / "run" / "index.md", tmp_path / "docs" / "reproduction.md"):
        text = document.read_text()
        assert "| toy | it holds | reproduced |" in text
        assert "`segment experiment all`" in text
        links = re.findall(r"\]\(([^)]+)\)", text)
        assert len(links) == 2
        widths = set()
        for link in links:
            with Image.open(document.parent / link) as picture:
                widths.add(picture.width)
                assert picture.convert("RGB").getpixel((7, 7)) == (0x00, 0x72, 0xB2)
        assert widths == ({1500} if document.name == "index.md" else {1200})
        assert "Of 2 claims: 2 reproduced" in text


def test_figures_are_reached_from_names_with_spaces(tmp_path: Path) -> None:
    folder = left_a_page(tmp_path / "my (first) run" / "toy", "toy")
    for document in (tmp_path / "all of it.md", tmp_path / "docs" / "all of it.md"):
        assemble([folder], document, title="All", command="segment experiment all")
        (link,) = re.findall(r"\]\((\S+)\)", document.read_text())
        assert not set(link) & set(" ()")
        assert (document.parent / unquote(link)).is_file()


def test_a_copied_figure_stays_light_enough_for_a_repository(tmp_path: Path) -> None:
    folder = left_a_page(tmp_path / "run" / "toy", "toy")
    noise = np.random.default_rng(0).integers(0, 256, (700, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "toy.png")
    assemble([folder], tmp_path / "docs" / "reproduction.md", title="All", command="c")
    copied = tmp_path / "docs" / "images" / "reproduction" / "toy.png"
    assert copied.stat().st_size <= 200_000
    with Image.open(copied) as picture:
        assert picture.width / picture.height == pytest.approx(1600 / 700, rel=0.02)


def test_a_folder_without_a_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"holds no page\.md"):
        assemble([tmp_path], tmp_path / "index.md", title="All", command="c")


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.01, 0.2, "reproduced"),
        (-0.2, -0.01, "not reproduced"),
        (-0.01, 0.2, "inconclusive"),
        (-0.2, 0.01, "inconclusive"),
        (math.nan, math.nan, "inconclusive"),
    ],
)
def test_a_claim_is_reproduced_only_where_its_whole_interval_supports_it(low: float, high: float, outcome: str) -> None:
    assert judged_by(low, high, least=0) == outcome
    assert judged_by(-high, -low, most=0) == outcome


def test_a_value_is_within_two_limits_only_with_its_whole_interval() -> None:
    outcomes = [judged_by(low, high, least=0.92, most=0.98) for low, high in ((0.93, 0.97), (0.93, 0.99), (0.99, 1.0))]
    assert outcomes == ["reproduced", "inconclusive", "not reproduced"]


def test_signs_without_intervals_make_no_majority() -> None:
    yes: Outcome = "reproduced"
    no: Outcome = "not reproduced"
    open_: Outcome = "inconclusive"
    assert judged_by_majority([yes, yes, open_, open_, open_]) == "inconclusive"
    assert judged_by_majority([yes, yes, yes, open_, open_]) == "reproduced"
    assert judged_by_majority([no, no, no, yes, yes]) == "not reproduced"
    assert judged_by_majority([no, no, open_, open_]) == "not reproduced"


def test_scores_that_contradict_one_another_are_inconclusive() -> None:
    assert judged_by_all(["reproduced", "inconclusive"]) == "reproduced"
    assert judged_by_all(["not reproduced", "inconclusive"]) == "not reproduced"
    assert judged_by_all(["reproduced", "not reproduced"]) == "inconclusive"
    assert judged_by_all([]) == "inconclusive"


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = [0.3, 0.9, 0.4, 0.35, 1.2]
    expected = t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=sem(values))
    assert t_interval(values) == pytest.approx(expected)
