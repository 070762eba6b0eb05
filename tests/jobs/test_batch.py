"""Images of one size through the network together, and that nothing of how a run is carried out changes its results."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from plain import calibrated, random_bank, seeded
from processes import photographs
from small_networks import Small
from torch import Tensor, nn

import segment
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import ModelRefused, OutOfMemory, WrongUse
from segment.estimation.batching import Batch, BatchedEstimator
from segment.estimation.estimate import ReadOut
from segment.estimation.estimator import Estimator
from segment.estimation.memory_budget import MemoryBudget
from segment.estimation.plan import EstimatePlan
from segment.images.find import Source, find_images
from segment.images.specs import InputSpec
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan, build_methods
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.methods.augmentation import augmented, views
from segment.methods.deterministic import Plain
from segment.methods.dropout import Dropout
from segment.methods.ensemble import Ensemble
from segment.methods.mcbn import mcbn
from segment.methods.method import Method
from segment.networks.cards import Card
from segment.networks.load import Network, load_network
from segment.passes.passes import PassPlan
from segment.uncertainty.stopping import StopPlan

MAPS = ("prediction", "variance", "predictive_entropy", "probability")


class Mixing(Small):
    """Its output for an image depends on the batch that the image is in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(dim=(0, 2, 3), keepdim=True))


class NanOnBlack(Small):
    """Not finite on a black image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / x.amax(dim=(1, 2, 3), keepdim=True)


class Untracked(Small):
    """A BN without running statistics takes those of the batch at hand."""

    def __init__(self) -> None:
        super().__init__()
        self.bn2 = nn.BatchNorm2d(8, track_running_stats=False)


def network_of(module: type[Small]) -> tuple[Network, Bank]:
    network = load_network(calibrated(seeded(module), (32, 32)))
    return network, random_bank(bn_network_of(network))


def batched(network: Network, method: Method, batch: int, plan: EstimatePlan | None = None) -> BatchedEstimator:
    read_out = ReadOut(method=method, measures=("variance",))
    return BatchedEstimator(Estimator(network, {"": read_out}, plan), batch)


def maps_of(run: Path) -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for path in sorted(run.rglob("maps.npz")):
        with np.load(path) as archive:
            found[str(path.parent.relative_to(run))] = {name: archive[name] for name in archive.files}
    return found


def mixed_images(place: Path, size: tuple[int, int], other: tuple[int, int]) -> Path:
    """Six images of one size, one of another between them, and one that is damaged."""
    images = photographs(place / "images", 6, *size)
    photographs(place / "more", 1, *other)
    (place / "more" / "000.png").rename(images / "002b.png")
    (images / "004.png").write_bytes(b"no image")
    return images


@pytest.mark.parametrize("megabytes", [90, 120, 160, 240, 400])
def test_images_go_together_by_the_same_memory_as_an_image_goes_whole(megabytes: int) -> None:
    bands = InputSpec(channels=12, white=10_000.0)  # whose pixels, in float32, count too
    card = Card(name="bands", network="py:given:module", classes=("a", "b", "c", "d"), input=bands)
    network = load_network(nn.Sequential(nn.Conv2d(12, 4, 3, padding=1), nn.BatchNorm2d(4)), card=card)
    method = mcbn(bn_network_of(network), random_bank(bn_network_of(network)), PassPlan(), network.card.input)
    many = batched(network, method, 1, EstimatePlan(budget=MemoryBudget(megabytes * 2**20)))
    for side in range(64, 1024, 64):
        try:
            whole = many.estimator.side_for(side, side) is None
        except OutOfMemory:
            whole = False
        assert many._fits(side, side, 1) == whole, side


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return mixed_images(tmp_path, (200, 264), (168, 176))


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    return mixed_images(tmp_path, (32, 40), (24, 32))


def test_no_tile_batch_worker_or_order_changes_the_results(folder: Path, tmp_path: Path) -> None:
    network, bank = network_of(Small)
    sources = list(find_images(folder))
    random.Random(1).shuffle(sources)
    reference: dict[str, dict[str, np.ndarray]] = {}
    of_plan: dict[tuple[object, int], dict[str, dict[str, np.ndarray]]] = {}
    for tile, batch, workers, shuffled in product(("off", 160, 256), (1, 4), (0, 2), (False, True)):
        if (workers == 2) != shuffled:  # half of them: threads and order do not meet in any code
            continue
        plan = PredictPlan(
            tile=tile,  # type: ignore[arg-type]
            batch=batch,
            workers=workers,
            formats=("npz",),
            maps=MAPS,
            precision="fp32",
        )
        run = tmp_path / f"{tile}_{batch}_{workers}"
        asked: Path | list[Source] = sources if shuffled else folder
        summary = predict(network, asked, bank, run, plan)
        assert (summary.done, list(summary.failed)) == (6, ["004"])
        made = maps_of(run)
        reference = reference or made
        for id, maps in made.items():
            for name, values in maps.items():
                if name == "prediction":
                    assert (values != reference[id][name]).mean() < 1e-3  # ties
                else:
                    np.testing.assert_allclose(values, reference[id][name], atol=1e-5, err_msg=f"{plan} {id} {name}")
        same_plan = of_plan.setdefault((tile, batch), made)
        for id, maps in made.items():
            for name, values in maps.items():
                np.testing.assert_array_equal(values, same_plan[id][name], err_msg=f"{plan} {id} {name}")
        record = json.loads((run / "run.json").read_text())["plan"]
        assert (record["images"], record["tile"]) == (batch, tile)


def test_an_image_in_a_batch_does_not_depend_on_its_neighbours() -> None:
    network, bank = network_of(Small)
    images = torch.randn(7, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    calls = batched(network, mcbn(bn_network_of(network), bank), 4)
    groups = [images[:4], images[4:7], images[2:3], images[[6, 0, 5, 3]]]
    made: dict[int, Tensor] = {}
    for indices, group in zip(([0, 1, 2, 3], [4, 5, 6], [2], [6, 0, 5, 3]), groups, strict=True):
        for index, estimate in zip(indices, calls([image[None] for image in group], ["a"] * len(group)), strict=True):
            assert torch.equal(made.setdefault(index, estimate[""].variance), estimate[""].variance)
    assert len(made) == 7


def test_one_image_of_a_batch_that_fails_fails_alone(tmp_path: Path) -> None:
    network, bank = network_of(NanOnBlack)
    images = photographs(tmp_path / "images", 4, 32, 40)
    black = load_black(images / "001.png")
    assert not black.any()
    summary = predict(network, images, bank, tmp_path / "run", PredictPlan(batch=4, formats=("npz",)))
    assert (summary.done, list(summary.failed)) == (3, ["001"])
    assert "not finite" in summary.failed["001"]


def load_black(path: Path) -> np.ndarray:
    from segment.files.writing import write_png

    pixels = np.zeros((32, 40, 3), np.uint8)
    write_png(path, pixels)
    return pixels


def test_images_go_alone_where_they_cannot_go_together() -> None:
    network, bank = network_of(Small)
    drawn = bn_network_of(network)
    method = mcbn(drawn, bank)
    assert batched(network, method, 4).most(32, 40) == 4
    assert batched(network, method, 4, EstimatePlan(stop=StopPlan())).most(32, 40) == 1
    assert batched(network, method, 4, EstimatePlan(tile=160)).most(32, 40) == 4
    assert batched(network, method, 4, EstimatePlan(tile=160)).most(168, 40) == 1
    assert batched(network, Dropout(method, 2), 4).most(32, 40) == 1
    mixing, its_bank = network_of(Mixing)
    assert batched(mixing, mcbn(bn_network_of(mixing), its_bank), 4).most(32, 40) == 1


def test_a_batch_norm_of_the_batch_at_hand_mixes_images_and_under_a_bank_it_does_not(tmp_path: Path) -> None:
    network, bank = network_of(Untracked)
    assert batched(network, mcbn(bn_network_of(network), bank), 4).most(32, 40) == 4
    plain = Plain(network.module, network, PassPlan())
    for method in (plain, Dropout(plain, 2), Ensemble((plain, plain))):
        assert batched(network, method, 4).most(32, 40) == 1
    images = torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 5).view(4, 1, 1, 1)
    samples = [(image, network.module(image[None]).argmax(dim=1)[0]) for image in images]
    plan = EvaluatePlan(methods=MethodPlan(methods=("deterministic",)), batch=4)
    assert segment.evaluate(network, samples, plan=plan).scores["methods"]["deterministic"]["scores"]["accuracy"][
        "value"
    ] == pytest.approx(1.0)


def test_a_method_that_is_made_of_others_has_their_engine_and_their_eval_mode() -> None:
    network, bank = network_of(Untracked)
    plain = Plain(network.module, network, PassPlan())
    drawn = mcbn(bn_network_of(network), bank)
    compiled = mcbn(bn_network_of(network), bank, PassPlan(engine="openvino"))
    cases: list[tuple[Method, str, bool]] = [
        (plain, "torch", True),
        (drawn, "torch", False),
        (compiled, "openvino", False),
        (Dropout(plain, 2), "torch", True),
        (Dropout(compiled, 2), "openvino", False),
        (Ensemble((drawn, Dropout(plain, 2))), "torch", True),
        (augmented(Ensemble((drawn, compiled)), views("flip")), "openvino", False),
    ]
    for method, engine, in_eval_mode in cases:
        assert (method.engine, method.in_eval_mode) == (engine, in_eval_mode), method


def test_several_images_of_a_network_that_mixes_them_have_the_estimates_of_each_alone() -> None:
    network, bank = network_of(Mixing)
    images = torch.randn(3, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    estimator = segment.MCBN(network, bank)
    for image, estimate in zip(images, (estimator(images).image(index) for index in range(3)), strict=True):
        assert torch.equal(estimate.probability, estimator(image).probability)
    with pytest.raises(WrongUse, match="may mix the images of a batch: ask for the draws of one image"):
        next(iter(estimator.draws(images)))
    assert len(list(estimator.draws(images[0]))) == len(bank)


def test_a_member_without_running_statistics_is_refused_where_a_bank_is_anothers() -> None:
    network, bank = network_of(Untracked)
    plan = MethodPlan(methods=("ensemble",))
    with pytest.raises(ModelRefused, match="keeps no running statistics in bn2, and the bank holds those of another"):
        build_methods(network, [bank], plan, members=[network], validated=False)
    (ensemble,) = build_methods(network, [], plan, members=[network], validated=False).methods["ensemble"]
    image = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.module(image)
    for _, output in ensemble(image):
        torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)


def test_fewer_images_go_together_where_memory_is_short() -> None:
    network, bank = network_of(Small)
    method = mcbn(bn_network_of(network), bank)
    fitting = [
        batched(network, method, 8, EstimatePlan(budget=MemoryBudget(free))).most(256, 256)
        for free in (10 * 2**30, 2**28, 2**27 + 2**26)
    ]
    assert fitting[0] == 8
    assert fitting == sorted(fitting, reverse=True)
    assert fitting[-1] < 8


class Limited(Small):
    """Runs out of memory, as a CPU does, on more images than fit; sizes: of the batches of its passes."""

    fits, sizes = 8, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        if len(x) > self.fits:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory")
        return super().forward(x)


def limited(fits: int) -> tuple[Network, Bank, Limited]:
    network, bank = network_of(Limited)
    module = network.module
    assert isinstance(module, Limited)
    module.fits, module.sizes = fits, []
    return network, bank, module


@pytest.mark.parametrize(("fits", "batch"), [(2, 8), (3, 4), (1, 4), (1, "auto"), (2, "auto")])
def test_a_device_that_runs_out_gets_half_of_the_images_and_none_is_lost(
    fits: int, batch: Batch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, bank, module = limited(fits)
    images = photographs(tmp_path / "images", 6, 32, 40)
    plan = PredictPlan(batch=batch, formats=("npz",), maps=MAPS, precision="fp32")
    summary = predict(network, images, bank, tmp_path / "run", plan)
    assert (summary.done, summary.failed) == (6, {})
    levels = [
        record.levelname for record in caplog.records if record.message.startswith("Out of memory: images of 32 x")
    ]
    if isinstance(batch, int):
        assert levels == (["WARNING", "INFO"][: len(levels)] if fits > 1 else []), (
            "two are tried before the first group"
        )
        assert bool(levels) == (fits > 1)
        tried = [size for size in module.sizes if size > fits]
        assert len(tried) <= 4, "what ran out of memory is not tried again"
    module.fits = 8
    predict(network, images, bank, tmp_path / "alone", replace(plan, batch=1))
    alone = maps_of(tmp_path / "alone")
    for id, maps in maps_of(tmp_path / "run").items():
        for name, values in maps.items():
            if name != "prediction":
                np.testing.assert_allclose(values, alone[id][name], atol=1e-5, err_msg=f"{id} {name}")


def test_half_of_a_group_is_made_again_where_a_fast_path_of_the_other_half_differs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, bank = network_of(Small)
    calls = batched(network, mcbn(bn_network_of(network), bank), 4)
    calls._most[32, 40] = 2  # as after memory ran out
    images = torch.randn(4, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    whole, made = calls.estimator.whole, list[int]()

    def counted(some: Tensor, identity: str = "") -> Any:
        made.append(len(some))
        calls.estimator.to_redo = len(made) - 1 if len(made) == 2 else calls.estimator.to_redo
        return whole(some, identity)

    monkeypatch.setattr(calls.estimator, "whole", counted)
    estimates = calls([image[None] for image in images], ["a"] * 4)
    assert made == [2, 2, 2, 2]
    assert len(estimates) == 4


def test_auto_measures_once_and_a_run_that_goes_on_keeps_it(
    folder: Path, tmp_path: Path, batches_timed: list[int]
) -> None:
    network, bank = network_of(Small)
    plan = PredictPlan(batch="auto", formats=("npz",))
    predict(network, folder, bank, tmp_path / "run", plan)
    assert batches_timed == [1, 2, 4]
    record = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert (record["images"], record["images_measured_at"]) == (2, 200 * 264)
    (tmp_path / "run" / "001" / "maps.npz").unlink()
    predict(network, folder, bank, tmp_path / "run", plan, resume=True)
    assert batches_timed == [1, 2, 4]
    with pytest.raises(WrongUse, match="batch is 'auto' there"):
        predict(network, folder, bank, tmp_path / "run", PredictPlan(formats=("npz",)), resume=True)


def labels_of(images: Path) -> Path:
    """Random class indices for each image that can be read, and one pixel for any other."""
    generator = np.random.default_rng(0)
    labels = images.with_name("labels")
    labels.mkdir()
    for path in sorted(images.iterdir()):
        try:
            with Image.open(path) as image:
                width, height = image.size
        except OSError:
            width, height = 1, 1
        Image.fromarray(generator.integers(0, 3, (height, width), dtype=np.uint8)).save(labels / path.name)
    return labels


@pytest.mark.parametrize("batch", [4, "auto"])
def test_an_evaluation_counts_the_same_whatever_goes_together(small_folder: Path, tmp_path: Path, batch: Batch) -> None:
    network, bank = network_of(Small)
    data = Labels(str(small_folder), str(labels_of(small_folder)))
    names = ("mcbn", "deterministic", "mcbn+temperature")
    methods = MethodPlan(methods=names, measures=("variance", "predictive_entropy"), precision="fp32")
    made = {
        each: evaluate_into(
            network,
            data,
            tmp_path / f"run_{each}",
            banks=[bank],
            validation=data,
            plan=EvaluatePlan(methods=methods, batch=each),
        )
        for each in (1, batch)
    }
    for evaluation in made.values():
        assert list(evaluation.failed) == list(evaluation.validation.failed) == ["004"]
    one_pixel = 1.01 / made[1].scores["pixels"]  # which rounding may move to the other side of PAvPU's threshold
    for name, method in made[1].scores["methods"].items():
        for score, entry in method["scores"].items():
            value = made[batch].scores["methods"][name]["scores"][score]["value"]
            if entry["value"] is None:
                assert value is None, f"{name} {score}"
            else:
                apart = one_pixel if score.startswith("pavpu_1.") else 1e-4
                np.testing.assert_allclose(value, entry["value"], rtol=0, atol=apart, err_msg=f"{name} {score}")
    together = json.loads((tmp_path / f"run_{batch}" / "run.json").read_text())["plan"].get("images", 1)
    assert together == batch or (batch == "auto" and together in (1, 2, 4, 8))


def test_one_image_of_a_batch_that_cannot_be_scored_fails_alone(tmp_path: Path) -> None:
    network, bank = network_of(NanOnBlack)
    images = photographs(tmp_path / "images", 4, 32, 40)
    load_black(images / "001.png")
    plan = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=("variance",)), batch=4)
    made = evaluate_into(
        network, Labels(str(images), str(labels_of(images))), tmp_path / "run", banks=[bank], plan=plan
    )
    assert (made.scores["images"], list(made.failed)) == (3, ["001"])
    assert "not finite" in made.failed["001"]


@pytest.mark.usefixtures("batches_timed")
def test_an_evaluation_that_goes_on_keeps_what_auto_measured(
    small_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, bank = network_of(Small)
    (small_folder / "004.png").unlink()
    data = Labels(str(small_folder), str(labels_of(small_folder)))
    plan = EvaluatePlan(methods=MethodPlan(methods=("mcbn",), measures=("variance",)), batch="auto")

    class Stop(Exception):
        pass

    def stop(stage: str, done: int, total: int, draws: int = 0) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan, progress=stop)
    monkeypatch.setattr("segment.estimation.batching._seconds", None)  # not measured again
    made = evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=plan, resume=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())["plan"]
    assert (record["images"], record["images_measured_at"]) == (2, 32 * 40)
    assert made.scores["images"] == 6
    with pytest.raises(WrongUse, match="batch is 'auto' there"):
        evaluate_into(network, data, tmp_path / "run", banks=[bank], plan=replace(plan, batch=1), resume=True)


@pytest.mark.parametrize(
    "refused", [lambda: PredictPlan(batch=0), lambda: PredictPlan(batch=-2), lambda: EvaluatePlan(batch=0)]
)
def test_no_images_in_a_pass_are_refused(refused: Callable[[], object]) -> None:
    with pytest.raises(WrongUse, match="--batch is auto or"):
        refused()
