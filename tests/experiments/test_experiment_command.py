"""`segment experiment NAME` and `all`: verdicts on the screen, one index page, one line for what is wrong."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import get_args

import pytest
from console import segment

from segment.cli.commands.experiments import ABOUT
from segment.errors import MissingExtra
from segment.experiments import reproduction
from segment.experiments.regression import toy
from segment.experiments.regression.methods import Protocol
from segment.experiments.regression.search import Race
from segment.experiments.regression.toy import ToyPlan
from segment.experiments.reporting import Outcome
from segment.files.runs.lock import lock_folder

SMALL = ToyPlan(
    repeats=1,
    rows=60,
    points=51,
    protocol=Protocol(
        hidden=(8,),
        l2=(1e-3,),
        batches=(16,),
        dropouts=(0.05,),
        precisions=(10.0,),
        folds=2,
        race=Race(every=10, patience=2, epochs=20, draws=4),
        draws=30,
        members=2,
    ),
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "PLANS", {"quick": SMALL})


def test_every_experiment_is_a_command() -> None:
    assert list(ABOUT) == list(reproduction.MODULES)
    shown = segment("experiment", "--help").out
    for name in (*ABOUT, "all", "report", "train-scenes"):
        assert re.search(rf"\b{name}\b", shown), name


def test_an_experiment_says_its_verdicts_and_where_they_lie(tmp_path: Path) -> None:
    ended = segment("experiment", "toy", "-o", tmp_path / "toy", "--data", tmp_path)
    assert (ended.code, ended.err) == (0, "")
    outcomes = "|".join(get_args(Outcome))
    assert len(re.findall(rf"^({outcomes}): ", ended.out, re.MULTILINE)) == 3
    assert (tmp_path / "toy" / "page.md").is_file()


def test_json_holds_the_verdicts(tmp_path: Path) -> None:
    printed = segment("experiment", "toy", "-o", tmp_path / "toy", "--json").json
    assert len(printed["verdicts"]) == 3
    assert set(printed["verdicts"][0]) == {"experiment", "claim", "outcome", "numbers"}


def test_all_leaves_one_index_page_of_every_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduction, "MODULES", {"toy": "regression.toy"})
    verdicts = reproduction.run_all(tmp_path / "out", budget="quick", data=tmp_path, names=("toy",))
    text = (tmp_path / "out" / "index.md").read_text()
    for verdict in verdicts:
        assert f"| toy | {verdict.claim} | {verdict.outcome} |" in text
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (tmp_path / "out" / link).is_file()


def test_all_names_the_data_that_a_later_experiment_lacks_before_the_first_one(tmp_path: Path) -> None:
    (tmp_path / "data" / "uci").mkdir(parents=True)
    ended = segment("experiment", "all", "-o", tmp_path / "out", "--data", tmp_path / "data", "-v")
    assert ended.code == 2
    assert "lacks cifar10/, camvid/; name another folder with --data DIR" in ended.error
    assert "toy" not in ended.err
    assert not (tmp_path / "out").exists()


def test_a_report_takes_each_experiment_from_the_first_folder_that_holds_it(tmp_path: Path) -> None:
    for folder, seed in (("first", 1), ("second", 2)):
        segment("experiment", "toy", "-o", tmp_path / folder / "toy", "--seed", seed)
    target = tmp_path / "docs" / "reproduction.md"
    ended = segment("experiment", "report", tmp_path / "none", tmp_path / "first", tmp_path / "second", "-o", target)
    assert (ended.code, ended.err) == (0, "")
    text = target.read_text()
    assert re.search(r"`segment experiment toy --budget quick --seed 1`: \d+\.\d minutes of processor time", text)
    assert "--seed 2" not in text
    assert (target.parent / "images" / "reproduction" / "toy.png").is_file()


def test_a_report_of_nothing_is_refused_in_one_line(tmp_path: Path) -> None:
    ended = segment("experiment", "report", tmp_path, "-o", tmp_path / "reproduction.md")
    assert ended.code == 2
    assert "segment experiment all" in ended.error
    assert not (tmp_path / "reproduction.md").exists()


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    unknown = segment("experiment", "toy", "-o", tmp_path, "--budget", "papre")
    assert unknown.code == 2
    assert "Near: 'paper'" in unknown.error
    splitless = segment("experiment", "toy", "-o", tmp_path, "--splits", "1,2")
    assert splitless.code == 2
    assert (
        "toy has no splits and no sets; --splits, --sets and --finished are for uci and uncertainty-error."
        in splitless.error
    )
    for wrong in ("yatch", "yacht,yacht"):
        ended = segment("experiment", "uci", "-o", tmp_path, "--sets", wrong)
        assert ended.code == 2
        assert repr(wrong) in ended.error
        assert "yacht, boston" in ended.error
    for wrong in ("1,x", "0", "1,1"):
        ended = segment("experiment", "uci", "-o", tmp_path, "--splits", wrong)
        assert ended.code == 2
        assert repr(wrong) in ended.error
    missing = segment("experiment", "all", "-o", tmp_path / "out", "--data", tmp_path / "nowhere")
    assert missing.code == 2
    assert "--data DIR" in missing.error


def test_data_are_looked_for_in_the_working_folder_where_no_place_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    everything = segment("experiment", "all", "-o", "out")
    assert everything.code == 2
    assert "'data'" in everything.error
    assert "--data DIR" in everything.error
    single = segment("experiment", "uci", "-o", "out", "--sets", "yacht")
    assert single.code == 2
    assert str(Path("data", "uci", "yacht.csv")) in single.error


def test_what_a_killed_experiment_left_half_written_goes_and_a_second_process_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "toy"
    (out / ".toy.png.1-2.part").mkdir(parents=True)
    (out / ".page.md.1-2.part").touch()
    lock = lock_folder(out)
    refused = segment("experiment", "toy", "-o", out)
    assert refused.code == 2
    assert "Another process is writing" in refused.error
    assert len(list(out.glob(".*.part"))) == 2
    lock.release()
    assert segment("experiment", "toy", "-o", out).code == 0
    assert not list(out.glob(".*.part"))


def test_a_missing_extra_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    messages: list[str] = []
    with pytest.raises(MissingExtra, match=r"mcbn-segment\[plots\]"):
        reproduction.run_experiment("toy", tmp_path, budget="quick", data=tmp_path, progress=messages.append)
    assert messages == []


def test_an_unwritable_folder_is_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = segment("experiment", "train-scenes", "-o", tmp_path / "file" / "below")
    assert ended.code == 2
    assert "Cannot write" in ended.error
