"""Laws of evaluation: every method on the same images, once each, and what becomes of bad input."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from console import invoked
from given_passes import Given
from labelled_scenes import SIZE, bank_of_scenes, written
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import ImageUnreadable, ModelRefused, WrongUse
from segment.estimation.estimate import ReadOut, estimates, moments_of
from segment.files.banks.bank_file import save_bank
from segment.files.writing import write_png
from segment.images.find import Source, find_images
from segment.images.prepare import prepare
from segment.images.read import read_image, read_label
from segment.images.specs import InputSpec
from segment.jobs.decisions.select import select
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan, build_methods
from segment.jobs.evaluation.scoring import Scoring
from segment.jobs.fit import fit_bank
from segment.jobs.labelled.images import Labels
from segment.methods.augmentation import View, augmented, mcbn_augmented, views
from segment.methods.deterministic import Plain, deterministic
from segment.methods.dropout import Dropout, Inserted
from segment.methods.ensemble import Ensemble
from segment.methods.mcbn import mcbn
from segment.methods.temperature import TemperatureFit, update
from segment.networks.cards import Card
from segment.networks.load import Network, load_network
from segment.passes.passes import PassPlan
from segment.report import results_page
from segment.report.best_methods import in_short
from segment.report.html.charts import reliability
from segment.report.html.details import Sums
from segment.report.method_comparison import MethodBoards, compare, gains, scores
from segment.report.results_page import check_page, images_key, put_section
from segment.scenes.scene import TEST, UNSEEN, VALIDATION, scene
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard
from segment.stores.copies import here
from segment.stores.requests import put

MEASURES = ("predictive_entropy", "variance")
QUICK = MethodPlan(measures=MEASURES, precision="fp32")


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return bank_of_scenes(network, images=12, draws=4)


@pytest.fixture
def data(tmp_path: Path) -> Labels:
    return written(tmp_path, TEST[:4], unseen=True)


def one_image(network: Network, data: Labels) -> Tensor:
    image = read_image(sorted(Path(data.images).iterdir())[0])
    return prepare(image, replace(network.card.input, stride=1))[None]


def seconds_left_out(content: Mapping[str, Any]) -> dict[str, Any]:
    methods = {name: {**method, "seconds": 0} for name, method in content["methods"].items()}
    return {**content, "methods": methods}


def test_every_method_is_scored_in_one_run_and_its_files_follow_the_design(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    validation = written(tmp_path / "validation", VALIDATION[:2])
    plan = EvaluatePlan(methods=replace(QUICK, insert_dropout=0.2), unseen=(UNSEEN,))
    evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan, members=[network], validation=validation)
    content = json.loads((tmp_path / "run" / "scores.json").read_text(), parse_constant=pytest.fail)
    assert list(content) == ["warnings", "images", "pixels", "methods"]
    assert content["images"] == 4
    assert set(content["methods"]) == {
        "mcbn",
        "deterministic",
        "temperature",
        "mean_statistics",
        "dropout",
        "tta",
        "ensemble",
        "mcbn+tta",
        "mcbn+temperature",
        "mcbn+tta+temperature",
    }
    passes = {name: method["passes_per_image"] for name, method in content["methods"].items()}
    assert passes == {
        "mcbn": 4,
        "deterministic": 1,
        "temperature": 1,
        "mean_statistics": 1,
        "dropout": 4,
        "tta": 2,
        "ensemble": 2,
        "mcbn+tta": 4,
        "mcbn+temperature": 4,
        "mcbn+tta+temperature": 4,
    }
    for method in content["methods"].values():
        assert set(method) == {"passes_per_image", "seconds", "scores", "per_class", "curves", "thresholds"}
        assert method["seconds"] > 0
        for entry in method["scores"].values():
            assert (entry["value"] is not None) or entry["why"]
    mcbn_scores = content["methods"]["mcbn"]["scores"]
    assert mcbn_scores["unseen_auroc.variance"]["value"] > 0
    assert mcbn_scores["normalised_pll"]["value"] is not None
    assert mcbn_scores["pavpu_4.variance"]["value"] is not None
    rows = list(csv.DictReader((tmp_path / "run" / "per_image.csv").read_text().splitlines()))
    assert len(rows) == 4 * 10
    assert len((tmp_path / "run" / "manifest.jsonl").read_text().splitlines()) == 4
    assert json.loads((tmp_path / "run" / "run.json").read_text())["timings"]["scoring_seconds"]["mcbn"] > 0


def test_the_scores_are_those_that_scikit_learn_and_torchmetrics_compute_on_stacked_arrays(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    plan = EvaluatePlan(methods=replace(QUICK, methods=("mcbn",)), unseen=(UNSEEN,))
    scores = evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan).scores["methods"]["mcbn"]["scores"]
    method = mcbn(bn_network_of(network), bank, PassPlan(channels_last=True), network.card.input)
    p, label, variance = [], [], []
    for path in sorted(Path(data.images).iterdir()):
        images = prepare(read_image(path), replace(network.card.input, stride=1))[None]
        moments = moments_of(method, images, head="softmax", keep=("square",))
        p.append(moments.mean[0].flatten(1).T.double())
        variance.append(moments.variance[0].mean(dim=0).flatten())
        label.append(torch.from_numpy(read_label(Path(str(data.labels)) / path.name)).flatten())
    kept = torch.cat(label) != UNSEEN
    p_, label_, variance_ = torch.cat(p)[kept], torch.cat(label)[kept], torch.cat(variance)[kept]
    mask = p_.argmax(dim=1)
    wrong = mask != label_
    p_ = p_ / p_.sum(dim=1, keepdim=True)
    jaccard = torchmetrics.JaccardIndex("multiclass", num_classes=6, average="none")(mask, label_)
    there = torch.bincount(torch.cat([mask, label_]), minlength=6) > 0
    expected = {
        "nll": log_loss(label_, p_, labels=range(6)),
        "miou": float(jaccard[there].mean()),
        "accuracy": float((~wrong).double().mean()),
        "ece": float(torchmetrics.CalibrationError("multiclass", num_classes=6, n_bins=15)(p_, label_)),
        "error_auroc.variance": roc_auc_score(wrong, variance_),
    }
    for name, value in expected.items():
        assert scores[name]["value"] == pytest.approx(value, abs=1e-3 if "auroc" in name else 2e-5), name


def test_two_shards_merged_are_one_pass_over_both(network: Network, bank: Bank, data: Labels) -> None:
    sources = data.sources(network)
    made = build_methods(network, [bank], replace(QUICK, methods=("mcbn", "dropout"), insert_dropout=0.3))
    read_outs = made.read_outs({})

    def scored(some: tuple[Any, ...]) -> Scoring:
        boards = {
            n: Scoreboard(ScorePlan(classes=network.card.classes, measures=MEASURES, unseen=(UNSEEN,)))
            for n in read_outs
        }
        scoring = Scoring(network, read_outs, boards)
        scoring.run(some)
        return scoring

    whole, first, second = scored(sources), scored(sources[2:][::-1]), scored(sources[:2])
    first.merge(second.take_part())
    for name, board in whole.boards.items():
        state, merged = board.state(), first.boards[name].state()
        for key, value in state.items():
            np.testing.assert_array_equal(value, merged[key], err_msg=f"{name} {key}")


def test_an_interrupted_run_goes_on_to_the_same_scores(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    plan = EvaluatePlan(methods=replace(QUICK, methods=("mcbn", "deterministic")), unseen=(UNSEEN,))

    def cut(stage: str, done: int, total: int, draws: int = 0) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan, progress=cut)
    assert not (tmp_path / "run" / "scores.json").exists()
    with pytest.raises(WrongUse, match="--resume"):
        evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan)
    reported: list[int] = []
    evaluate_into(
        network,
        data,
        tmp_path / "run",
        banks=[bank],
        plan=plan,
        resume=True,
        progress=lambda stage, done, total, draws=0: reported.append(done),
    )
    assert reported == [2, 3, 4], "where it goes on, then each image"
    evaluate_into(network, data, tmp_path / "whole", banks=[bank], plan=plan)
    resumed, whole = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("run", "whole"))
    assert seconds_left_out(resumed) == seconds_left_out(whole)


def test_bad_labels_are_named_and_the_others_counted(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    labels = Path(str(data.labels))
    seeds = [path.stem for path in sorted(Path(data.images).iterdir())]
    write_png(labels / f"{seeds[0]}.png", np.zeros((10, 10), np.uint8))
    write_png(labels / f"{seeds[1]}.png", np.full(SIZE, 77, np.uint8))
    (labels / f"{seeds[2]}.png").unlink()
    for name, void in (("void", 255), ("good", 0)):
        write_png(Path(data.images) / f"{name}.png", scene(3, size=SIZE).image)
        write_png(labels / f"{name}.png", np.full(SIZE, void, np.uint8))
    (Path(data.images) / "torn.png").write_bytes(b"not a png")
    write_png(labels / "torn.png", np.zeros(SIZE, np.uint8))
    save_bank(bank, tmp_path / "bank.safetensors")
    ended = run(
        "evaluate",
        "scenes",
        "--images",
        data.images,
        "--labels",
        data.labels,
        "--void",
        255,
        "--unseen",
        UNSEEN,
        "--bank",
        tmp_path / "bank.safetensors",
        "--methods",
        "mcbn",
        "--measures",
        "variance",
        "-o",
        tmp_path / "run",
        "--json",
    )
    assert ended.exit_code == 1
    assert json.loads(ended.stdout)["images"] == 3
    lines = [json.loads(line) for line in (tmp_path / "run" / "manifest.jsonl").read_text().splitlines()]
    failed = {line["id"]: line["error"] for line in lines if line["status"] == "failed"}
    assert set(failed) == {*seeds[:3], "torn"}
    assert "10x10" in failed[seeds[0]]
    assert "64x96" in failed[seeds[0]]
    assert "77" in failed[seeds[1]]
    assert "no label map" in failed[seeds[2]]
    rows = {row["id"]: row for row in csv.DictReader((tmp_path / "run" / "per_image.csv").read_text().splitlines())}
    assert rows["void"]["pixels"] == "0.0"
    assert rows["void"]["accuracy"] == ""
    assert "nan" not in (tmp_path / "run" / "per_image.csv").read_text()


def test_a_set_without_one_good_label_is_refused_and_every_image_named(network: Network, tmp_path: Path) -> None:
    data = written(tmp_path, TEST[:2])
    for path in Path(str(data.labels)).iterdir():
        write_png(path, np.full(SIZE, 99, np.uint8))
    with pytest.raises(ImageUnreadable, match="None of the 2 images"):
        evaluate_into(
            network, data, tmp_path / "run", plan=EvaluatePlan(methods=replace(QUICK, methods=("deterministic",)))
        )
    assert len((tmp_path / "run" / "manifest.jsonl").read_text().splitlines()) == 2


def run(*arguments: object) -> Any:
    ended = invoked(*arguments)
    assert ended.exception is None or isinstance(ended.exception, SystemExit), ended.exception
    return ended


def test_one_image_and_one_method_give_scores_without_intervals(network: Network, bank: Bank, tmp_path: Path) -> None:
    data = written(tmp_path, TEST[:1])
    plan = EvaluatePlan(methods=replace(QUICK, methods=("deterministic",)))
    evaluation = evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan)
    entry = evaluation.scores["methods"]["deterministic"]["scores"]["nll"]
    assert entry["value"] > 0
    assert entry["low"] is None
    assert "two images" in entry["why"]
    without = evaluation.scores["methods"]["deterministic"]["scores"]["normalised_pll"]
    assert without["value"] is None
    assert "validation" in without["why"]


def test_several_banks_give_their_mean_and_their_spread(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    halves = [
        replace(bank.first(2), provenance=bank.provenance),
        bank.with_draws(
            torch.full((2,), 0.5), {n: v[2:] for n, v in bank.mean.items()}, {n: v[2:] for n, v in bank.var.items()}
        ),
    ]
    plan = EvaluatePlan(methods=replace(QUICK, methods=("mcbn", "deterministic")), unseen=(UNSEEN,))
    both = evaluate_into(network, data, tmp_path / "both", banks=halves, plan=plan)
    single = [
        evaluate_into(network, data, tmp_path / f"{i}", banks=[half], plan=plan).scores["methods"]["mcbn"]
        for i, half in enumerate(halves)
    ]
    alone, of_both = [method["scores"] for method in single], both.scores["methods"]["mcbn"]
    averaged = of_both["scores"]
    for name in ("nll", "miou", "error_auroc.variance", "accuracy_rank_mean.variance"):
        values = [scores[name]["value"] for scores in alone]
        assert averaged[name]["value"] == pytest.approx(np.mean(values))
        assert averaged[name]["bank_sd"] == pytest.approx(np.std(values, ddof=1))
    for name, of_class in of_both["per_class"].items():
        for number in ("iou", "dice", "ece"):
            values = [method["per_class"][name][number] for method in single]
            known = [value for value in values if value is not None]
            assert of_class[number] == (pytest.approx(np.mean(known)) if known else None)
    assert {curve["bank"] for curve in of_both["curves"].values()} == {1}
    assert {**of_both["curves"]["reliability"]} == {**single[0]["curves"]["reliability"], "bank": 1}
    assert all("bank" not in curve for curve in single[0]["curves"].values())
    (chart,) = reliability(Sums(), [both.scores])
    assert [line["legend"].partition(", ECE")[0] for line in chart["lines"]] == [
        "mcbn (curve of the first bank)",
        "deterministic",
    ]
    assert "bank_sd" not in both.scores["methods"]["deterministic"]["scores"]["nll"]
    nll = next(scores for scores in both.comparisons if scores.score == "nll")
    assert nll.differences[next(iter(nll.differences))]["bank_sd"] > 0


def test_a_bank_that_is_given_twice_is_refused(network: Network, bank: Bank, data: Labels, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="Two of the banks hold the same draws"):
        evaluate_into(network, data, tmp_path / "run", banks=[bank, replace(bank)], plan=EvaluatePlan(methods=QUICK))
    assert not (tmp_path / "run").exists()


def test_the_best_method_goes_by_the_direction_of_each_score_and_is_paired_over_images() -> None:
    rng = np.random.default_rng(0)
    plan = ScorePlan(classes=("a", "b"), measures=("predictive_entropy",))
    sure, unsure = Scoreboard(plan), Scoreboard(plan)
    for number in range(12):
        label = rng.integers(0, 2, (6, 6))
        for board, share in ((sure, 0.9), (unsure, 0.6)):
            p = np.where(label == 1, share, 1 - share)
            maps = {"predictive_entropy": rng.random((6, 6), dtype=np.float32)}
            board.update(str(number), np.stack([1 - p, p]).astype(np.float32), maps, label)
    by_score = {
        comparison.score: comparison
        for comparison in compare({"unsure": MethodBoards((unsure,), 1, 0.1), "sure": MethodBoards((sure,), 1, 1.0)})
    }
    assert by_score["nll"].best == "sure"
    entry = by_score["nll"].differences["unsure"]
    assert entry["value"] == pytest.approx(np.log(0.6) - np.log(0.9), abs=1e-6)
    assert entry["low"] == pytest.approx(entry["high"], abs=1e-6)  # the same on every image: paired, no doubt is left
    assert scores({"sure": MethodBoards((sure,), 1, 1.0)})["methods"]["sure"]["passes_per_image"] == 1
    sentences = in_short(list(by_score.values()), [], 30)
    assert sentences[0].startswith("Significantly best: **sure** in NLL, Brier")
    assert sentences[1].startswith("Best, and equal to each other: **sure** and **unsure** in mIoU, accuracy, Dice")


def test_what_a_method_gains_is_it_minus_its_rival_with_the_interval_and_the_spread_over_banks() -> None:
    rng = np.random.default_rng(1)
    plan = ScorePlan(classes=("a", "b"), measures=("predictive_entropy",))
    boards = [Scoreboard(plan) for _ in range(3)]
    for number in range(12):
        label = rng.integers(0, 2, (6, 6))
        for board, share in zip(boards, (0.6, 0.8, 0.9), strict=True):
            p = np.where(label == 1, share, 1 - share)
            board.update(str(number), np.stack([1 - p, p]).astype(np.float32), {"predictive_entropy": 1 - p}, label)
    (gain,) = gains(
        {"deterministic": MethodBoards((boards[0],), 1, 0.1), "mcbn": MethodBoards(tuple(boards[1:]), 8, 1.0)}
    )
    each = [np.log(0.6) - np.log(share) for share in (0.8, 0.9)]
    entry = gain.differences["nll"]
    assert entry["value"] == pytest.approx(np.mean(each), abs=1e-6)
    assert entry["bank_sd"] == pytest.approx(np.std(each, ddof=1), abs=1e-6)
    (line,) = in_short([], [gain], 30)
    assert line.startswith("**mcbn over deterministic** (8 passes instead of 1): NLL -0.347 (")
    nobody = gains({"mcbn": MethodBoards((boards[1],), 8, 1.0), "tta": MethodBoards((boards[0],), 2, 1.0)})
    assert nobody == []


def test_read_outs_at_fewer_draws_are_those_of_a_smaller_bank(network: Network, bank: Bank, data: Labels) -> None:
    drawn, images = bn_network_of(network), one_image(network, data)
    method = mcbn(drawn, bank, spec=network.card.input)
    wanted = {str(t): ReadOut(method=method, measures=MEASURES, draws=t) for t in (1, 2, 4)}
    estimated = estimates(
        wanted | {"warm": ReadOut(method=method, measures=MEASURES, temperature=2.0)}, images, "softmax"
    )
    for t in (1, 2, 4):
        smaller = mcbn(drawn, bank.first(t), spec=network.card.input)
        alone = moments_of(smaller, images, head="softmax", keep=("square",))
        torch.testing.assert_close(estimated[str(t)].probability[0], alone.mean[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(
            estimated[str(t)].maps["variance"][0], alone.variance[0].mean(dim=0), rtol=1e-4, atol=1e-8
        )
    warm = torch.stack([(logits / 2).softmax(dim=1) for _, logits in method(images)]).mean(dim=0)
    torch.testing.assert_close(estimated["warm"].probability[0], warm[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("draws", [1, 3])
def test_the_fitted_temperature_is_the_one_that_a_plain_optimiser_finds(draws: int) -> None:
    rng = np.random.default_rng(1)
    label = rng.integers(0, 3, (40, 50))
    truth = np.eye(3)[label].transpose(2, 0, 1)  # K H W
    logits = [torch.from_numpy(6 * truth + 4 * rng.standard_normal(truth.shape)).float()[None] for _ in range(draws)]
    known = rng.random(label.shape) < 0.9
    fit = TemperatureFit("softmax")
    assert update([(Given(*logits), [fit])], torch.zeros(1, 3, 40, 50), label, known)

    def nll(log_temperature: float) -> float:
        p = np.mean(
            [
                torch.softmax(logits_of_draw[0].double() / np.exp(log_temperature), 0).numpy()
                for logits_of_draw in logits
            ],
            axis=0,
        )
        return float(-np.log(np.take_along_axis(p, label[None], 0)[0][known]).mean())

    best = minimize_scalar(nll, bounds=(-1.3, 2.0), method="bounded").x
    assert np.log(fit.best()) == pytest.approx(best, abs=0.02)
    assert nll(float(np.log(fit.best()))) <= nll(best) + 1e-4


def test_a_mirrored_image_gets_the_mirrored_estimate_from_flip_augmentation(network: Network, data: Labels) -> None:
    images = one_image(network, data)[..., :-3]  # a width that is padded
    plain = deterministic(bn_network_of(network), spec=network.card.input)
    method = augmented(plain, views("flip,0.75"))
    assert method.draws == 4
    mean, mirrored = (moments_of(method, batch, head="softmax", keep=()).mean for batch in (images, images.flip(-1)))
    torch.testing.assert_close(mirrored, mean.flip(-1), rtol=0, atol=1e-5)
    alone = moments_of(augmented(plain, (View(),)), images, head="softmax", keep=()).mean
    assert mean.shape == alone.shape == (1, 6, 64, 93)
    assert (mean - alone).abs().max() > 1e-3


def test_mcbn_with_views_deals_its_draws_out_so_that_it_costs_what_mcbn_costs(network: Network, bank: Bank) -> None:
    drawn, spec = bn_network_of(network), network.card.input
    images = torch.rand((1, 3, 32, 48), generator=torch.Generator().manual_seed(3))
    method = mcbn_augmented(drawn, bank, views("flip"), spec=spec)
    assert method.draws == len(bank)
    expected = torch.zeros(1, 6, 32, 48)
    for start, view in enumerate(views("flip")):
        for t in range(start, 4, 2):
            single = Bank.of_draws([list(bank)[t]])
            ((_, logits),) = mcbn(drawn, single, spec=spec)(view.applied(images))
            expected += view.undone(logits, (32, 48)).softmax(dim=1) / 4
    torch.testing.assert_close(moments_of(method, images, head="softmax", keep=()).mean, expected, rtol=0, atol=1e-5)
    assert (
        mcbn_augmented(drawn, bank.first(1), views("flip"), spec=spec).draws == 2
    )  # each view needs one draw at least


def test_an_ensemble_is_the_mean_of_its_members(network: Network) -> None:
    images = torch.rand((1, 3, 32, 48), generator=torch.Generator().manual_seed(4))
    other = load_network("segment:tiny?classes=6")
    members = [Plain(member.module, member, PassPlan()) for member in (network, other)]
    mean = moments_of(Ensemble(tuple(members)), images, head="softmax", keep=()).mean
    with torch.no_grad():
        expected = (network(images).softmax(1) + other(images).softmax(1)) / 2
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-5)


class Dropping(nn.Module):
    """No BN; dropout of values and of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 1)
        self.single = nn.Dropout(0.5)
        self.whole = nn.Dropout2d(0.25)
        self.head = nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.whole(self.single(self.conv(x))))


def dropping() -> Network:
    card = Card(name="dropping", network="py:given:module", classes=("a", "b", "c"), input=InputSpec())
    with torch.random.fork_rng():
        return load_network(Dropping(), card=card)


def test_mc_dropout_draws_the_same_masks_for_an_image_whatever_came_before_it() -> None:
    network = dropping()
    images = torch.rand((1, 3, 8, 8), generator=torch.Generator().manual_seed(5))
    method = Dropout(Plain(network.module, network, PassPlan()), 3, seed=1)
    before = torch.get_rng_state()
    first, again, other = (torch.cat([logits for _, logits in method.of(name)(images)]) for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module.training for module in network.module.modules())


def test_the_mean_of_many_dropout_passes_is_the_pass_without_dropout() -> None:
    """The network is linear, so that this is exact in expectation: kept values are scaled by 1/(1 - p)."""
    network = dropping()
    images = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(6))
    method = Dropout(Plain(network.module, network, PassPlan()), 4000)
    outputs = torch.cat([logits for _, logits in method(images)])
    error = outputs.std(dim=0) / len(outputs) ** 0.5
    with torch.no_grad():
        assert ((outputs.mean(dim=0) - network(images)[0]).abs() < 5 * error).all()


def test_dropout_of_channels_drops_whole_channels() -> None:
    seen: list[Tensor] = []

    def record(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    network = dropping()
    network.module.get_submodule("single").p = 0.0  # type: ignore[assignment]
    handle = network.module.get_submodule("head").register_forward_pre_hook(record)
    list(Dropout(Plain(network.module, network, PassPlan()), 1)(torch.rand(1, 3, 5, 5)))
    handle.remove()
    dead = (seen[0] == 0).flatten(2)
    assert torch.equal(dead.all(dim=2), dead.any(dim=2))
    assert 0 < int(dead.all(dim=2).sum()) < 16


def test_dropout_is_refused_where_there_is_none_and_inserting_it_leaves_the_network_alone(
    network: Network, bank: Bank, data: Labels
) -> None:
    with pytest.raises(ModelRefused, match="--insert-dropout"):
        build_methods(network, [bank], replace(QUICK, methods=("dropout",)))
    made = build_methods(network, [bank], replace(QUICK, methods=("dropout",), insert_dropout=0.5))
    method = made.methods["dropout"][0]
    assert isinstance(method, Dropout)
    assert isinstance(method.insert, Inserted)
    assert made.notes["dropout"] == str(method.insert), "masks are a random sample"
    assert "before head" in made.notes["dropout"]
    images = one_image(network, data)
    before = network.fingerprint, Plain(network.module, network, PassPlan())(images)
    first, second = [logits for _, logits in method.of("a")(images)][:2]
    assert not torch.equal(first, second)
    assert not network.module.get_submodule("head")._forward_pre_hooks
    ((_, plain),) = before[1]
    with torch.no_grad():
        torch.testing.assert_close(network(images), plain)


def test_a_network_without_batch_normalisation_is_evaluated_with_what_it_has(tmp_path: Path) -> None:
    network = dropping()
    for seed in TEST[:2]:
        drawn = scene(seed, size=(32, 48))
        write_png(tmp_path / "images" / f"{seed}.png", drawn.image)
        write_png(tmp_path / "labels" / f"{seed}.png", (drawn.label % 3).astype(np.uint8))
    evaluation = evaluate_into(
        network,
        Labels(tmp_path / "images", tmp_path / "labels"),
        tmp_path / "run",
        plan=EvaluatePlan(methods=replace(QUICK, draws=3)),
    )
    assert list(evaluation.scores["methods"]) == ["deterministic", "dropout", "tta"]
    assert evaluation.scores["methods"]["dropout"]["passes_per_image"] == 3
    with pytest.raises(WrongUse, match="needs a bank"):
        build_methods(network, [], replace(QUICK, methods=("mcbn",)))


class Heads(nn.Module):
    """BN, and as many outputs as asked."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Conv2d(3, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.norm(x)))


def headed(card: Card, outputs: int) -> Network:
    with torch.random.fork_rng():
        return load_network(Heads(outputs), card=card)


@pytest.mark.parametrize("labels", [("red", "green"), ("red",)])
def test_a_multi_label_head_is_scored_label_by_label_also_with_one(labels: tuple[str, ...], tmp_path: Path) -> None:
    card = Card(name="heads", network="py:given:module", classes=labels, head="multilabel", input=InputSpec())
    network = headed(card, len(labels))
    rng = np.random.default_rng(7)
    truth: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in labels}
    for number in range(3):
        write_png(tmp_path / "images" / f"{number}.png", rng.integers(0, 255, (16, 20, 3)).astype(np.uint8))
        for name in labels:
            truth[name].append(rng.integers(0, 2, (16, 20)).astype(np.uint8))
            write_png(tmp_path / "labels" / name / f"{number}.png", truth[name][-1])
    made = fit_bank(network, str(tmp_path / "images"), batch=2, draws=3)
    evaluation = evaluate_into(
        network,
        Labels(tmp_path / "images", tmp_path / "labels"),
        tmp_path / "run",
        banks=[made],
        plan=EvaluatePlan(methods=replace(QUICK, methods=("deterministic",))),
    )
    accuracies = []
    for k, name in enumerate(labels):
        right = []
        for number, mask in enumerate(truth[name]):
            images = prepare(read_image(tmp_path / "images" / f"{number}.png"), card.input)[None]
            with torch.no_grad():
                right.append((network(images)[0, k].sigmoid() >= 0.5).numpy() == (mask == 1))
        accuracies.append(np.mean(right))
    assert evaluation.scores["methods"]["deterministic"]["scores"]["accuracy"]["value"] == pytest.approx(
        np.mean(accuracies), abs=2e-3
    )
    with pytest.raises(WrongUse, match="one folder of label maps"):
        Labels(tmp_path / "images", tmp_path / "images").sources(network)


def test_a_sigmoid_head_is_two_classes(tmp_path: Path) -> None:
    network = headed(Card(name="one", network="py:given:module", head="sigmoid", input=InputSpec()), 1)
    rng = np.random.default_rng(8)
    for number in range(2):
        write_png(tmp_path / "images" / f"{number}.png", rng.integers(0, 255, (16, 20, 3)).astype(np.uint8))
        write_png(tmp_path / "labels" / f"{number}.png", rng.integers(0, 2, (16, 20)).astype(np.uint8))
    made = fit_bank(network, str(tmp_path / "images"), batch=2, draws=3)
    evaluation = evaluate_into(
        network,
        Labels(tmp_path / "images", tmp_path / "labels"),
        tmp_path / "run",
        banks=[made],
        plan=EvaluatePlan(methods=QUICK),
    )
    assert set(evaluation.scores["methods"]["mcbn"]["per_class"]) == {"background", "foreground"}
    assert evaluation.scores["methods"]["mcbn"]["scores"]["nll"]["value"] > 0


def test_methods_that_lack_what_they_need_are_refused_in_words(network: Network, bank: Bank) -> None:
    for asked, needs in (("temperature", "validation"), ("ensemble", "--ensemble")):
        with pytest.raises(WrongUse, match=needs):
            build_methods(network, [bank], replace(QUICK, methods=(asked,)))
    with pytest.raises(WrongUse, match="Near: 'mcbn"):
        MethodPlan(methods=("mcbm",))
    with pytest.raises(WrongUse, match="No view"):
        views("flop")


def test_the_images_selected_first_are_those_with_the_largest_value(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    plan = EvaluatePlan(methods=replace(QUICK, methods=("mcbn",)), unseen=(UNSEEN,))
    evaluation = evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan)
    chosen = select(tmp_path / "run", 2)
    ranks = {
        name.removeprefix("dice_rank_"): entry["value"]
        for name, entry in evaluation.scores["methods"]["mcbn"]["scores"].items()
        if name.startswith("dice_rank_")
    }
    assert ranks[chosen.by] == max(value for value in ranks.values() if value is not None)
    rows = list(csv.DictReader((tmp_path / "run" / "per_image.csv").read_text().splitlines()))
    worst = sorted(rows, key=lambda row: -float(row["mean.variance"]))[:2]
    by_variance = select(tmp_path / "run", 2, by="mean.variance")
    assert [image[0] for image in by_variance.images] == [row["id"] for row in worst]
    assert Path(by_variance.images[0][1]).is_file()
    with pytest.raises(WrongUse, match=r"Near: 'mean\.variance'"):
        select(tmp_path / "run", 2, by="mean.varianse")
    with pytest.raises(WrongUse, match="holds no run"):
        select(tmp_path, 2)


def test_selecting_from_a_predict_run_goes_by_the_mean_of_its_heat_measure(
    bank: Bank, data: Labels, tmp_path: Path
) -> None:
    save_bank(bank, tmp_path / "bank.safetensors")
    run(
        "predict",
        "scenes",
        data.images,
        "--bank",
        tmp_path / "bank.safetensors",
        "-o",
        tmp_path / "run",
        "--maps",
        "variance",
        "--format",
        "npz",
    )
    ended = run("select", tmp_path / "run", "--top", 3, "--json")
    assert ended.exit_code == 0
    selection = json.loads(ended.stdout)
    assert selection["by"] == "mean.predictive_entropy"
    values = [image["mean.predictive_entropy"] for image in selection["images"]]
    assert values == sorted(values, reverse=True)
    lines = (tmp_path / "run" / "select.csv").read_text().splitlines()
    assert lines[0] == "rank,id,source,mean.predictive_entropy"
    assert len(lines) == 4


def a_page(folder: Path, place: str) -> Path:
    return folder / "results.md" if place == "here" else Path(f"memory://{folder.name}/results.md")


@pytest.mark.parametrize("place", ["here", "on a store"])
def test_a_section_of_the_report_is_replaced_and_the_others_stay(tmp_path: Path, place: str) -> None:
    page = a_page(tmp_path, place)
    put_section(page, "one", "## One\n\nold\n")
    put_section(page, "two", "## Two\n")
    put_section(page, "one", "## One\n\nnew\n", "some images")
    with here(page) as copy:
        text = copy.read_text()
    assert "old" not in text
    assert text.index("new") < text.index("## Two")
    assert text.count("## One") == 1
    with pytest.raises(WrongUse, match=r"section 'one' of other images"):
        check_page(page, "one", "other images")


def test_images_on_a_store_have_the_key_of_the_same_files_here(tmp_path: Path) -> None:
    keys = []
    for length in (1, 2):
        (tmp_path / "a.png").write_bytes(bytes(length))
        put([(tmp_path / "a.png", there := Path(f"memory://{tmp_path.name}/a.png"))])
        keys += [images_key([Source("a", there)]), images_key([Source("a", tmp_path / "a.png")])]
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_a_section_of_other_images_is_not_overwritten_and_its_own_is(tmp_path: Path) -> None:
    pages, own = tmp_path / "results.md", written(tmp_path / "own", range(2))
    same = images_key(find_images(own.images))
    put_section(pages, "scenes", "## One\n", same)
    check_page(pages, "scenes", same)
    others = images_key(find_images(written(tmp_path / "other", range(2, 4)).images))
    assert len({same, others, images_key(find_images(own.images), ("fog", 3))}) == 3
    with pytest.raises(WrongUse, match=r"section 'scenes' of other images.*another name by --title"):
        check_page(pages, "scenes", others)
    images = ("--images", tmp_path / "other" / "images", "--labels", tmp_path / "other" / "labels")
    with pytest.raises(AssertionError, match="another name by --title"):  # what `run` says of a refusal
        run("evaluate", "scenes", *images, "-o", tmp_path / "run", "--report", pages)
    assert not (tmp_path / "run").exists()
    check_page(pages, "another", others)
    put_section(pages, "scenes", "## New\n", same)
    with pytest.raises(WrongUse, match=r"section 'scenes' of other images.*another name by --title"):
        put_section(pages, "scenes", "## Another command's, which has begun when there was none\n", others)
    assert pages.read_text().count("<!-- images ") == 1
    assert "## New" in pages.read_text()


def test_sections_that_end_together_are_all_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, both = tmp_path / "results.md", threading.Barrier(2)
    real = results_page._page

    def read(path: Path) -> str:
        text = real(path)
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=0.5)  # the other one has read too, where nothing keeps it from that
        return text

    monkeypatch.setattr(results_page, "_page", read)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda name: put_section(page, name, f"## {name}\n"), ("one", "two")))
    assert [name for name in ("## one", "## two") if name not in page.read_text()] == []


def test_the_command_prints_tables_and_writes_the_report_and_plots(bank: Bank, data: Labels, tmp_path: Path) -> None:
    save_bank(bank, tmp_path / "bank.safetensors")
    ended = run(
        "evaluate",
        "scenes",
        "--images",
        data.images,
        "--labels",
        data.labels,
        "--unseen",
        UNSEEN,
        "--bank",
        tmp_path / "bank.safetensors",
        "--methods",
        "mcbn,deterministic",
        "--measures",
        "predictive_entropy,variance",
        "-o",
        tmp_path / "run",
        "--report",
        tmp_path / "results.md",
        "--plots",
    )
    assert ended.exit_code == 0
    assert "Best two methods" in ended.stdout
    assert "mcbn over deterministic (4 passes instead of 1)" in " ".join(ended.stdout.split())
    page = (tmp_path / "results.md").read_text()
    assert "| mcbn | 4 |" in page
    assert "bank of 4 draws of M = 4" in page
    assert (
        page.index("**mcbn over deterministic**")
        < page.index("| mcbn | 4 |")
        < page.index("<summary>The best two methods")
    )
    for name in ("reliability", "risk_coverage", "sparsification"):
        assert read_image(tmp_path / "run" / f"{name}.png").shape[2] == 3


def test_of_one_image_no_difference_is_significant_and_of_void_pixels_no_score_is_defined(
    bank: Bank, tmp_path: Path
) -> None:
    save_bank(bank, tmp_path / "bank.safetensors")
    data = written(tmp_path, range(1))
    arguments = (
        "--images",
        data.images,
        "--labels",
        data.labels,
        "--bank",
        tmp_path / "bank.safetensors",
        "--methods",
        "mcbn,deterministic",
        "--unseen",
        UNSEEN,
        "--report",
        tmp_path / "results.md",
    )
    assert run("evaluate", "scenes", *arguments, "-o", tmp_path / "one").exit_code == 0
    assert "- One image gives no intervals, so no difference" in (tmp_path / "results.md").read_text()
    for path in (tmp_path / "labels").iterdir():
        write_png(path, np.full_like(read_label(path), 255).astype(np.uint8))
    ended = run("evaluate", "scenes", *arguments, "--void", "255", "-o", tmp_path / "void")
    assert ended.exit_code == 0
    page = (tmp_path / "results.md").read_text()
    assert "No pixel has a known label, so that no score is defined." in page
    assert "nan" not in page
    plan = EvaluatePlan(methods=replace(QUICK, methods=("mcbn", "temperature")), void=255)
    with pytest.raises(WrongUse, match="all of them are void"):
        evaluate_into(load_network("scenes"), data, tmp_path / "run", banks=[bank], plan=plan, validation=data)
    with pytest.raises(WrongUse, match="is a folder"):
        check_page(tmp_path)
