"""Laws of `segment tune`: a folder that predict and evaluate take, nothing chosen on training images, bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from console import invoked
from labelled_scenes import written
from plain import Toy, calibrated, seeded
from small_networks import Contrast
from torch import Tensor

from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import BankRefused, OutOfMemory, WrongUse
from segment.estimation.memory_budget import resident
from segment.files.banks.bank_file import save_bank
from segment.files.writing import write_png
from segment.images.find import Source
from segment.images.listing.groups import group_table, groups_by_id
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.evaluation.temperatures import MISSED
from segment.jobs.fit import fit_bank
from segment.jobs.labelled.images import Labels
from segment.jobs.labelled.labels import read_labelled
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.progress import silent
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Banks, Grid
from segment.jobs.sweeping.states import SweepPlan
from segment.jobs.tuning.search import Arm, Search, SearchPlan
from segment.jobs.tuning.tune import TunePlan, Tuning, _arms, tune
from segment.jobs.tuning.tuned import Tuned, method_of, read_tuned, write_tuned
from segment.methods.augmentation import views
from segment.networks.load import Network, load_network
from segment.report.html.words import settings
from segment.report.run_files.saved_run import load_run
from segment.scenes.scene import TEST, TRAIN, VALIDATION, scene
from segment.tuning.choice import candidate
from segment.tuning.samples import MethodSamples

PLAN = TunePlan(passes=4, grid=Grid(batches=(2, 4)), scalings=("temperature", "vector_scaling"))


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    for seed in TRAIN[:8]:
        write_png(folder / f"{seed}.png", scene(seed).image)
    return folder


@pytest.fixture(scope="module")
def tuning(network: Network, train: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuning:
    folder = tmp_path_factory.mktemp("tuned")
    return tune(network, written(folder / "validation", VALIDATION[:12]), str(train), folder / "out", PLAN)


def test_the_search_stays_in_its_budget_and_writes_its_folder(tuning: Tuning) -> None:
    assert 0 < tuning.cost < 30 * 4 / 16 + 4  # four images are the least of a rung
    content = json.loads((tuning.folder / "tuned.json").read_text(), parse_constant=pytest.fail)
    assert content["why"].startswith("Chosen: ")
    names = [each["name"] for each in content["candidates"]]
    assert {"deterministic, 1 pass", "deterministic+temperature, 1 pass", "tta, 2 passes"} <= set(names)
    assert len(names) == len(set(names))
    assert "Pareto" in (tuning.folder / "tuned.md").read_text()
    assert (tuning.folder / "pareto.png").read_bytes()[:4] == b"\x89PNG"
    assert "12 images are few" in content["why"]


def test_arms_of_a_rung_make_as_many_passes_and_these_are_recorded(
    network: Network, train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, int] = {}
    samples = Search.samples

    def kept(self: Search, arm: Arm, sources: Sequence[Source], draws: int | None, *, keep: bool) -> MethodSamples:
        result = samples(self, arm, sources, draws, keep=keep)
        if not keep:
            made[arm.name] = result.prefixes[-1]
        return result

    monkeypatch.setattr(Search, "samples", kept)
    tuning = tune(network, written(tmp_path / "validation", VALIDATION[:6]), str(train), tmp_path / "out", PLAN)
    first = [each for each in tuning.dropped if each["draws"] == made[each["arm"]]]
    assert first == list(tuning.dropped)
    assert len({each["draws"] for each in tuning.dropped}) == 1, "plain images and views alike"
    assert {each["arm"].startswith("mcbn+tta") for each in tuning.dropped} == {True, False}


def test_evaluate_scores_the_tuned_setting_as_its_parts_would(network: Network, tuning: Tuning, tmp_path: Path) -> None:
    tuned = read_tuned(tuning.folder)
    data = written(tmp_path / "test", TEST[:3])
    plan = EvaluatePlan(
        methods=MethodPlan(methods=("deterministic",), measures=("predictive_entropy",), precision="fp32")
    )
    validation = written(tmp_path / "validation", VALIDATION[20:22])
    evaluation = evaluate_into(network, data, tmp_path / "run", plan=plan, tuned=tuned, validation=validation)
    methods = evaluation.scores["methods"]
    assert set(methods) == {"deterministic", "tuned"}
    assert methods["tuned"]["passes_per_image"] == tuning.choice.chosen.passes
    with pytest.raises(WrongUse, match="other settings"):
        evaluate_into(network, data, tmp_path / "run", plan=plan, resume=True)
    for names in (("tuned",), ("tuned", "deterministic")):
        named = replace(plan, methods=replace(plan.methods, methods=names))
        folder = tmp_path / "_".join(names)
        again = evaluate_into(network, data, folder, plan=named, tuned=tuned, validation=validation).scores["methods"]
        assert set(again) == set(names)
        assert again["tuned"]["scores"] == methods["tuned"]["scores"]
        with pytest.raises(WrongUse, match="give its folder by --tuned"):
            evaluate_into(network, data, tmp_path / "none", plan=named)


def test_predict_takes_the_tuned_setting(network: Network, tuning: Tuning, tmp_path: Path) -> None:
    tuned = read_tuned(tuning.folder)
    data = written(tmp_path / "test", TEST[:2])
    maps = ("prediction", "predictive_entropy", "probability")
    plan = PredictPlan(maps=maps, precision="fp32", tuned=tuned)
    summary = predict(network, data.images, tuned.bank, tmp_path / "run", plan)
    assert summary.done == 2
    scored = EvaluatePlan(
        methods=MethodPlan(methods=("deterministic",), measures=("predictive_entropy",), precision="fp32")
    )
    evaluate_into(network, data, tmp_path / "scores", plan=scored, tuned=tuned)
    lines = (tmp_path / "scores" / "per_image.csv").read_text().splitlines()
    columns = lines[0].split(",")
    for line in lines[1:]:
        row = dict(zip(columns, line.split(","), strict=True))
        if row["method"] == "tuned":
            with np.load(tmp_path / "run" / row["id"] / "maps.npz") as archive:
                mean = float(archive["predictive_entropy"].mean(dtype=np.float64))
            assert mean == pytest.approx(float(row["mean.predictive_entropy"]), rel=1e-4)


@pytest.mark.parametrize(("name", "passes"), [("tta+temperature", 2), ("temperature", 1), ("mcbn+tta", 4), ("mcbn", 4)])
def test_the_passes_of_a_tuned_setting_are_recorded_and_not_its_banks_draws(
    network: Network, train: Path, tuning: Tuning, tmp_path: Path, name: str, passes: int
) -> None:
    bank = fit_bank(network, train, batch=2, draws=4)
    setting = replace(tuning.tuned, method=combination(name), bank=bank, calibration=1.0)
    write_tuned(setting, tmp_path, {})
    assert json.loads((tmp_path / "tuned.json").read_text())["draws"] == passes
    data = written(tmp_path / "test", TEST[:1])
    plan = PredictPlan(precision="fp32", formats=("npz",), maps=("prediction",), tuned=read_tuned(tmp_path))
    summary = predict(network, data.images, bank, tmp_path / "run", plan)
    run = load_run(tmp_path / "run")
    assert summary.draws == summary.mean_draws == run.record["plan"]["draws"] == passes
    assert [image.entry["draws"] for image in run.values()] == [passes]
    pairs = dict(settings(run))
    assert pairs["method"].startswith(name)
    assert pairs["draws"] == f"T = {passes}"


def test_test_images_among_the_images_of_the_choice_are_warned_about(
    network: Network, tuning: Tuning, tmp_path: Path
) -> None:
    data = written(tmp_path / "seen", VALIDATION[:2])
    plan = EvaluatePlan(
        methods=MethodPlan(methods=("deterministic",), measures=("predictive_entropy",), precision="fp32")
    )
    evaluation = evaluate_into(network, data, tmp_path / "run", plan=plan, tuned=read_tuned(tuning.folder))
    assert any("the setting was chosen on" in line for line in evaluation.warnings)


def test_training_images_another_network_and_what_is_no_tuned_folder_are_refused(
    network: Network, train: Path, tuning: Tuning, tmp_path: Path
) -> None:
    for path in train.iterdir():
        write_png(tmp_path / "labels" / path.name, scene(int(path.stem)).label)
    with pytest.raises(WrongUse, match="validation images are training images"):
        tune(network, Labels(train, tmp_path / "labels"), str(train), tmp_path / "out", PLAN)
    other = load_network("segment:tiny?classes=6")
    with pytest.raises(BankRefused, match="another network"):
        read_tuned(tuning.folder).check(other)
    with pytest.raises(WrongUse, match="Give --tuned a folder that `segment tune` wrote"):
        read_tuned(tmp_path)
    with pytest.raises(WrongUse, match="1 of 1 validation images can be used"):
        tune(network, written(tmp_path / "one", VALIDATION[:1]), str(train), tmp_path / "one_out", PLAN)


class Picky(Contrast):
    """And it cannot pass images of 48 columns."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] == 48:
            raise RuntimeError("48 columns")
        return super().forward(x)


def test_validation_images_without_a_known_pixel_on_the_grid_are_named(tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Toy), (32, 32)))
    train = random_images(tmp_path / "train", 4, black=-1, size=(32, 36)).images
    data = random_images(tmp_path / "validation", 5, black=-1, size=(96, 96))  # every second row and column is taken
    between = np.full((96, 96), 255, np.uint8)
    between[::2, ::2] = 1
    write_png(tmp_path / "validation" / "labels" / "i3.png", between)
    write_png(tmp_path / "validation" / "labels" / "i4.png", np.full((96, 96), 255, np.uint8))
    plan = TunePlan(passes=2, grid=Grid(batches=(2,), transforms=("plain",)), void=255)
    tuned = tune(network, data, str(train), tmp_path / "out", plan)
    assert tuned.tuned.images == 3
    assert set(tuned.failed) == {"i3", "i4"}
    assert MISSED in tuned.failed["i3"]
    assert "all of them are void" in tuned.failed["i4"]
    page = (tmp_path / "out" / "tuned.md").read_text()
    assert MISSED in page
    for number in range(5):
        write_png(tmp_path / "validation" / "labels" / f"i{number}.png", np.full((96, 96), 255, np.uint8))
    with pytest.raises(WrongUse, match=r"0 of 5 validation images can be used.* all of them are void"):
        tune(network, data, str(train), tmp_path / "none", plan)


SETTING = Tuned(
    method=combination("mcbn"),
    bank=Bank(torch.ones(1), {"a": torch.zeros(1, 1)}, {"a": torch.ones(1, 1)}),
    views=(),
    calibration=1.0,
    network="",
    seen=frozenset(),
    images=2,
    why="",
)


@pytest.fixture(scope="module")
def network_of_views() -> Network:
    return load_network(calibrated(seeded(Toy), (32, 32)))


def random_images(folder: Path, count: int, *, black: int, size: tuple[int, int] = (32, 40)) -> Labels:
    for number in range(count):
        rng = np.random.default_rng(number)
        image = rng.integers(1, 255, (*size, 3), dtype=np.uint8) * np.uint8(number != black)
        write_png(folder / "images" / f"i{number}.png", image)
        write_png(folder / "labels" / f"i{number}.png", rng.integers(0, 4, size).astype(np.uint8))
    return Labels(folder / "images", folder / "labels")


def test_validation_images_that_a_setting_cannot_use_are_named_and_the_others_are_used(tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Picky), (32, 32)))
    train = random_images(tmp_path / "train", 6, black=-1, size=(32, 36)).images
    data = random_images(tmp_path / "validation", 6, black=2)
    random_images(tmp_path / "wide", 1, black=-1, size=(32, 48))
    label = np.full((32, 40), 77, np.uint8)  # no class
    for name in ("images", "labels"):
        (tmp_path / "wide" / name / "i0.png").rename(tmp_path / "validation" / name / "i8.png")
    write_png(tmp_path / "validation" / "images" / "i9.png", np.full((32, 40, 3), 9, np.uint8))
    write_png(tmp_path / "validation" / "labels" / "i9.png", label)
    plan = TunePlan(passes=2, grid=Grid(batches=(2, 4), transforms=("plain",)))
    tuned = tune(network, data, str(train), tmp_path / "out", plan)
    assert tuned.tuned.images == 5
    assert set(tuned.failed) == {"i2", "i8", "i9"}
    assert "not finite" in tuned.failed["i2"]
    assert "48 columns" in tuned.failed["i8"]
    assert "holds 77" in tuned.failed["i9"]
    assert all(set(each.nll) == {"i0", "i1", "i3", "i4", "i5"} for each in tuned.candidates)
    assert all(np.isfinite(each.mean) for each in tuned.candidates)
    content = json.loads((tmp_path / "out" / "tuned.json").read_text(), parse_constant=pytest.fail)
    assert content["failed"] == tuned.failed
    assert "48 columns" in (tmp_path / "out" / "tuned.md").read_text()


@pytest.mark.parametrize(("passes", "asked"), [(4, "flip"), (5, "flip"), (7, "flip,0.75"), (8, "0.5,1.25")])
@pytest.mark.parametrize("equal", [True, False])
def test_every_number_of_passes_is_scored_as_the_setting_that_would_be_written_for_it(
    passes: int, asked: str, tmp_path: Path, network_of_views: Network, *, equal: bool
) -> None:
    network = network_of_views
    train = random_images(tmp_path / "train", 4, black=-1, size=(32, 36)).images
    bank = fit_bank(network, train, batch=2, draws=passes)
    if not equal:
        weights = torch.arange(1, passes + 1) / sum(range(passes + 1))
        bank = bank.with_draws(weights, bank.mean, bank.var)
    save_bank(bank, tmp_path / "further.safetensors")
    plan = TunePlan(
        passes=passes,
        grid=Grid(batches=(2,), transforms=("plain",)),
        banks=(str(tmp_path / "further.safetensors"),),
        views=views(asked),
    )
    sources = random_images(tmp_path / "data", 2, black=-1).sources(network)
    search = Search(network, sources, SearchPlan(passes, plan.views, "fp32", None), silent)
    arms = _arms(network, Banks(network, str(train), tmp_path / "banks", passes), plan)
    assert [arm.method for arm in arms] == ["mcbn", "mcbn", "mcbn+tta", "mcbn+tta"]
    for arm in arms:
        assert arm.bank is not None
        made = search.samples(arm, sources, None, keep=True)
        for draws in made.prefixes:
            written = replace(SETTING, method=combination(arm.method), bank=arm.bank.first(draws), views=plan.views)
            method, _ = method_of(replace(written, network=network.fingerprint), network, "fp32")
            assert method.draws == written.draws == draws
            expected = MethodSamples("softmax", (draws,))
            for item in read_labelled(sources, network):
                known = np.ones(item.size, np.bool_)
                expected.add(item.source.id, method, item.normalised(network)[None], item.label, known, keep=True)
            of_written, on_page = (
                candidate(samples, arm.name, draws, "", [[source.id] for source in sources])
                for samples in (expected, made)
            )
            for name, sample in expected.images.items():
                assert on_page.nll[name] == pytest.approx(of_written.nll[name], abs=1e-5)
                at = made.prefixes.index(draws)
                np.testing.assert_allclose(made.images[name].nll[at], sample.nll[0], atol=1e-5)


def test_passes_over_validation_images_stay_within_the_memory_that_is_asked(tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Toy), (32, 32)))
    train = random_images(tmp_path / "train", 4, black=-1, size=(32, 36))
    plan = TunePlan(passes=2, grid=Grid(batches=(2,), transforms=("plain",)))
    data, large = random_images(tmp_path / "data", 5, black=-1), random_images(tmp_path / "large", 2, black=-1)
    for folder, numbers in (("data", (4,)), ("large", (0, 1))):
        for number in numbers:
            write_png(tmp_path / folder / "images" / f"i{number}.png", np.full((2000, 2000, 3), 9, np.uint8))
            write_png(tmp_path / folder / "labels" / f"i{number}.png", np.zeros((2000, 2000), np.uint8))
    memory = resident() + 400 * 2**20
    tuned = tune(network, data, str(train.images), tmp_path / "out", plan, memory=memory)
    assert list(tuned.failed) == ["i4"]
    assert "2000 x 2000 image: a pass over the whole of it takes about" in tuned.failed["i4"]
    assert tuned.tuned.images == 4
    with pytest.raises(OutOfMemory, match=r"0 of 2 validation images can be used: .* give more --memory"):
        tune(network, large, str(train.images), tmp_path / "none", plan, memory=memory)


@pytest.mark.parametrize("command", ["tune", "sweep"])
def test_mini_batches_of_more_images_than_there_are_are_refused_before_a_folder_is_made(
    command: str, network: Network, train: Path, tmp_path: Path
) -> None:
    data, grid = written(tmp_path / "data", VALIDATION[:2]), Grid(batches=(2, 16), draws=(1,))
    plan = {"tune": TunePlan(passes=4, grid=grid), "sweep": SweepPlan(grid=grid)}[command]
    job: Any = {"tune": tune, "sweep": sweep}[command]
    with pytest.raises(WrongUse, match="at least 16 images, or ask for mini-batches of 8 or fewer"):
        job(network, data, str(train), tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_a_tuned_bank_that_is_replaced_by_another_is_named(
    tuning: Tuning, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuned = tuning.tuned
    for kept, warnings in ((tuned, 0), (tuned, 0), (replace(tuned, bank=tuned.bank.average()), 1)):
        caplog.clear()
        write_tuned(kept, tmp_path, {})
        assert caplog.text.count(f"of fingerprint {bank_fingerprint(tuned.bank)[:12]}, which is replaced") == warnings


def test_the_commands_take_a_tuned_folder_in_place_of_a_bank(tuning: Tuning, tmp_path: Path) -> None:
    data = written(tmp_path / "test", TEST[:1])
    ended = invoked(
        *("predict", "scenes", data.images, "--tuned", tuning.folder, "--precision", "fp32", "-o", tmp_path / "run"),
        "--json",
    )
    assert ended.exit_code == 0, ended.output
    assert json.loads(ended.stdout)["done"] == 1
    neither = invoked("predict", "scenes", data.images, "-o", tmp_path / "none")
    assert isinstance(neither.exception, WrongUse)
    assert "--tuned" in str(neither.exception)


def test_the_command_ends_with_1_and_names_validation_images_that_failed(train: Path, tmp_path: Path) -> None:
    data = written(tmp_path / "validation", VALIDATION[:4])
    broken = sorted((tmp_path / "validation" / "labels").iterdir())[0]
    broken.write_bytes(b"not a png")
    ended = invoked(
        *("tune", "scenes", "--train", train, "--images", data.images, "--labels", data.labels, "--passes", 2),
        *("--batches", 2, "-o", tmp_path / "out", "--json"),
    )
    assert ended.exit_code == 1, ended.output
    assert set(json.loads(ended.stdout)["failed"]) == {broken.stem}
    assert "tuned.json" in ended.stderr


def test_a_scaling_that_moves_masks_is_chosen_only_where_it_was_asked_for() -> None:
    assert TunePlan().scalings == ("temperature",)
    with pytest.raises(WrongUse, match="No scaling is called 'platt'"):
        TunePlan(scalings=("platt",))


@pytest.mark.parametrize("banks", [("a/bank.safetensors", "b/bank.safetensors"), ("M=4, plain.safetensors",)])
def test_two_banks_of_one_name_are_refused_before_either_is_read(banks: tuple[str, ...]) -> None:
    grid = Grid(batches=(4, 8), transforms=("plain",))
    with pytest.raises(WrongUse, match=f"Several banks are called '{Path(banks[0]).stem}'"):
        TunePlan(grid=grid, banks=banks)
    assert TunePlan(grid=grid, banks=("a/bank.safetensors", "M=4.safetensors")).banks


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("name\nx\n", "no column 'id'"),
        ("id,group\na,1\nb,1\na,2\n", "two groups for 'a': '1', '2'"),
    ],
)
def test_a_table_of_groups_that_cannot_be_used_is_refused(tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "groups.csv").write_text("id,group\na,1\nb,\na,1\n")
    assert group_table(tmp_path / "groups.csv", "group") == {"a": "1"}
    with pytest.raises(WrongUse, match="no group for 1 of 2 images, as 'b'"):
        groups_by_id(["a", "b"], {"a": "1"}, "--groups")
    (tmp_path / "groups.csv").write_text(table)
    with pytest.raises(WrongUse, match=words):
        group_table(tmp_path / "groups.csv", "group")
