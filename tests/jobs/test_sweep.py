"""Laws of sweeps: shared prefixes, banks kept, layers and alpha between the trained network and MCBN, and shift."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from console import invoked
from labelled_scenes import written

from benchmarks.cost_tables import curves_table
from segment.batch_norm.network import bn_network_of
from segment.errors import MissingExtra, WrongUse
from segment.files.banks.bank_file import save_bank
from segment.files.writing import write_png
from segment.images.read import read_image
from segment.images.transforms.corrupt import CORRUPTIONS, SEVERITIES, corrupted, corruption
from segment.jobs.decisions.compare import compare
from segment.jobs.decisions.select import select
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import METHODS, MethodPlan
from segment.jobs.labelled.images import Labels
from segment.jobs.report import _rows, report
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Banks, Grid, blended, chosen_layers
from segment.jobs.sweeping.states import SWEPT, SweepPlan
from segment.jobs.sweeping.tables import best_rows, sweep_csv
from segment.methods.augmentation import View
from segment.networks.load import Network, load_network
from segment.pictures.plots import Line, plot
from segment.report.curves import plot_sweep
from segment.report.html.charts import sweep_charts
from segment.report.html.page import _content_of
from segment.report.results import CLEAN, OVER, Row, Setting, Sweep
from segment.report.results_page import sweep_section
from segment.report.run_files.saved_run import load_run
from segment.report.sweep_words import shown_names, sweep_sentences
from segment.scenes.scene import TEST, TRAIN, VALIDATION, scene


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    folder = tmp_path_factory.mktemp("test")
    for seed in TEST[:6]:
        drawn = scene(seed, size=(64, 96))
        write_png(folder / "images" / f"{seed}.png", drawn.image)
        write_png(folder / "labels" / f"{seed}.png", drawn.label)
    return Labels(folder / "images", folder / "labels")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("train")
    for seed in TRAIN[:16]:
        write_png(folder / f"{seed}.png", scene(seed).image)
    return str(folder)


GRID = Grid(batches=(8,), draws=(1, 2, 4, 8), seeds=(0, 1))


@pytest.fixture(scope="module")
def swept(network: Network, data: Labels, train: str, tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    folder = tmp_path_factory.mktemp("sweep") / "run"
    plan = SweepPlan(grid=GRID, shifts=("noise",), severities=(5,), adapt=True)
    return sweep(network, data, train, folder, plan)


def score(row: Row, name: str) -> dict[str, Any]:
    entry: dict[str, Any] = row.result["scores"][name]
    return entry


def of(swept: Sweep, condition: str = "clean", **wanted: object) -> list[Row]:
    return [
        row
        for row in swept.rows
        if row.condition == condition and all(getattr(row, key) == value for key, value in wanted.items())
    ]


def test_the_log_likelihood_does_not_fall_with_more_draws_beyond_its_interval(swept: Sweep) -> None:
    """The mean of more draws is at least as good on average: the logarithm is concave."""
    for setting in GRID.settings():
        rows = sorted(of(swept, method="mcbn", setting=setting), key=lambda row: row.draws)
        assert [row.draws for row in rows] == [1, 2, 4, 8]
        for fewer, more in pairwise(rows):
            low, high = score(fewer, "nll")["low"], score(fewer, "nll")["high"]
            assert low < high
            assert score(more, "nll")["value"] <= high
        assert score(rows[-1], "nll")["value"] < score(rows[0], "nll")["value"]


def test_a_prefix_of_a_sweep_is_what_evaluate_finds_with_that_many_draws(
    network: Network, data: Labels, train: str, swept: Sweep, tmp_path: Path
) -> None:
    setting = Setting(batch=8)
    banks = [Banks(network, train, swept.folder / "banks", 8).bank(setting, seed) for seed in (0, 1)]
    before = {path: path.stat().st_mtime_ns for path in (swept.folder / "banks").iterdir()}
    plan = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), draws=4, precision="fp32", measures=("variance",)))
    alone = evaluate_into(network, data, tmp_path / "run", banks=banks, plan=plan).scores["methods"]["mcbn"]["scores"]
    (row,) = of(swept, method="mcbn", setting=setting, draws=4)
    for name in ("nll", "miou", "error_auroc.variance"):
        assert score(row, name)["value"] == pytest.approx(alone[name]["value"], abs=1e-5)
        assert score(row, name)["bank_sd"] == pytest.approx(alone[name]["bank_sd"], abs=1e-5)
    assert {path: path.stat().st_mtime_ns for path in (swept.folder / "banks").iterdir()} == before


def test_an_object_of_a_class_that_the_card_calls_unseen_is_scored_and_fails_no_image(
    network: Network, train: str, tmp_path: Path
) -> None:
    assert network.card.unseen
    for seed in TEST[:2]:
        drawn = scene(seed, size=(64, 96), unseen=True)
        write_png(tmp_path / "images" / f"{seed}.png", drawn.image)
        write_png(tmp_path / "labels" / f"{seed}.png", drawn.label)
    plan = SweepPlan(grid=Grid(batches=(4,), draws=(2,)), methods=replace(SWEPT, methods=("mcbn",), precision="fp32"))
    result = sweep(network, Labels(tmp_path / "images", tmp_path / "labels"), train, tmp_path / "run", plan)
    assert result.failed == {}
    assert score(result.rows[0], "unseen_auroc.mutual_information")["value"] > 0


def test_without_any_of_a_draw_the_network_is_the_trained_one(network: Network, train: str, tmp_path: Path) -> None:
    bank = Banks(network, train, tmp_path, 2).bank(Setting(batch=4), 0)
    drawn = bn_network_of(network)
    nothing, half, everything = (blended(bank, drawn, alpha) for alpha in (0.0, 0.5, 1.0))
    for layer in drawn.stochastic:
        assert layer.trained is not None
        for draws, trained in ((nothing.mean, layer.trained[0]), (nothing.var, layer.trained[1])):
            np.testing.assert_array_equal(draws[layer.name].numpy(), np.stack([trained.numpy()] * 2))
        middle = (nothing.mean[layer.name] + everything.mean[layer.name]) / 2
        np.testing.assert_allclose(half.mean[layer.name].numpy(), middle.numpy(), rtol=1e-5, atol=1e-6)


def test_encoder_and_decoder_part_the_layers_and_first_and_last_are_one_each(network: Network) -> None:
    drawn = bn_network_of(network)
    names = {
        part: [layer.name for layer in chosen_layers(drawn, part).stochastic]
        for part in ("all", "encoder", "decoder", "first", "last", "up?.*+bottom.*")
    }
    assert names["encoder"] + names["decoder"] == names["all"]
    assert names["encoder"][-1].startswith("bottom.")  # the smallest map
    assert names["first"] == names["all"][:1]
    assert names["last"] == names["all"][-1:]
    assert names["up?.*+bottom.*"] == [name for name in names["all"] if name.startswith(("up", "bottom"))]
    unet = bn_network_of(load_network("smp:Unet?encoder=mobilenet_v2&classes=2"))
    assert all(layer.name.startswith("encoder.") for layer in chosen_layers(unet, "encoder").stochastic)


def test_shift_worsens_every_method_and_its_severities_lie_side_by_side(swept: Sweep) -> None:
    clean = {row.name: score(row, "nll")["value"] for row in of(swept)}
    strong = {row.name: score(row, "nll")["value"] for row in of(swept, "noise", severity=5)}
    assert set(clean) & set(strong) >= {"deterministic", "mcbn, M=8, training, all, T=8"}
    assert all(strong[name] > clean[name] for name in set(clean) & set(strong))
    assert any(row.setting is not None and row.setting.adapted for row in of(swept, "noise", severity=5))
    content = json.loads((swept.folder / "scores.json").read_text())
    assert set(content["shifts"]) == {"noise_5"}
    assert set(content["methods"]["deterministic"]) == {"passes_per_image", "seconds", "scores", "per_class", "curves"}


def test_every_method_is_scored_along_severity_with_the_temperature_of_clean_images(
    network: Network, data: Labels, train: str, tmp_path: Path
) -> None:
    plan = SweepPlan(
        grid=Grid(batches=(8,), draws=(2, 4)),
        methods=replace(SWEPT, methods=tuple(name for name in METHODS if name != "ensemble"), insert_dropout=0.2),
        shifts=("blur",),
        severities=(1, 5),
    )
    with pytest.raises(WrongUse, match="--validation-images"):
        sweep(network, data, train, tmp_path / "run", plan)
    swept = sweep(network, data, train, tmp_path / "run", plan, validation=data)
    kept = json.loads((tmp_path / "run" / "temperatures.json").read_text())["calibrations"]
    banked = {"mcbn+temperature", "mcbn+tta+temperature"}
    assert [set(temperatures) for temperatures in kept.values()] == [{"temperature"}, banked]
    assert all(list(of_draws) == ["2", "4"] for of_draws in [*kept.values()][1].values())
    for condition, severity in (("clean", 0), ("blur", 1), ("blur", 5)):
        rows = of(swept, condition, severity=severity)
        assert {row.method for row in rows} == set(plan.methods.methods)
        for fitted, plain in (("temperature", "deterministic"), ("mcbn+temperature", "mcbn")):
            (cooled,), (other,) = ([r for r in rows if r.method == n and r.draws != 2] for n in (fitted, plain))
            assert score(cooled, "accuracy")["value"] == pytest.approx(score(other, "accuracy")["value"], abs=0.02)
            assert score(cooled, "nll")["value"] != score(other, "nll")["value"]
    alone = evaluate_into(
        network,
        data,
        tmp_path / "alone",
        validation=data,
        plan=EvaluatePlan(methods=MethodPlan(methods=("temperature",), precision="fp32")),
    ).scores["methods"]["temperature"]["scores"]
    (row,) = of(swept, method="temperature")
    assert score(row, "nll")["value"] == pytest.approx(alone["nll"]["value"], abs=1e-5)


def test_passes_dealt_out_to_views_have_rows_at_multiples_of_the_views_only_as_evaluate_makes_them(
    network: Network, data: Labels, train: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dealt = ("mcbn+tta", "dropout+tta")
    methods = replace(SWEPT, methods=("mcbn", "tta", *dealt), insert_dropout=0.3, measures=("variance",))
    plan = SweepPlan(grid=Grid(batches=(4,), draws=(1, 2, 4, 5)), methods=methods, shifts=("noise",), severities=(5,))
    swept = sweep(network, data, train, tmp_path / "run", plan)
    (warning,) = [record.message for record in caplog.records if "dealt out" in record.message]
    left = "mcbn+tta has no row at T = 1, 5; dropout+tta has no row at T = 1, 5."
    assert warning == f"Passes are dealt out to 2 views in turn: {left}"
    clean, shifted = (
        {name: [row.draws for row in of(swept, c, method=name)] for name in methods.methods} for c in ("clean", "noise")
    )
    assert clean == {"mcbn": [1, 2, 4, 5], "tta": [2], "mcbn+tta": [2, 4], "dropout+tta": [2, 4]}
    assert shifted == {"mcbn": [5], "tta": [2], "mcbn+tta": [4], "dropout+tta": [4]}
    assert [row.method for row in swept.rows if row.condition == "noise"] == ["tta", "dropout+tta", "mcbn", "mcbn+tta"]
    bank = Banks(network, train, tmp_path / "run" / "banks", 5).bank(Setting(batch=4), 0)
    for draws in (2, 4):
        asked = EvaluatePlan(methods=replace(methods, methods=dealt, draws=draws))
        alone = evaluate_into(network, data, tmp_path / str(draws), banks=[bank], plan=asked).scores["methods"]
        for name in dealt:
            (row,) = of(swept, method=name, draws=draws)
            for measured in ("nll", "ece", "error_auroc.variance"):
                expected = alone[name]["scores"][measured]["value"]
                assert score(row, measured)["value"] == pytest.approx(expected, abs=1e-5), (name, draws)
    plot_sweep(swept.rows, tmp_path)
    assert best_rows(swept.rows)
    table = curves_table(json.loads((swept.folder / "scores.json").read_text()))
    (line,) = [line for line in table if "`mcbn+tta`" in line]
    assert [cell.strip() for cell in line.split("|")][2] == ""


def test_a_sweep_without_a_multiple_of_the_views_is_refused() -> None:
    methods = replace(SWEPT, methods=("tta", "mcbn+tta+temperature"))
    with pytest.raises(WrongUse, match=r"'mcbn\+tta\+temperature' deals .* 2 views, and none of --draws 1, 3 is"):
        SweepPlan(grid=Grid(batches=(4,), draws=(1, 3)), methods=methods)
    alone = replace(methods, views=(View(),))  # the image itself deals nothing out
    assert not SweepPlan(grid=Grid(batches=(4,), draws=(1, 3)), methods=alone).left_out
    assert not SweepPlan(grid=Grid(batches=(4,), draws=(1, 3)), methods=replace(methods, methods=("tta",))).left_out


@pytest.fixture(scope="module")
def validation(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return written(tmp_path_factory.mktemp("validation"), VALIDATION[:2])


def test_the_calibration_of_a_row_is_fitted_on_its_own_passes_as_evaluate_fits_it(
    network: Network, data: Labels, train: str, validation: Labels, tmp_path: Path
) -> None:
    fitted = ("mcbn+temperature", "dropout+temperature", "mcbn+vector_scaling", "mcbn+tta+temperature")
    methods = replace(SWEPT, methods=(*fitted, "tta+temperature"), insert_dropout=0.3, measures=("variance",))
    plan = SweepPlan(grid=Grid(batches=(4,), draws=(1, 2, 4)), methods=methods)
    swept = sweep(network, data, train, tmp_path / "run", plan, validation=validation)
    bank = Banks(network, train, tmp_path / "run" / "banks", 4).bank(Setting(batch=4), 0)
    kept = json.loads((tmp_path / "run" / "temperatures.json").read_text())["calibrations"]
    of_method = {name: of_draws for place in kept.values() for name, of_draws in place.items()}
    for draws in plan.grid.draws:
        alone = evaluate_into(
            network,
            data,
            tmp_path / str(draws),
            banks=[bank],
            plan=EvaluatePlan(methods=replace(methods, draws=draws)),
            validation=validation,
        )
        for name, expected in alone.validation.temperatures.items():
            if draws == 1 and name == "mcbn+tta+temperature":
                continue  # one pass is not dealt out to two views
            (row,) = [row for row in of(swept, method=name) if name not in fitted or row.draws == draws]
            assert of_method[name][str(row.draws)] == pytest.approx(expected, rel=1e-4), (name, draws)
            scores = alone.scores["methods"][name]["scores"]
            for measured in ("nll", "ece"):
                assert score(row, measured)["value"] == pytest.approx(scores[measured]["value"], abs=1e-5), (
                    name,
                    draws,
                )
    for name in fitted:
        counts = ["2", "4"] if "tta" in name else ["1", "2", "4"]
        assert list(of_method[name]) == counts
        assert len(set(of_method[name].values())) == len(counts), "the temperature of one pass is not that of four"


def test_kept_temperatures_that_were_of_the_largest_t_alone_are_refused(
    network: Network, data: Labels, train: str, validation: Labels, tmp_path: Path
) -> None:
    methods = replace(SWEPT, methods=("mcbn+temperature",))
    plan = SweepPlan(grid=Grid(batches=(4,), draws=(1, 2)), methods=methods)
    kept = tmp_path / "run" / "temperatures.json"
    kept.parent.mkdir()
    scaling = {"factors": [1.0] * 6, "offsets": [0.0] * 6}
    for old in (1.25, scaling):
        kept.write_text(json.dumps({"M=4, training, all, seed=0": {"mcbn+temperature": old}}))
        with pytest.raises(WrongUse, match=r"temperatures\.json' is damaged or of another version"):
            sweep(network, data, train, kept.parent, plan, validation=validation, resume=True)
    kept.unlink()
    swept = sweep(network, data, train, kept.parent, plan, validation=validation, resume=True)
    assert [row.draws for row in swept.rows] == [1, 2]
    record = kept.with_name("run.json")
    content = json.loads(record.read_text())
    del content["settings"]["calibrations"]  # as in a folder of a version that fitted one for all
    record.write_text(json.dumps(content))
    with pytest.raises(WrongUse, match="calibrations is none given there"):
        sweep(network, data, train, kept.parent, plan, validation=validation, resume=True)


def test_a_distilled_bank_is_swept_beside_the_others_with_all_of_its_draws(
    network: Network, data: Labels, train: str, tmp_path: Path
) -> None:
    whole = Banks(network, train, tmp_path / "banks", 4).bank(Setting(batch=8), 0)
    kept = replace(
        whole.first(2), weights=torch.tensor([0.75, 0.25]), provenance=dict(whole.provenance) | {"distilled": True}
    )
    save_bank(kept, tmp_path / "two.safetensors")
    plan = SweepPlan(grid=Grid(batches=(8,), draws=(1, 4)), banks=(tmp_path / "two.safetensors",))
    swept = sweep(network, data, Path(train), tmp_path / "run", plan)
    names = [row.name for row in swept.rows]
    assert "mcbn, M=8, two, T=2" in names
    evaluated = evaluate_into(
        network,
        data,
        tmp_path / "alone",
        banks=[kept],
        plan=EvaluatePlan(methods=MethodPlan(methods=("mcbn",), precision="fp32")),
    ).scores["methods"]["mcbn"]["scores"]
    (row,) = of(swept, method="mcbn", draws=2)
    assert score(row, "nll")["value"] == pytest.approx(evaluated["nll"]["value"], abs=1e-5)
    with pytest.raises(WrongUse, match="Several of --bank are called 'two'"):
        replace(plan, banks=("a/two.safetensors", "b/two.safetensors"))


def test_every_setting_has_its_paired_difference_from_the_plain_network_and_the_report_plots_it(swept: Sweep) -> None:
    (plain,) = of(swept, method="deterministic")
    assert OVER not in plain.result
    for row in of(swept, method="mcbn"):
        entry = row.result[OVER]["nll"]
        assert entry["value"] == pytest.approx(score(row, "nll")["value"] - score(plain, "nll")["value"], abs=1e-9)
        assert entry["low"] <= entry["value"] <= entry["high"]
        alone = score(row, "nll")
        assert entry["high"] - entry["low"] < alone["high"] - alone["low"], "pairing removes what images share"
    paths = sorted(swept.folder.glob("condition_*.json"))
    charts = sweep_charts([row for path in paths for row in _rows(path)])
    titles = [chart["title"] for chart in charts]
    assert titles[0] == "NLL minus that of the plain network, by T, draws"
    assert "NLL under noise" in titles
    (line,) = charts[0]["lines"]
    assert line["x"] == charts[0]["ticks"] == [1, 2, 4, 8]
    (last,) = of(swept, method="mcbn", draws=8)
    assert line["y"][-1] == last.result[OVER]["nll"]["value"]


def test_a_sweep_alone_has_a_report_with_the_names_of_its_classes(swept: Sweep, tmp_path: Path) -> None:
    run = load_run(swept.folder)
    assert run.classes == tuple(run.card["classes"])
    folder = tmp_path / "mine"
    shutil.copytree(swept.folder, folder)
    scores = json.loads((folder / "scores.json").read_text())
    (folder / "scores.json").write_text(json.dumps(scores | {"warnings": ["The scores mislead."]}))
    written = report([folder], tmp_path / "sweep.html")
    assert written.files == (tmp_path / "sweep.html",)
    assert written.warnings == ("The scores mislead.",)
    page = _content_of(tmp_path / "sweep.html")
    conditions = {(row.condition, row.severity) for row in swept.rows}
    assert page["size"].endswith(" MB")
    assert "image" not in page["size"]
    many = len({row.name for row in swept.rows})
    assert page["finding"][0].startswith(
        f"The report holds a sweep of {many} settings under {len(conditions)} conditions"
    )
    best = min((row for row in swept.rows if row.condition == "clean"), key=lambda row: row.nll)
    assert f"has the best NLL on clean images, {best.nll:.3f}" in page["finding"][0]
    (table,) = page["tables"]
    assert table["title"].startswith("Best settings in mine, on clean images")
    assert all(sentence in table["text"] for sentence in sweep_sentences(swept.rows))
    _, names = shown_names(swept.rows)
    assert table["rows"][0][0] == names[best.name]
    assert "deterministic" in [row[0] for row in table["rows"]]


def a_row(setting: Setting | None, draws: int, nll: float, method: str = "mcbn", severity: int = 0) -> Row:
    condition = "fog" if severity else CLEAN
    scores = {"nll": {"value": nll, "low": nll - 0.01, "high": nll + 0.01}}
    result = {"images": 1, "seconds": 1.0, "scores": scores, OVER: {"nll": scores["nll"]}}
    return Row(condition=condition, severity=severity, method=method, setting=setting, draws=draws, result=result)


def test_a_line_of_the_report_is_one_setting() -> None:
    settings = [
        Setting(batch=8),
        Setting(batch=8, layers="encoder"),
        Setting(batch=8, transform="plain"),
        Setting(batch=8, alpha=0.5),
        Setting(batch=8, file="given"),
    ]
    rows = [a_row(setting, draws, 0.5 / draws) for setting in settings for draws in (1, 4)]
    rows += [a_row(setting, 4, 0.9, severity=2) for setting in (*settings, Setting(batch=8, adapted=True))]
    charts = sweep_charts(rows)
    assert [len(chart["lines"]) for chart in charts] == [5, 6]
    names = [line["name"] for line in charts[1]["lines"]]
    assert names == [row.name for row in rows[10:]]
    assert [line["x"] for line in charts[1]["lines"]] == [[0, 2]] * 5 + [[2]]


def test_a_setting_without_nll_is_the_last_of_every_list_by_nll_and_one_of_0_the_first() -> None:
    rows = [a_row(Setting(batch=batch), 4, nll) for batch, nll in ((8, 0.5), (4, 0.0), (2, 0.1))]
    rows = [replace(row, result={**row.result, "images": 1}) for row in rows]
    rows[0] = replace(rows[0], result={**rows[0].result, "scores": {"nll": {"value": None}}})
    swept = Sweep(Path("swept"), rows, {})
    by_nll = [rows[1].name, rows[2].name, rows[0].name]
    short = ["mcbn, M=4", "mcbn, M=2", "mcbn, M=8"]
    page = sweep_section(swept, "a network")
    assert "All that draw: transform training, layers all, T=4." in page
    assert "| error AUROC, predictive entropy ↑ | error AUROC, variance ↑ |" in page
    assert [name for _, name in sorted((page.index(name), name) for name in short)] == short
    assert [cells[0] for cells in best_rows(rows)[1]] == short
    assert [line.strip().partition(":")[0] for line in repr(swept).splitlines()[1:]] == by_nll


def test_a_sweep_says_for_each_shift_which_settings_differ_significantly_from_the_plain_network() -> None:
    def drawn(draws: int, nll: float, p: float, severity: int) -> Row:
        row = a_row(Setting(batch=8), draws, 0.5, severity=severity)
        entry = {"value": nll, "low": nll - 0.01, "high": nll + 0.01, "p": p}
        return replace(row, result={**row.result, "images": 40, OVER: {"nll": entry, "miou": entry}})

    rows = [drawn(1, 0.001, 0.8, 0), drawn(4, 0.02, 0.02, 0), drawn(1, 0.2, 1e-6, 3), drawn(4, -0.2, 1e-6, 3)]
    assert sweep_sentences(rows) == [
        "clean: no setting differs significantly from deterministic in NLL or mIoU.",
        "fog 3: significantly better than deterministic in NLL: mcbn, T=4. Significantly better in mIoU: mcbn, T=1. "
        "Significantly worse in NLL: mcbn, T=1. Significantly worse in mIoU: mcbn, T=4.",
    ], "p = .02 is not significant in one of 8 tests"
    few = [replace(row, result={**row.result, "images": 5}) for row in rows]
    assert sweep_sentences(few) == ["With 5 images no difference can be significant: 6 are the least."]
    some = [replace(row, result={**row.result, "images": 12}) for row in rows]
    assert sweep_sentences(some)[-1].startswith("12 images are few: a difference below 1.2 standard deviations")
    assert sweep_sentences([replace(rows[0], result={"images": 40})]) == [], "no plain network to compare with"


def test_the_name_of_a_setting_has_t_only_where_there_are_draws_and_no_value_that_all_share() -> None:
    rows = [
        a_row(None, 1, 0.5, "deterministic"),
        a_row(None, 2, 0.5, "tta"),
        a_row(Setting(batch=4), 1, 0.5, "mean_statistics"),
        a_row(Setting(batch=4), 1, 0.5),
        a_row(Setting(batch=8), 4, 0.5),
    ]
    shared, names = shown_names(rows)
    assert shared == "All that draw: transform training, layers all."
    short = ["deterministic", "tta, 2 passes", "mean_statistics, M=4", "mcbn, M=4, T=1", "mcbn, M=8, T=4"]
    assert list(names.values()) == short
    assert list(names) == [row.name for row in rows]
    other = a_row(Setting(batch=8, layers="encoder"), 4, 0.5)
    assert shown_names([*rows, other])[1][other.name] == "mcbn, M=8, layers encoder, T=4"


def test_a_bank_that_was_given_has_its_name_in_the_table_and_no_axes_of_recording() -> None:
    rows = [a_row(Setting(batch=8), 4, 0.4), a_row(Setting(batch=8, file="given"), 4, 0.5)]
    lines = list(csv.DictReader(sweep_csv(rows).splitlines()))
    shown = [[line[key] for key in ("M", "transform", "layers", "alpha", "adapted", "bank")] for line in lines]
    assert shown == [["8", "training", "all", "1.0", "False", ""], ["8", "", "", "", "", "given"]]


def test_each_method_is_drawn_against_the_mini_batch_at_its_largest_number_of_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Line] = []

    def kept(lines: list[Line], **_: object) -> bytes:
        drawn.extend(lines)
        return b""

    monkeypatch.setattr("segment.report.curves.plot", kept)
    rows = [
        a_row(Setting(batch=batch), draws, 1 / draws, method)
        for batch in (4, 8)
        for method, counts in (("mcbn", (1, 16)), ("mcbn+temperature", (1, 16)), ("mean_statistics", (1,)))
        for draws in counts
    ]
    plot_sweep(rows, tmp_path)
    of_batch = {line.name: list(line.y) for line in drawn if list(line.x) == [4, 8]}
    assert of_batch == {
        "mcbn, training, all, T=16": [1 / 16] * 2,
        "mcbn+temperature, training, all, T=16": [1 / 16] * 2,
        "mean_statistics, training, all": [1.0] * 2,
    }


def test_a_sweep_given_to_select_or_compare_is_called_one(swept: Sweep) -> None:
    for call in (lambda: select(swept.folder), lambda: compare(swept.folder, swept.folder, method="mcbn")):
        with pytest.raises(WrongUse, match=r"is a sweep, which keeps no numbers of single images"):
            call()


def test_conditions_of_another_version_and_damaged_ones_are_refused_by_a_report_in_a_sentence(
    swept: Sweep, tmp_path: Path
) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(swept.folder, folder, ignore=shutil.ignore_patterns("banks"))
    path = folder / "condition_noise_5.json"
    text = path.read_text()
    assert report([folder], tmp_path / "r.html").files
    content = json.loads(text)
    row = content["rows"][0]
    damaged = [
        text[:200],
        "[]",
        json.dumps({"rows": content["rows"]}),  # without `failed`
        json.dumps(content | {"rows": [{key: value for key, value in row.items() if key != "condition"}]}),
        json.dumps(content | {"rows": [row | {"setting": {"layers": "all"}}]}),
        json.dumps(content | {"rows": [row | {"result": {}}]}),
        json.dumps(content | {"rows": [row | {"result": row["result"] | {"scores": {"nll": 3}}}]}),
        json.dumps(content | {"rows": [row | {"result": row["result"] | {OVER: {"nll": {"value": "low"}}}}]}),
    ]
    for other in damaged:
        path.write_text(other)
        with pytest.raises(WrongUse, match=r"condition_noise_5\.json"):
            report([folder], tmp_path / "r.html")


def test_the_table_has_a_line_for_every_row_with_its_axes(swept: Sweep) -> None:
    rows = list(csv.DictReader((swept.folder / "sweep.csv").read_text().splitlines()))
    assert len(rows) == len(swept.rows) == 1 + 5 + (1 + 2 * 2)
    (line,) = [
        row for row in rows if (row["condition"], row["method"], row["M"], row["T"]) == ("clean", "mcbn", "8", "4")
    ]
    (row,) = of(swept, method="mcbn", setting=Setting(batch=8), draws=4)
    assert float(line["nll"]) == score(row, "nll")["value"]
    assert float(line["nll.bank_sd"]) > 0


def test_images_that_go_together_are_scored_the_same_and_auto_is_measured_once_for_all_conditions(
    network: Network, data: Labels, train: str, tmp_path: Path, batches_timed: list[int]
) -> None:
    plan = SweepPlan(grid=replace(GRID, seeds=(0,)), shifts=("noise",), severities=(5,), batch="auto")
    made = sweep(network, data, train, tmp_path / "run", plan)
    assert batches_timed == [1, 2, 4]
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["images"] == 2
    alone = sweep(network, data, train, tmp_path / "alone", replace(plan, batch=1))
    for row, other in zip(made.rows, alone.rows, strict=True):
        assert (row.name, row.condition) == (other.name, other.condition)
        for name, entry in row.result["scores"].items():
            expected = other.result["scores"][name]["value"]
            assert entry["value"] == (expected if expected is None else pytest.approx(expected, abs=1e-4)), name
    (tmp_path / "run" / "condition_noise_5.json").unlink()
    sweep(network, data, train, tmp_path / "run", plan, resume=True)
    assert batches_timed == [1, 2, 4]
    with pytest.raises(WrongUse, match="batch is 'auto' there"):
        sweep(network, data, train, tmp_path / "run", replace(plan, batch=1), resume=True)


def test_the_intervals_of_many_settings_are_shown_as_they_are_made(
    network: Network, data: Labels, train: str, tmp_path: Path
) -> None:
    seen: list[tuple[str, int, int]] = []

    def show(stage: str, done: int, total: int, draws: int = 0) -> None:
        seen.append((stage, done, total))

    plan = SweepPlan(grid=Grid(batches=(8,), draws=(1, 2)))
    made = sweep(network, data, train, tmp_path / "run", plan, progress=show)
    shown = [step for step in seen if step[0] == "intervals of clean images"]
    assert shown == [("intervals of clean images", done, len(made.rows)) for done in range(1, len(made.rows) + 1)]


def test_a_sweep_in_a_precision_of_its_own_choice_does_not_go_on_where_the_choice_differs(
    network: Network, data: Labels, train: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = SweepPlan(grid=replace(GRID, seeds=(0,), draws=(2,)), methods=replace(SWEPT, precision="auto"))
    monkeypatch.setattr("segment.jobs.sweep.computes_bfloat16", lambda device: False)
    sweep(network, data, train, tmp_path / "run", plan)
    sweep(network, data, train, tmp_path / "run", plan, resume=True)
    monkeypatch.setattr("segment.jobs.sweep.computes_bfloat16", lambda device: True)
    with pytest.raises(WrongUse, match="was begun on cpu without bfloat16, and this is cpu with bfloat16"):
        sweep(network, data, train, tmp_path / "run", plan, resume=True)


def test_a_finished_sweep_is_resumed_without_a_pass(network: Network, data: Labels, train: str, swept: Sweep) -> None:
    plan = SweepPlan(grid=GRID, shifts=("noise",), severities=(5,), adapt=True)

    def never(stage: str, done: int, total: int, draws: int = 0) -> None:
        raise AssertionError(f"{stage} was done again")

    again = sweep(network, data, train, swept.folder, plan, resume=True, progress=never)
    assert [row.name for row in again.rows] == [row.name for row in swept.rows]
    with pytest.raises(WrongUse, match="other settings"):
        sweep(network, data, train, swept.folder, replace(plan, adapt=False), resume=True)
    name = min(Path(str(data.labels)).iterdir()).stem
    others = rf"holds scores of other images: 1 changed or gone \({name}\)\. Put them back"
    for folder, words in ((data.labels, others), (train, "statistics images: other files")):
        file = min(Path(str(folder)).iterdir())
        before = file.read_bytes()
        file.write_bytes(before + b"changed")
        try:
            with pytest.raises(WrongUse, match=words):
                sweep(network, data, train, swept.folder, plan, resume=True)
        finally:
            file.write_bytes(before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_is_the_same_for_an_image_in_any_order(name: str) -> None:
    image = scene(TEST[0]).image
    made = [corrupted(name, severity)(image, "a") for severity in SEVERITIES]
    distance = [float(np.abs(corrupted_image.astype(int) - image).mean()) for corrupted_image in made]
    if name not in ("saturate", "snow", "fog", "frost", "glass_blur", "motion_blur"):  # not every step of these grows
        assert distance == sorted(distance)
    assert distance[0] > 0.3
    again = corrupted(name, 3)
    again(image[:64], "b")
    np.testing.assert_array_equal(again(image, "a"), made[2])


def test_wrong_settings_of_a_sweep_are_refused_in_words(network: Network, train: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="Near: 'blur'"):
        corruption("blurr", 1)
    with pytest.raises(WrongUse, match="moves pixels away from their labels"):
        corruption("elastic_transform", 1)
    with pytest.raises(WrongUse, match=r"crop:HxW"):
        Grid(batches=(4,), transforms=("crop",))
    with pytest.raises(WrongUse, match="none twice"):
        Grid(batches=(4, 4))
    for twice in ({"shifts": ("blur", "fog", "blur")}, {"shifts": ("blur",), "severities": (1, 1)}):
        with pytest.raises(WrongUse, match="none twice"):
            SweepPlan(grid=GRID, **twice)
    with pytest.raises(WrongUse, match="one value at least"):
        SweepPlan(grid=GRID, shifts=("blur",), severities=())
    with pytest.raises(WrongUse, match="within 0"):
        Grid(batches=(4,), alphas=(1.5,))
    bare = replace(network, card=replace(network.card, training=None))
    with pytest.raises(WrongUse, match="no `training:`"):
        Banks(bare, train, tmp_path, 2).bank(Setting(batch=4), 0)
    with pytest.raises(WrongUse, match="32 images was asked of 16"):
        Banks(network, train, tmp_path, 2).bank(Setting(batch=32), 0)


def test_banks_of_other_transforms_are_other_files_and_as_the_transform_says(
    network: Network, train: str, tmp_path: Path
) -> None:
    banks = Banks(network, train, tmp_path, 2)
    sizes = {
        transform: banks.bank(Setting(batch=4, transform=transform), 0).provenance["size"]
        for transform in ("training", "plain", "crop:64x64")
    }
    assert sizes == {"training": None, "plain": None, "crop:64x64": [64, 64]}
    assert len(list(tmp_path.iterdir())) == 3


def test_plots_need_their_extra_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(name="a", x=[1.0, 2.0], y=[0.5, 0.25], low=[0.4, None], high=[0.6, None])
    assert plot([line], title="t", x="x", y="y").startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"mcbn-segment\[plots\]"):
        plot([line], title="t", x="x", y="y")


def test_the_command_sweeps_and_writes_table_plots_and_report(data: Labels, train: str, tmp_path: Path) -> None:
    asked = [
        "sweep",
        "scenes",
        "--images",
        data.images,
        "--labels",
        data.labels,
        "--train",
        train,
        "--batches",
        "2,4",
        "--draws",
        "1,2",
        "--layers",
        "all,last",
        "-o",
        tmp_path / "run",
        "--report",
        tmp_path / "results.md",
    ]
    ended = invoked(*asked)
    assert ended.exit_code == 0, ended.exception
    assert "best NLL first" in ended.stdout
    assert "mcbn, M=4, layers last, T=2" in (tmp_path / "results.md").read_text()
    assert "In " + str(tmp_path / "run") in " ".join(ended.stdout.split())
    assert "pll_vs_draws.png" in ended.stdout
    page = (tmp_path / "results.md").read_text()
    key = page.partition("<!-- sweep of scenes -->\n<!-- images ")[2].partition(" -->")[0]
    (tmp_path / "results.md").write_text(page.replace(key, "0" * len(key)))
    asked[asked.index("-o") + 1] = tmp_path / "other"
    ended = invoked(*asked)
    assert "has a section 'sweep of scenes' of other images" in str(ended.exception)
    assert not (tmp_path / "other").exists()
    for name in ("pll_vs_draws", "quality_vs_batch_nll"):
        assert read_image(tmp_path / "run" / f"{name}.png").shape[2] == 3


def test_every_part_of_a_sweeps_table_names_setting_and_shift(data: Labels, train: Path, tmp_path: Path) -> None:
    asked: list[object] = ["sweep", "scenes", "--images", data.images, "--labels", data.labels, "--train", train]
    asked += ["--batches", "2", "--draws", "1,2", "--shift", "noise,blur", "--severities", "3", "-o", tmp_path / "run"]
    ended = invoked(*asked)
    assert ended.exit_code == 0, ended.exception
    lines = ended.stdout.splitlines()
    assert any("best NLL first within each shift, " in line for line in lines)
    heads = [line for line in lines if line.split()[:1] == ["setting"]]
    assert len(heads) > 1
    assert all(line.split()[1] == "shift" for line in heads)
    for shift in ("noise 3", "blur 3"):
        of_shift = [line for line in lines if shift in line and not line.startswith(shift)]  # not the sentence
        assert sum(line.split()[0] == "deterministic" for line in of_shift) == len(heads)
        assert max(map(len, of_shift)) <= 80


def test_a_sweep_warns_of_images_that_it_was_made_of_and_scores_shifts_at_the_largest_t(
    network: Network, data: Labels, tmp_path: Path
) -> None:
    plan = SweepPlan(grid=Grid(batches=(2,), draws=(2, 1)), shifts=("noise",), severities=(5,))
    made = sweep(network, data, str(data.images), tmp_path / "run", plan)
    (warning, *_) = made.warnings
    assert "training images" in warning
    assert json.loads((tmp_path / "run" / "scores.json").read_text())["warnings"] == list(made.warnings)
    assert {row.draws for row in made.rows if row.condition == "noise" and row.method == "mcbn"} == {2}
    again = sweep(network, data, str(data.images), tmp_path / "run", plan, resume=True)
    assert again.warnings == made.warnings
