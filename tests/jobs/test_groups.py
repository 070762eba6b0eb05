"""Evaluations, sweeps and tunings over groups of images: where groups are said, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import invoked
from labelled_scenes import bank_of_scenes, written

from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.estimation.estimator import Estimator
from segment.files.banks.bank_file import save_bank
from segment.guarantees.groups import TableOfGroups, groups_given, groups_of
from segment.guarantees.triage import TriagePlan
from segment.images.read import read_image, read_label
from segment.jobs.decisions.compare import compare
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.from_python import evaluate
from segment.jobs.labelled.images import Labels
from segment.jobs.report import report
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Grid
from segment.jobs.sweeping.states import SweepPlan
from segment.jobs.triage.calibration import calibrate_triage
from segment.networks.load import Network
from segment.scenes.scene import TEST

QUICK = MethodPlan(methods=("mcbn", "deterministic"), measures=("predictive_entropy",), precision="fp32")
PATIENTS = {f"s{seed}": f"patient {number // 2}" for number, seed in enumerate(TEST[:8])}


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return bank_of_scenes(network, images=12, draws=4)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return written(tmp_path_factory.mktemp("data"), TEST[:8])


def table(path: Path, groups: dict[str, str], column: str = "patient") -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", column), *groups.items()])
    return path


def numbers(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: method["scores"] for name, method in content["methods"].items()}


def test_an_evaluation_over_groups_says_so_and_its_intervals_are_over_them(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    plan = EvaluatePlan(methods=QUICK, groups=PATIENTS)
    found = evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan)
    apart = evaluate_into(network, data, tmp_path / "apart", banks=[bank], plan=replace(plan, groups=None))
    assert (found.scores["images"], found.scores["groups"], "groups" in apart.scores) == (8, 4, False)
    assert any("numbered as frames" in line for line in apart.warnings)
    assert not any("numbered as frames" in line for line in found.warnings)
    grouped, single = (each.scores["methods"]["mcbn"]["scores"]["nll"] for each in (found, apart))
    assert grouped["value"] == single["value"]
    assert (grouped["low"], grouped["high"]) != (single["low"], single["high"])
    entry = found.scores["methods"]["mcbn"]["scores"]["accuracy_rank_mean.predictive_entropy"]
    assert entry["low"] is not None
    ranking = json.loads((tmp_path / "run" / "ranking.json").read_text())["methods"]["mcbn"]["columns"]
    assert ranking["mean.predictive_entropy"]["accuracy"]["spearman"]["low"] == pytest.approx(entry["low"])
    page = tmp_path / "report.html"
    report([tmp_path / "run"], page)
    assert "with 95 % intervals over groups" in page.read_text()


def test_a_run_that_goes_on_over_other_groups_scores_all_images_again(
    network: Network, bank: Bank, data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = EvaluatePlan(methods=QUICK, groups=PATIENTS)

    def cut(stage: str, done: int, total: int, draws: int = 0) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan, progress=cut)
    other = replace(plan, groups={name: name[-1] for name in PATIENTS})
    with pytest.raises(WrongUse, match="groups"):
        evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=replace(plan, groups="folder"), resume=True)
    begun: list[int] = []
    made = evaluate_into(
        network,
        data,
        tmp_path / "run",
        banks=[bank],
        plan=other,
        resume=True,
        progress=lambda stage, done, total, draws=0: begun.append(done),
    )
    assert begun[0] == 0
    whole = evaluate_into(network, data, tmp_path / "whole", banks=[bank], plan=other)
    assert numbers(made.scores) == numbers(whole.scores)
    taken: list[int] = []
    monkeypatch.setattr(Estimator, "__call__", lambda *given: taken.append(1))
    again = evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=other, resume=True)
    assert numbers(again.scores) == numbers(whole.scores)
    assert taken == [], "what is scored over these groups stays"


def test_the_column_of_a_list_and_a_table_name_the_same_groups_on_the_command_line(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    save_bank(bank, tmp_path / "bank.safetensors")
    images = sorted(Path(data.images).iterdir())
    with (tmp_path / "list.csv").open("w", newline="") as stream:
        rows = [(path, Path(str(data.labels)) / path.name, PATIENTS[path.stem]) for path in images]
        csv.writer(stream).writerows([("image", "label", "patient"), *rows])
    words = ["--bank", tmp_path / "bank.safetensors", "--methods", "mcbn,deterministic", "--precision", "fp32"]
    listed = ["--images", tmp_path / "list.csv", "--groups", "patient", "-o", tmp_path / "by list"]
    given = ["--images", data.images, "--labels", data.labels, "--groups", "patient", "-o", tmp_path / "by table"]
    given += ["--groups-table", table(tmp_path / "patients.csv", PATIENTS)]
    shown = [invoked("evaluate", "scenes", *some, *words) for some in (listed, given)]
    for each in shown:
        assert each.exit_code == 0, each.output
        assert "8 images in 4 groups" in each.output
        assert "With 4 groups no difference can be significant: 6 are the least." in each.output
    first, second = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("by list", "by table"))
    assert first["groups"] == second["groups"] == 4
    assert numbers(first)["mcbn"]["nll"]["high"] == numbers(second)["mcbn"]["nll"]["high"]
    refused = invoked("evaluate", "scenes", *listed[:2], "--groups", "site", "-o", tmp_path / "no", *words)
    assert "'site' is neither folder nor sequence, nor a column of the list of images" in str(refused.exception)
    assert not (tmp_path / "no").exists()


def test_a_sweep_over_groups_has_their_intervals_and_goes_on_with_no_others(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    train = str(data.images)
    plan = SweepPlan(grid=Grid(batches=(4,), draws=(2,), transforms=("plain",)), methods=QUICK, groups=PATIENTS)
    found = sweep(network, data, train, tmp_path / "sweep", plan)
    assert json.loads((tmp_path / "sweep" / "scores.json").read_text())["groups"] == 4
    apart = sweep(network, data, train, tmp_path / "apart", replace(plan, groups=None))
    for grouped, single in zip(found.rows, apart.rows, strict=True):
        assert grouped.nll == single.nll
        assert grouped.result["scores"]["nll"]["high"] != single.result["scores"]["nll"]["high"]
    with pytest.raises(WrongUse, match="groups table: other files"):
        sweep(network, data, train, tmp_path / "sweep", replace(plan, groups={n: n for n in PATIENTS}), resume=True)
    same = sweep(network, data, train, tmp_path / "sweep", plan, resume=True)
    assert [row.result["scores"] for row in same.rows] == [row.result["scores"] for row in found.rows]


def test_the_command_of_a_sweep_takes_a_table_of_groups(data: Labels, tmp_path: Path) -> None:
    words = ["scenes", "--train", data.images, "--images", data.images, "--labels", data.labels, "--batches", "4"]
    words += ["--draws", "2", "--transforms", "plain", "--no-plots", "-o", tmp_path / "sweep"]
    groups = ["--groups", "patient", "--groups-table", table(tmp_path / "patients.csv", PATIENTS)]
    ended = invoked("sweep", *words, *groups)
    assert ended.exit_code == 0, ended.output
    assert json.loads((tmp_path / "sweep" / "scores.json").read_text())["groups"] == 4
    assert json.loads((tmp_path / "sweep" / "run.json").read_text())["settings"]["groups"] == "patient"


def test_tune_takes_groups_as_the_other_commands_do(data: Labels, tmp_path: Path) -> None:
    words = ["scenes", "--train", data.images, "--images", data.images, "--labels", data.labels]
    words += ["--passes", "1", "--batches", "4"]
    refused = invoked("tune", *words, "--groups", tmp_path / "patients.csv", "-o", tmp_path / "no")
    assert "--groups-table CSV" in str(refused.exception)
    one = table(tmp_path / "one.csv", dict.fromkeys(PATIENTS, "the same"))
    refused = invoked("tune", *words, "--groups", "patient", "--groups-table", one, "-o", tmp_path / "no")
    assert "names one group for all images" in str(refused.exception)


def test_images_in_python_have_their_groups_in_order(network: Network, bank: Bank, data: Labels) -> None:
    labels = Path(str(data.labels))
    held = [(read_image(path), read_label(labels / path.name)) for path in sorted(Path(data.images).iterdir())]
    more: dict[str, Any] = {"bank": bank, "methods": "mcbn", "draws": 2}
    found = evaluate(network, held, groups=list(PATIENTS.values()), **more)
    assert found.scores["groups"] == 4
    for names in (list(PATIENTS.values())[:5], [*PATIENTS.values(), "another"]):
        with pytest.raises(WrongUse, match=f"groups= has {len(names)} names for 8 images"):
            evaluate(network, held, groups=names, **more)
    nobodies: tuple[Any, ...] = (None, float("nan"), "")
    for nobody in nobodies:
        with pytest.raises(WrongUse, match="groups= names no group for 1 of 8 images, as '000000'"):
            evaluate(network, held, groups=[nobody, *list(PATIENTS.values())[1:]], **more)
    numbered: Any = {f"{number:06d}": number // 2 for number in range(8)}
    assert evaluate(network, held, groups=numbered, **more).scores["groups"] == 4, "numbers are names too"
    with pytest.raises(WrongUse, match="is for images that you hold"):
        evaluate(network, data, groups=list(PATIENTS.values()), **more)
    with pytest.raises(WrongUse, match="in the plan already"):
        evaluate(network, held, bank=bank, plan=EvaluatePlan(methods=QUICK), groups="sequence")


def test_groups_are_those_of_ids_a_table_or_a_list(tmp_path: Path) -> None:
    ids = ["a/1", "a/2", "b/3"]
    assert groups_of(ids, None) is None
    assert groups_of(ids, "folder") == {"a/1": "a", "a/2": "a", "b/3": "b"}
    assert groups_of(ids, {"a/1": "x", "a/2": "y", "b/3": "x", "c": "z"}) == {"a/1": "x", "a/2": "y", "b/3": "x"}
    assert groups_of(ids, "site", {i: {"site": i[0]} for i in ids}) == {"a/1": "a", "a/2": "a", "b/3": "b"}
    with pytest.raises(
        WrongUse, match="column 'site' of the list of images names no group for 1 of 3 images, as 'b/3'"
    ):
        groups_of(ids, "site", {"a/1": {"site": "a"}, "a/2": {"site": "a"}})
    with pytest.raises(WrongUse, match="needs --groups-table CSV too"):
        groups_of(ids, "site")
    with pytest.raises(WrongUse, match="needs --groups COLUMN"):
        groups_given(None, tmp_path / "groups.csv")


def test_a_triage_and_a_comparison_take_the_groups_of_the_evaluation(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    patients = TableOfGroups("patient", PATIENTS)
    run, other, apart = tmp_path / "run", tmp_path / "other", tmp_path / "apart"
    for folder, groups, draws in ((run, patients, 4), (other, patients, 2), (apart, None, 4)):
        plan = EvaluatePlan(methods=replace(QUICK, draws=draws), groups=groups)
        evaluate_into(network, data, folder, banks=[bank], plan=plan)
    assert (run / "groups.csv").read_text().splitlines()[:2] == ["id,group", f"s{TEST[0]},patient 0"]
    asked = TriagePlan(max_error=0.3)
    triage = calibrate_triage(run, asked)
    assert (triage.reference.groups, triage.decisions["pixel"].groups) == ("patient", 4)
    assert triage == calibrate_triage(run, asked, groups="patient")
    table(tmp_path / "patients.csv", PATIENTS)
    given = calibrate_triage(apart, asked, groups="patient", table=tmp_path / "patients.csv")
    assert given.decisions == triage.decisions
    with pytest.raises(WrongUse, match="19"):
        calibrate_triage(run, TriagePlan(max_error=0.05))
    assert compare(run, other).over == compare(run, other, groups="patient").over == "groups"
    assert compare(run, other, groups="sequence").over == "groups"
    assert compare(apart, apart, other_method="deterministic").over == "images"
    with pytest.raises(WrongUse, match="'site' is neither"):
        compare(run, other, groups="site")
    others = tmp_path / "others"
    evaluate_into(network, written(tmp_path / "more", TEST[:9]), others, banks=[bank], plan=EvaluatePlan(methods=QUICK))
    notes = compare(run, others).notes
    assert any("A was scored over groups (patient), and not all images of B are in them" in note for note in notes)
    plain = EvaluatePlan(methods=QUICK)
    (apart / "groups.csv").write_text("id,group\n")
    evaluate_into(network, data, apart, banks=[bank], plan=replace(plain, methods=replace(QUICK, draws=4)), resume=True)
    assert not (apart / "groups.csv").exists()


def test_groups_without_a_name_are_groups_and_lost_ones_are_not_guessed(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    """Images at the top of a tree are in the folder "", and ids of numbers alone in the sequence ""."""
    for number, path in enumerate(sorted(Path(data.images).iterdir())):
        for kind, source in (("images", path), ("labels", Path(str(data.labels)) / path.name)):
            there = tmp_path / kind / ("" if number < 2 else f"site {number // 2}") / path.name
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, there)
    tree, run = Labels(tmp_path / "images", tmp_path / "labels"), tmp_path / "run"
    evaluate_into(network, tree, run, banks=[bank], plan=EvaluatePlan(methods=QUICK, groups="folder"))
    asked = TriagePlan(max_error=0.3)
    triage = calibrate_triage(run, asked)
    assert (triage.reference.groups, triage.decisions["pixel"].groups) == ("folder", 4)
    assert triage.decisions == calibrate_triage(run, asked, groups="folder").decisions
    assert compare(run, run, other_method="deterministic").over == "groups"
    (run / "groups.csv").unlink()
    with pytest.raises(WrongUse, match=r"scored over groups \(folder\), and its groups\.csv is gone"):
        calibrate_triage(run, asked)


def test_a_triage_is_checked_over_the_groups_of_the_evaluation(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    plan = EvaluatePlan(methods=QUICK, groups=TableOfGroups("patient", PATIENTS))
    evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan)
    triage = calibrate_triage(tmp_path / "run", TriagePlan(max_error=0.3))
    checked = evaluate_into(network, data, tmp_path / "again", banks=[bank], plan=plan, triage=triage).triaged
    assert checked is not None
    assert not any("is not known" in line for line in checked["text"]), checked["text"]
    apart = evaluate_into(
        network, data, tmp_path / "apart", banks=[bank], plan=EvaluatePlan(methods=QUICK), triage=triage
    ).triaged
    assert apart is not None
    assert any("patient of these images is not known" in line for line in apart["text"])
