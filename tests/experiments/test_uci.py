"""The regression experiments at their smallest: every file, the same bytes for a seed, and going on after a stop."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, ttest_1samp

from benchmarks import uci_splits
from segment.errors import WrongUse
from segment.experiments.regression import methods, toy
from segment.experiments.regression.methods import FLOW_BATCH, METHODS, Protocol, drawn_methods, folded
from segment.experiments.regression.reductions import reductions
from segment.experiments.regression.search import Race, SearchResult, race
from segment.experiments.regression.stack import standardised
from segment.experiments.regression.toy import ToyPlan
from segment.experiments.reproduction import run_experiment
from segment.experiments.uci import dropout_check, uncertainty_error
from segment.experiments.uci import experiment as uci
from segment.experiments.uci.data import FILES, random_split, read_table
from segment.experiments.uci.dropout_check import CheckPlan
from segment.experiments.uci.protocol_words import check_note, smaller_searches
from segment.experiments.uci.splits import PLANS, SETS, TAUS, Plan, Reduction, protocol_of, run_splits
from segment.experiments.uci.tables import columns_of
from segment.experiments.uci.uncertainty_error import running, spearman_with_interval

SMALL = Protocol(
    hidden=(8, 8),
    l2=(1e-3,),
    batches=(16, 64),
    dropouts=(0.05,),
    precisions=(10.0,),
    folds=2,
    race=Race(every=10, patience=2, epochs=20, draws=4),
    draws=30,
    members=2,
)
CHECKS = CheckPlan(sets=("yacht",), splits=2, epochs=5, choice_draws=5, draws=20)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stand-in for yacht: 120 rows whose noise grows with the first feature."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (120, 3))
    y = 5 + 3 * x[:, 0] + np.sin(3 * x[:, 1]) + rng.normal(size=120) * 0.4 * (1.2 + x[:, 0])
    (folder / "uci").mkdir()
    np.savetxt(folder / "uci" / "yacht.csv", np.column_stack([x, y]), delimiter=",", header="x1,x2,x3,y", comments="")
    return folder


PLAN = Plan(sets=("yacht",), splits=(1, 2), protocol=SMALL)


@pytest.fixture(scope="module")
def once(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uci")
    verdicts = uci.run(out, budget="quick", data=data, seed=3, plan=PLAN, checks=CHECKS)
    assert len(verdicts) == 5
    return out


def test_the_uci_experiment_leaves_tables_a_figure_and_verdicts(once: Path) -> None:
    names = {path.name for path in once.iterdir()}
    expected = {"uci.csv", "uci.md", "uci.png", "uci.svg", "uci_splits.csv", "uci_summary.md", "verdicts.md", "page.md"}
    assert expected <= names
    table = (once / "uci.csv").read_text().splitlines()
    assert len(table) == 1 + len(METHODS)
    assert not any(name.startswith(".") for name in names)


def test_a_difference_of_one_split_has_no_interval_and_no_verdict(data: Path, tmp_path: Path) -> None:
    plan = replace(PLAN, splits=(1,))
    verdicts = uci.run(tmp_path, budget="quick", data=data, seed=3, plan=plan, checks=CHECKS)
    beside = [verdict for verdict in verdicts if "on a par" in verdict.claim]
    assert [verdict.outcome for verdict in beside] == ["inconclusive"] * 2
    assert all("no interval, for one split of yacht has no variance" in verdict.numbers for verdict in beside)


@pytest.mark.parametrize(("spreads", "splits"), [((10.0,), 5), ((60.0, 5.0, 5.0), 5), ((60.0, 5.0), 3)])
def test_the_interval_of_a_difference_holds_the_truth_in_95_of_100_cases(
    spreads: tuple[float, ...], splits: int
) -> None:
    """Splits that share rows: a share of .2 of the variance, that of test parts a quarter of the training parts."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        shared, own = rng.normal(size=(len(spreads), 1)), rng.normal(size=(len(spreads), splits))
        by_set = np.array(spreads)[:, None] * (math.sqrt(0.2) * shared + math.sqrt(0.8) * own)
        low, high = uci.difference_interval(list(by_set), [0.25] * len(spreads))
        held.append(low <= 0 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_the_papers_scores_stand_beside_ours_for_the_methods_that_both_have(once: Path) -> None:
    section = (once / "page.md").read_text().split("### Beside the paper's table")[1].split("###")[0]
    rows = [line for line in section.splitlines() if line.startswith("| yacht")]
    assert [row.split(" | ")[1] for row in rows] == ["mcbn", "mcdo"]
    assert [row.split(" | ")[3] for row in rows] == ["-56.39", "21.42"]


def test_the_papers_t_test_of_our_scores_is_scipys_and_stands_beside_the_corrected_one(once: Path) -> None:
    splits = pd.read_csv(once / "uci_splits.csv")
    section = (once / "page.md").read_text().split("### Beside the paper's table")[1].split("###")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| yacht")]
    for row in rows:
        own = splits[splits["method"] == row[1]]
        for column, place in (("normalised_crps", 4), ("normalised_pll", 8)):
            p = ttest_1samp(own[column], 0, alternative="greater").pvalue
            assert row[place] == f"{p:.3f}", (row[1], column)
            assert row[place] != row[place + 1], "the corrected test takes the shared rows into account"


def test_the_same_seed_writes_the_same_tables_bit_for_bit(once: Path, data: Path, tmp_path: Path) -> None:
    uci.run(tmp_path, budget="quick", data=data, seed=3, plan=PLAN, checks=CHECKS)
    for name in ("uci.csv", "uci_splits.csv", "uci_dropout_check.csv", "uci.png", "verdicts.md"):
        assert (tmp_path / name).read_bytes() == (once / name).read_bytes(), name


def test_another_seed_gives_other_numbers(once: Path, data: Path, tmp_path: Path) -> None:
    plan = Plan(sets=("yacht",), splits=(1,), protocol=SMALL)
    result = run_splits(plan, data=data, kept=tmp_path, seed=4, say=lambda _: None)["yacht"][0]
    kept = json.loads((once / "kept" / "yacht-1.json").read_text())["result"]
    assert result.methods["mcbn"].scores.crps != kept["methods"]["mcbn"]["scores"]["crps"]


def test_a_stopped_run_goes_on_from_the_finished_splits(once: Path, data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    again = run_splits(PLAN, data=data, kept=once / "kept", seed=3, say=messages.append)
    assert messages == []
    assert [split.split for split in again["yacht"]] == [1, 2]


def test_what_other_settings_a_seed_or_data_made_is_neither_taken_nor_replaced(
    once: Path, data: Path, tmp_path: Path
) -> None:
    kept, others = tmp_path / "kept", tmp_path / "others"
    shutil.copytree(once / "kept", kept)
    (kept / "yacht-1.json").unlink()  # the second split is looked at before the first is computed
    before = (kept / "yacht-2.json").read_bytes()
    table = (data / "uci" / "yacht.csv").read_text()
    (others / "uci").mkdir(parents=True)
    (others / "uci" / "yacht.csv").write_text(table.replace("-", "", 1))
    messages: list[str] = []
    fewer = replace(PLAN, protocol=replace(SMALL, draws=31))
    for plan, folder, seed, named in ((fewer, data, 3, "draws"), (PLAN, data, 4, "seed"), (PLAN, others, 3, "data")):
        with pytest.raises(WrongUse, match=rf"yacht-2\.json' was made with other settings \({named}\)"):
            run_splits(plan, data=folder, kept=kept, seed=seed, say=messages.append)
        with pytest.raises(WrongUse, match="holds no finished split"):
            run_splits(replace(plan, finished=True), data=folder, kept=kept, seed=seed, say=messages.append)
    assert messages == []
    assert (kept / "yacht-2.json").read_bytes() == before

    shutil.rmtree(kept)
    kept.mkdir()
    shutil.copy(once / "kept" / "dropout-yacht.json", kept)
    with pytest.raises(WrongUse, match=r"dropout-yacht\.json' was made with other settings \(draws\)"):
        uci.run(
            tmp_path,
            budget="quick",
            data=data,
            seed=3,
            plan=PLAN,
            checks=replace(CHECKS, draws=21),
            progress=messages.append,
        )
    assert messages == []


def test_a_set_whose_data_are_missing_is_named_before_anything_is_computed(data: Path, tmp_path: Path) -> None:
    messages: list[str] = []
    with pytest.raises(WrongUse, match=r"'wine' is not at .*wine_red\.csv"):
        run_splits(replace(PLAN, sets=("yacht", "wine")), data=data, kept=tmp_path, seed=3, say=messages.append)
    assert messages == []


@pytest.mark.parametrize("damage", ["", "{half", "[]", "[" * 100_000, '{"settings": 1}'])
def test_a_finished_split_that_is_damaged_is_named(once: Path, data: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(once / "kept", tmp_path / "kept")
    for name in ("yacht-1.json", "dropout-yacht.json"):
        (tmp_path / "kept" / name).write_text(damage)
        with pytest.raises(WrongUse, match=rf"{name}' is damaged.* Remove it"):
            uci.run(tmp_path, budget="quick", data=data, seed=3, plan=PLAN, checks=CHECKS)
        shutil.copy(once / "kept" / name, tmp_path / "kept" / name)


def test_the_trained_statistics_are_their_own_constant(once: Path, data: Path) -> None:
    for split in run_splits(PLAN, data=data, kept=once / "kept", seed=3, say=lambda _: None)["yacht"]:
        assert split.methods["trained statistics"].scores.normalised_crps == pytest.approx(0, abs=1e-6)
        for scored in split.methods.values():
            assert scored.scores.crps_optimal <= scored.scores.crps
            assert len(scored.errors) == len(split.rows) == 24


def test_a_batch_of_all_rows_scores_as_the_constant(data: Path, tmp_path: Path) -> None:
    whole = Plan(sets=("yacht",), splits=(1,), protocol=replace(SMALL, batches=(1024,)))
    split = run_splits(whole, data=data, kept=tmp_path, seed=0, say=lambda _: None)["yacht"][0]
    assert split.methods["mcbn"].scores.normalised_crps == pytest.approx(0, abs=1e-6)


def test_a_method_that_sees_the_noise_beats_the_constant_by_the_reported_p(once: Path, data: Path) -> None:
    splits = run_splits(PLAN, data=data, kept=once / "kept", seed=3, say=lambda _: None)["yacht"]
    column = columns_of(splits, "mcbn")
    scores = [split.methods["mcbn"].scores for split in splits]
    assert column.crps_gain.tolist() == [score.crps_constant - score.crps for score in scores]
    assert column.pll_gain.tolist() == [score.pll - score.pll_constant for score in scores]


def test_splits_can_be_chosen_and_finished_ones_serve_both_experiments(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLANS, "quick", PLAN)
    monkeypatch.setattr(uci, "CHECKS", {"quick": CHECKS})
    messages: list[str] = []
    run_experiment("uci", tmp_path / "uci", budget="quick", data=data, splits=(4, 2))
    run_experiment(
        "uncertainty-error",
        tmp_path / "uncertainty-error",
        budget="quick",
        data=data,
        splits=(2, 4),
        progress=messages.append,
    )
    assert messages == []
    page = (tmp_path / "uci" / "page.md").read_text()
    assert "--splits 4,2`" in page
    assert "boston, energy, wine, concrete, kin8nm, power, protein, splits 1, 3, 5." in page


def test_finished_splits_alone_make_a_page_that_says_what_each_set_has(
    once: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Boston has the scores of yacht's first split: a set of one split, beside one of two and sets of none."""
    monkeypatch.setitem(PLANS, "paper", replace(PLAN, sets=("yacht", "boston", "wine")))
    monkeypatch.setattr(uci, "CHECKS", {"paper": replace(CHECKS, sets=SETS)})
    kept = tmp_path / "uci" / "kept"
    shutil.copytree(once / "kept", kept)
    copied = json.loads((kept / "yacht-1.json").read_text())
    copied["settings"]["taus"] = list(TAUS["boston"])
    copied["result"]["name"] = "boston"
    (kept / "boston-1.json").write_text(json.dumps(copied))
    messages: list[str] = []
    verdicts = run_experiment(
        "uci", tmp_path / "uci", budget="paper", data=data, seed=3, finished=True, progress=messages.append
    )
    page = " ".join((tmp_path / "uci" / "page.md").read_text().split())
    assert messages == []
    assert "--seed 3 --finished`" in page
    assert "sets yacht, boston; 80/20 splits with seeds 1, 2 (boston: 1);" in page
    assert "energy, wine, concrete, kin8nm, power, protein, split 2 of boston." in page
    beside = [verdict.numbers for verdict in verdicts if "on a par" in verdict.claim]
    alone = [
        verdict.numbers
        for verdict in uci.run(tmp_path / "one", budget="paper", data=data, seed=3, plan=PLAN, checks=CHECKS, kept=kept)
        if "on a par" in verdict.claim
    ]
    assert [numbers.replace(", without boston of one split", "") for numbers in beside] == alone

    (kept / "dropout-yacht.json").unlink()
    verdicts = run_experiment("uci", tmp_path / "uci", budget="paper", data=data, seed=3, finished=True)
    assert len(verdicts) == 4
    assert "MC dropout on the standard splits" not in (tmp_path / "uci" / "page.md").read_text()
    with pytest.raises(WrongUse, match="holds no finished split of wine"):
        run_experiment("uci", tmp_path / "uci", budget="paper", data=data, seed=3, sets=("wine",), finished=True)


def test_the_paper_plan_is_the_papers_grid() -> None:
    plan = PLANS["paper"]
    assert plan.splits == (1, 2, 3, 4, 5)
    assert plan.protocol.batches == (32, 64, 128, 256, 512, 1024)
    assert plan.protocol.dropouts == (0.2, 0.1, 0.05, 0.01, 0.005, 0.001)
    assert plan.protocol.l2 == pytest.approx([10.0**-power for power in range(1, 16)])
    assert set(plan.sets) == set(FILES)
    race = plan.protocol.race
    assert (race.every, race.patience, race.epochs, plan.protocol.draws, plan.protocol.folds) == (20, 10, 2000, 500, 5)
    assert not race.rungs
    assert race.of == plan.protocol.draws
    assert (plan.protocol.flow_rate, plan.protocol.flow_steps) == (1e-3, None)


def test_a_page_says_what_was_reduced_against_the_paper_and_nothing_where_nothing_was(once: Path) -> None:
    assert "Reduced against the paper's protocol: L2 takes 1 of its 15 values" in (once / "page.md").read_text()
    assert reductions(PLANS["paper"].protocol) == ""
    assert "successive halving" in reductions(PLANS["quick"].protocol)


def test_the_toy_experiment_names_all_that_it_reduces() -> None:
    whole = reductions(toy.PLANS["paper"].protocol)
    assert "L2 takes 3 of its 15 values; the mini-batch takes 2 of its 6 values" in whole
    assert "at most 1000 epochs instead of 2000" in whole
    assert "dropped at epochs 100, 300 (successive halving)" in whole
    assert "that of 20 draws instead of 500" in whole
    assert "MNF is trained faster and shorter (0.003, at most 2000 steps)" in whole


@pytest.mark.parametrize("name", ["kin8nm", "power", "protein"])
def test_a_smaller_search_compares_by_more_rows_and_no_fewer_steps_than_one_of_a_small_set(
    name: str, shared_data: Path
) -> None:
    plan = PLANS["paper"]

    def search(name: str) -> tuple[int, dict[int, int]]:
        """Rows held out in the search, and by mini-batch the steps of its longest training."""
        protocol = protocol_of(plan, name)
        train, _ = random_split(rows[name], 1)
        held = len(train) // protocol.folds
        fold = len(train) - held
        folds = protocol.search_folds or protocol.folds
        batches = (*plan.protocol.batches, FLOW_BATCH)
        return held * folds, {batch: fold // min(batch, fold) * protocol.race.epochs for batch in batches}

    rows = {name: read_table(shared_data, name).rows for name in SETS}
    held, steps = search(name)
    for small in SETS[: SETS.index("kin8nm")]:
        held_small, steps_small = search(small)
        assert held > held_small
        assert all(steps[batch] >= steps_small[batch] for batch in steps)


def test_a_smaller_search_sees_one_fold_and_tau_is_fitted_on_all(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reduced = Reduction(every=5, epochs=10, l2=(1e-2, 1e-3), search_folds=1)
    protocol = protocol_of(replace(PLAN, reduced={"yacht": reduced}), "yacht")
    assert (protocol.race.every, protocol.race.epochs, protocol.l2) == (5, 10, (1e-2, 1e-3))
    seen: list[tuple[int, int]] = []

    def watched(training: Any, groups: list[int], folds: int, plan: Race) -> SearchResult:
        seen.append((folds, len(set(training.sets.tolist())) if hasattr(training, "sets") else folds))
        return race(training, groups, folds, plan)

    monkeypatch.setattr(methods, "race", watched)
    table = read_table(data, "yacht")
    train, test = random_split(table.rows, 1)
    folds = folded(train, table.x, table.y, protocol, 0)
    final = standardised(table.x, table.y, train[None], test[None])
    drawn = list(drawn_methods(folds, final, protocol, 0, lambda _: None))
    assert seen == [(1, 1)] * 4  # two sizes of a mini-batch, dropout, MNF
    assert [len(each.folds) for each in drawn] == [protocol.folds] * len(METHODS)


def test_splits_that_are_kept_with_the_project_are_of_the_papers_plan(tmp_path: Path) -> None:
    kept = sorted((Path(__file__).parents[2] / "docs" / "measured" / "uci").glob("*.json"))
    assert kept
    for path in kept:
        name, split = path.stem.split("-")
        plan = replace(PLANS["paper"], sets=(name,), splits=(int(split),))
        said: list[str] = []
        ((found,),) = run_splits(plan, data=tmp_path, kept=path.parent, seed=0, say=said.append).values()
        assert (found.name, found.split, said) == (name, int(split), [])


def test_the_page_says_whose_search_is_smaller() -> None:
    assert smaller_searches(PLANS["paper"], ("yacht", "wine")) == ""
    said = " ".join(smaller_searches(PLANS["paper"], SETS).split())
    assert "The search of kin8nm, power, protein is smaller. L2 takes 6 of its 15 values, none below 1e-06" in said
    assert "every few epochs (4 on kin8nm, 4 on power, 1 on protein), at most 400 on kin8nm" in said


def test_the_check_trains_as_long_as_its_page_says_and_keeps_what_it_was_made_with(once: Path) -> None:
    lengths = {name: reference.epochs for name, reference in dropout_check.REFERENCES.items()}
    assert {name for name, length in lengths.items() if length != 4000} == {"protein"}
    assert lengths["protein"] == 2000
    whole = check_note(CheckPlan())
    assert "4000 epochs (protein 2000; the reference's figures are of these, ten times the 400" in whole
    assert "all standard splits (20; protein 5)" in whole
    assert "5 epochs (the reference's figures are of 4000, protein 2000)" in (once / "page.md").read_text()
    kept = json.loads((once / "kept" / "dropout-yacht.json").read_text())
    assert kept["settings"]["reference"]["epochs"] == 4000


def test_the_check_calls_two_standard_errors_within() -> None:
    reference = dropout_check.REFERENCES["yacht"]  # 0.67 ± 0.05, -1.25 ± 0.01
    near = {"yacht": ([reference.rmse[0] + 0.09, reference.rmse[0] + 0.11], [-1.24, -1.23])}
    far = {"yacht": ([reference.rmse[0] + 0.12, reference.rmse[0] + 0.11], [-1.24, -1.23])}
    assert dropout_check.check_verdict(near, complete=True).outcome == "reproduced"
    assert dropout_check.check_verdict(far, complete=True).outcome == "not reproduced"
    assert dropout_check.check_verdict(near, complete=False).outcome == "not testable here"


def test_sorted_errors_leave_a_figure_and_a_rank_correlation(once: Path, data: Path, tmp_path: Path) -> None:
    verdicts = uncertainty_error.run(tmp_path, budget="quick", data=data, seed=3, plan=PLAN, kept=once / "kept")
    assert [verdict.experiment for verdict in verdicts] == ["uncertainty-error"] * 3
    assert (tmp_path / "uncertainty_error.png").stat().st_size > 10_000
    assert len((tmp_path / "uncertainty_error.csv").read_text().splitlines()) == 4


def test_splits_without_the_numbers_of_their_rows_serve_the_table_and_are_refused_for_sorted_errors(
    once: Path, data: Path, tmp_path: Path
) -> None:
    for number in PLAN.splits:
        uci_splits.slim(once / "kept" / f"yacht-{number}.json", tmp_path / "kept")
    uci.run(tmp_path, budget="quick", data=data, seed=3, plan=PLAN, checks=CHECKS)
    assert (tmp_path / "uci.csv").read_bytes() == (once / "uci.csv").read_bytes()
    with pytest.raises(WrongUse, match=r"split yacht-1\.json has no errors of its \d+ test rows"):
        uncertainty_error.run(tmp_path / "sorted", budget="quick", data=data, plan=PLAN, seed=3, kept=tmp_path / "kept")


def test_the_rank_correlation_is_scipys_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(1)
    spreads = np.round(rng.uniform(1, 2, 300), 2)  # with ties
    errors = np.abs(rng.normal(size=300)) * spreads**3
    rows = np.repeat(np.arange(150.0), 2)
    value, low, high = spearman_with_interval(errors, spreads, rows, seed=0)
    assert value == pytest.approx(float(spearmanr(errors, spreads).statistic))
    assert 0 < low < value < high < 1


def test_rows_tested_twice_are_drawn_as_one() -> None:
    rng = np.random.default_rng(2)
    spreads = rng.uniform(1, 2, 100)
    errors = np.abs(rng.normal(size=100)) * spreads
    single = spearman_with_interval(errors, spreads, np.arange(100.0), seed=0)
    doubled = spearman_with_interval(np.tile(errors, 2), np.tile(spreads, 2), np.tile(np.arange(100.0), 2), seed=0)
    assert doubled == pytest.approx(single)


def test_a_constant_uncertainty_has_no_rank_correlation() -> None:
    value, low, high = spearman_with_interval(np.arange(50.0), np.ones(50), np.arange(50.0), seed=0)
    assert value == low == high == 0


def test_the_running_mean_and_sd_are_those_of_each_window() -> None:
    values = np.random.default_rng(3).normal(size=40)
    mean, spread = running(values, 0.25)
    for at in range(40):
        window = values[max(at - 5, 0) : at + 6]
        assert mean[at] == pytest.approx(window.mean())
        assert spread[at] == pytest.approx(window.std())


def test_the_toy_experiment_measures_coverage_inside_and_outside(tmp_path: Path) -> None:
    plan = ToyPlan(repeats=2, rows=60, points=101, protocol=SMALL)
    verdicts = toy.run(tmp_path, budget="quick", data=tmp_path, plan=plan)
    assert len(verdicts) == 3
    (said,) = (line for line in (tmp_path / "page.md").read_text().splitlines() if line.startswith("Reduced against"))
    assert "2 folds instead of 5; at most 20 epochs instead of 2000; patience 2 instead of 10" in said
    table = (tmp_path / "toy.csv").read_text().splitlines()
    assert len(table) == 1 + len(METHODS) + 1  # the constant too
    cells = dict(zip(table[0].split(","), table[1].split(","), strict=True))
    assert 0 <= float(cells["coverage inside"]) <= 1
    assert (tmp_path / "toy.svg").is_file()


def test_the_toy_points_inside_are_those_of_the_pieces() -> None:
    assert toy.inside(np.array([-2.1, -1.5, 0.0, 0.5, 1.2, 2.0, 3.0])).tolist() == [
        False,
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    assert toy.curve(np.zeros(1))[0] == 0
    assert math.isclose(toy.QUANTILE, 1.96, abs_tol=1e-3)


@pytest.mark.slow
def test_the_quick_budget_runs_on_the_real_sets(tmp_path: Path, shared_data: Path) -> None:
    verdicts = uci.run(tmp_path, budget="quick", data=shared_data)
    table = (tmp_path / "uci.csv").read_text()
    assert "yacht" in table
    assert "boston" in table
    assert len(verdicts) == 5
