"""Laws of combined methods: any passes with views and a scaling, and scalings fitted on held-out images only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from given_passes import Given
from labelled_scenes import bank_of_scenes, written
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional

from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.estimation.estimate import ReadOut, estimate, estimates
from segment.files.banks.cache import marks_in
from segment.files.writing import write_png
from segment.images.prepare import prepare
from segment.images.read import read_image
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import MethodPlan, build_methods
from segment.jobs.fit import fit_bank
from segment.jobs.labelled.images import Labels
from segment.methods.augmentation import View
from segment.methods.dropout import Dropout
from segment.methods.temperature import Fit, TemperatureFit, update
from segment.methods.vector_scaling import LEAST_IMAGES, PrefixScalings, VectorScalingFit
from segment.networks.load import Network
from segment.report.results import Validation
from segment.scenes.scene import TEST, TRAIN, VALIDATION, scene
from segment.uncertainty.scaling import VectorScaling, as_json, of_json

QUICK = MethodPlan(measures=("predictive_entropy",), precision="fp32")
EVERYTHING = ("mcbn+tta+vector_scaling", "mean_statistics+tta", "ensemble+tta+temperature", "dropout+tta")


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return bank_of_scenes(network, draws=4)


def test_a_method_has_one_name_whatever_the_order_of_its_parts_and_wrong_ones_are_refused() -> None:
    plan = MethodPlan(methods=("temperature+tta+mcbn", "deterministic+tta", "vector_scaling"))
    assert plan.methods == ("mcbn+tta+temperature", "tta", "vector_scaling")
    prefixed = {"mcbn+temperature": True, "mcbn+tta": True, "dropout": True, "tta": False, "mean_statistics": False}
    assert {name: combination(name).prefixed for name in prefixed} == prefixed
    for wrong in ("mcbn+dropout", "temperature+vector_scaling", "mcbn+mcbn", "mcbn+temprature", ""):
        with pytest.raises(WrongUse, match="A method is one of"):
            MethodPlan(methods=(wrong,))
    with pytest.raises(WrongUse, match="twice"):
        MethodPlan(methods=("tta", "deterministic+tta"))


def test_every_part_combines_with_every_other_in_one_evaluation(network: Network, bank: Bank, tmp_path: Path) -> None:
    data, validation = written(tmp_path / "test", TEST[:2]), written(tmp_path / "validation", VALIDATION[:2])
    plan = EvaluatePlan(methods=replace(QUICK, methods=EVERYTHING, insert_dropout=0.2))
    evaluation = evaluate_into(
        network, data, tmp_path / "run", banks=[bank], plan=plan, members=[network], validation=validation
    )
    passes = {name: method["passes_per_image"] for name, method in evaluation.scores["methods"].items()}
    assert passes == dict(zip(EVERYTHING, (4, 2, 4, 4), strict=True))
    assert set(evaluation.validation.temperatures) == {"mcbn+tta+vector_scaling", "ensemble+tta+temperature"}
    stored = Validation.of(evaluation.validation.as_dict())
    assert stored.temperatures == evaluation.validation.temperatures


def test_methods_that_differ_by_their_scaling_share_their_passes(network: Network, bank: Bank) -> None:
    names = ("mcbn+tta", "mcbn+tta+temperature", "mcbn+tta+vector_scaling")
    made = build_methods(network, [bank], replace(QUICK, methods=names), validated=True)
    assert len({id(made.methods[name][0]) for name in names}) == 1
    assert set(made.notes.values()) == {"no standard error is given, for its views are no random sample"}


def test_dropout_with_views_has_masks_of_its_own_in_each_view(network: Network, bank: Bank) -> None:
    plan = replace(QUICK, methods=("dropout+tta",), insert_dropout=0.2, draws=3)
    (method,) = build_methods(network, [bank], plan).methods["dropout+tta"]
    members: Any = getattr(method, "members")  # noqa: B009 - of the composite, not of the protocol
    assert [member.draws for member in members] == [2, 1]
    assert len({member.seed for member in members}) == 2
    assert all(isinstance(member, Dropout) for member in members)


def scaled_data(seed: int, classes: int = 3) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Logits (1 K H W) whose true probabilities are a known scaling of them, and labels drawn from these."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(1, classes, 24, 24)).astype(np.float32)) * 2
    factors, offsets = torch.tensor([0.5, 1.5, 1.0]), torch.tensor([0.0, 0.7, -0.7])
    p = (logits * factors[:, None, None] + offsets[:, None, None]).softmax(dim=1)[0]
    draw = rng.random((24, 24))
    return logits, (draw[None] > p.cumsum(dim=0).numpy()).sum(axis=0).clip(max=classes - 1)


def test_vector_scaling_reaches_the_nll_of_a_fine_search_and_falls_back_where_data_are_few() -> None:
    images = [scaled_data(seed) for seed in range(LEAST_IMAGES + 2)]
    fit, temperature = VectorScalingFit("softmax", len(images)), TemperatureFit("softmax")
    known = np.ones((24, 24), dtype=np.bool_)
    few = VectorScalingFit("softmax", len(images))
    for number, (logits, label) in enumerate(images):
        fits: list[Fit] = [fit, temperature, *([few] if number < LEAST_IMAGES - 1 else [])]
        for each in fits:
            each.begin(label, known)
            each.add(1.0, logits, 1)
            each.end()
    found = fit.best()
    assert isinstance(found, VectorScaling)
    stacked = torch.cat([logits.flatten(2)[0].T for logits, _ in images])
    labels = torch.from_numpy(np.concatenate([label.ravel() for _, label in images]))

    def nll(factors: Tensor, offsets: Tensor) -> float:
        return float(functional.cross_entropy(stacked * factors + offsets, labels))

    true = nll(torch.tensor([0.5, 1.5, 1.0]), torch.tensor([0.0, 0.7, -0.7]))
    fitted = nll(torch.tensor(found.factors), torch.tensor(found.offsets))
    assert abs(fitted - true) < 0.003
    assert fitted < nll(torch.full((3,), 1 / temperature.best()), torch.zeros(3)) - 0.05
    # a full linear layer can only be better, and by little: the truth is a scaling
    linear = LogisticRegression(C=1e6, max_iter=500).fit(stacked.numpy(), labels.numpy())
    best = -float(np.log(linear.predict_proba(stacked.numpy())[np.arange(len(labels)), labels.numpy()]).mean())
    assert best <= fitted < best + 0.01
    one = few.best()
    assert isinstance(one, float)
    assert abs(one - temperature.best()) < 0.05


def test_the_scaling_of_several_draws_is_that_of_their_mean_probability_and_reads_back() -> None:
    logits = [torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(t)) for t in range(2)]
    scaling = VectorScaling((0.5, 2.0, 1.0), (0.1, 0.0, -0.2))
    assert of_json(as_json(scaling)) == scaling
    read = ReadOut(method=Given(*logits), measures=("predictive_entropy",), temperature=scaling)
    estimate = estimates({"": read}, torch.zeros(1, 3, 4, 4), "softmax")[""]
    factors, offsets = (torch.tensor(v)[:, None, None] for v in (scaling.factors, scaling.offsets))
    expected = torch.stack([(z * factors + offsets).softmax(dim=1) for z in logits]).mean(dim=0)
    torch.testing.assert_close(estimate.probability, expected)


class Weighted(Given):
    """The same with weights 1, 2, 3, ... of sum 1."""

    def __call__(self, images: Tensor) -> Any:
        whole = sum(range(1, self.draws + 1))
        for number, logits in enumerate(self.logits, start=1):
            yield number / whole, logits


def test_the_calibration_of_the_first_passes_is_that_of_a_run_of_their_own() -> None:
    label, known = np.random.default_rng(1).integers(0, 3, (24, 24)), np.ones((24, 24), dtype=np.bool_)
    truth = torch.from_numpy(np.eye(3, dtype=np.float32)[label].transpose(2, 0, 1))[None]
    noise = [torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(t)) for t in range(4)]
    logits = [3 * truth + 3 * each for each in noise]
    images, prefixes = torch.zeros(1, 3, 24, 24), (1, 3, 4)
    temperature, scaling = TemperatureFit("softmax", prefixes), PrefixScalings("softmax", 1, prefixes)
    assert update([(Weighted(*logits), [temperature, scaling])], images, label, known)
    for draws in prefixes:
        one, other = TemperatureFit("softmax"), VectorScalingFit("softmax", 1)
        assert update([(Weighted(*logits[:draws]), [one, other])], images, label, known)
        assert temperature.best(draws) == pytest.approx(one.best(), rel=1e-6)
        assert scaling.best(draws) == pytest.approx(other.best(), rel=1e-4)
    assert temperature.best() == temperature.best(4)
    assert temperature.best(1) > 1.1 * temperature.best(4)


def test_read_outs_at_several_temperatures_and_draws_are_those_of_runs_of_their_own() -> None:
    method = Weighted(*(torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(t)) for t in range(4)))
    read_outs = {
        f"{draws} {temperature}": ReadOut(method=method, measures=("variance",), draws=draws, temperature=temperature)
        for draws, temperature in ((1, 2.0), (2, 0.5), (3, 2.0), (4, 1.0), (4, 3.0))
    }
    images = torch.zeros(1, 3, 4, 4)
    together = estimates(read_outs, images, "softmax")
    for name, read_out in read_outs.items():
        alone = estimates({"": read_out}, images, "softmax")[""]
        torch.testing.assert_close(together[name].probability, alone.probability)
        torch.testing.assert_close(together[name].variance, alone.variance)
        assert together[name].draws == read_out.draws


@pytest.mark.parametrize(
    "value", [float("nan"), 0.0, -1.0, float("inf"), {"factors": [1.0, float("nan")], "offsets": [0.0, 0.0]}]
)
def test_a_calibration_that_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(WrongUse, match="finite"):
        of_json(value)


@pytest.mark.parametrize("head", ["sigmoid", "multilabel"])
def test_other_heads_get_one_factor_and_offset_a_channel(head: Any) -> None:
    rng = np.random.default_rng(0)
    channels = 1 if head == "sigmoid" else 2
    fit = VectorScalingFit(head, LEAST_IMAGES)
    for _ in range(LEAST_IMAGES):
        logits = torch.from_numpy(rng.normal(size=(1, channels, 16, 16)).astype(np.float32))
        label = (rng.random((channels, 16, 16)) < torch.sigmoid(2 * logits[0] + 1).numpy()).astype(np.int64)
        label = label[0] if head == "sigmoid" else label
        assert fit.begin(label, np.ones(label.shape, dtype=np.bool_))
        fit.add(1.0, logits, 1)
        fit.end()
    found = fit.best()
    assert isinstance(found, VectorScaling)
    np.testing.assert_allclose(found.factors, 2, atol=0.4)
    np.testing.assert_allclose(found.offsets, 1, atol=0.4)


def test_a_scaling_is_never_fitted_on_images_that_a_bank_was_recorded_of(network: Network, tmp_path: Path) -> None:
    for seed in TRAIN[:4]:
        drawn = scene(seed)
        write_png(tmp_path / "data" / "images" / f"s{seed}.png", drawn.image)
        write_png(tmp_path / "data" / "labels" / f"s{seed}.png", drawn.label)
    data = Labels(tmp_path / "data" / "images", tmp_path / "data" / "labels")
    own = fit_bank(network, str(data.images), batch=2, draws=2)
    assert len(marks_in(own.provenance)) == 4
    test = written(tmp_path / "test", TEST[:1])
    run = EvaluatePlan(methods=replace(QUICK, methods=("mcbn+tta+temperature",)))
    with pytest.raises(WrongUse, match="4 of 4 validation images are training images"):
        evaluate_into(network, test, tmp_path / "run", banks=[own], plan=run, validation=data)
    unfitted = EvaluatePlan(methods=replace(QUICK, methods=("mcbn",)))
    evaluation = evaluate_into(network, data, tmp_path / "seen", banks=[own], plan=unfitted)
    assert "4 of 4 test images are training images" in evaluation.warnings[0]


def test_mcbn_with_views_and_a_temperature_is_the_mean_over_both(network: Network, bank: Bank, tmp_path: Path) -> None:
    data = written(tmp_path, TEST[:1])
    image = read_image(sorted(Path(data.images).iterdir())[0])
    images = prepare(image, replace(network.card.input, stride=1))[None]
    (method,) = build_methods(network, [bank], replace(QUICK, methods=("mcbn+tta",))).methods["mcbn+tta"]
    warm = estimate(method, images, head="softmax", measures=(), temperature=1.5).probability
    plain = [output for _, output in method(images)]
    expected = torch.stack([(output / 1.5).softmax(dim=1) for output in plain]).mean(dim=0)
    torch.testing.assert_close(warm, expected, rtol=0, atol=1e-6)


def test_the_first_passes_dealt_out_to_views_are_those_of_a_smaller_bank(network: Network, bank: Bank) -> None:
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plan = replace(QUICK, methods=("mcbn+tta", "dropout+tta"), insert_dropout=0.3)
    whole = build_methods(network, [bank], plan).methods
    for name, (few,) in build_methods(network, [bank], replace(plan, draws=2)).methods.items():
        first = [output for _, output in whole[name][0].of("a")(images)][:2]
        for mine, alone in zip(first, (output for _, output in few.of("a")(images)), strict=True):
            torch.testing.assert_close(mine, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 4096), (4096, 4), (1, 4096), (64, 64)])
def test_a_thin_image_is_in_a_vector_scaling_too(size: tuple[int, int]) -> None:
    fit = VectorScalingFit("softmax", 300, values=20_000)
    label = np.zeros(size, np.int64)
    assert fit.begin(label, label == 0)
    fit.add(1.0, torch.zeros(1, 3, *size), 4)
    fit.end()
    assert isinstance(fit.best(), float)  # it is refused where no pixel was added


def test_a_rescaled_view_is_refused_where_the_card_resizes_every_image(network: Network, bank: Bank) -> None:
    sized = replace(network, card=replace(network.card, input=replace(network.card.input, size=(64, 96))))
    plan = MethodPlan(methods=("tta",), views=(View(), View(scale=0.5)))
    with pytest.raises(WrongUse, match=r"resizes every image to 64x96, .* leave the scales out of --views"):
        build_methods(sized, [], plan)
    assert build_methods(sized, [], replace(plan, views=(View(), View(flip=True)))).names == ("tta",)
