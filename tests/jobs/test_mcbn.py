"""From Python: a bank is fitted on images that look as in training, and a network under it gives an estimate."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from plain import (
    Toy,
    assert_same_state,
    calibrated,
    noise,
    plain_loop,
    plain_measures,
    probabilities_of,
    random_bank,
    seeded,
    state_of,
)
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import segment
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import record
from segment.errors import BankRefused, ImageUnreadable, NoBatchNorm, PredictionFailed, WrongUse
from segment.estimation.precision import NO_BFLOAT16, resolve_precision
from segment.images.specs import InputSpec, TrainingSpec
from segment.jobs.mcbn import MCBN
from segment.networks.cards import Card
from segment.networks.load import Network, load_network
from segment.networks.modules import buffers, checksums
from segment.passes.fused import onednn
from segment.passes.passes import PassPlan
from segment.uncertainty.measures import MEASURES

Pixels = NDArray[np.uint8]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Strided(Toy):
    """Takes sizes that 4 divides, and no other."""

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.pixel_unshuffle(x, 4)
        y = y.view(len(x), 3, 16, *y.shape[2:]).mean(dim=2)
        return nn.functional.interpolate(super().forward(y), scale_factor=4)


def network_of(module: nn.Module | None = None, **card: Any) -> Network:
    module = module or calibrated(seeded(Toy), (32, 32))
    return load_network(module, card=Card(**({"name": "toy", "network": "toy"} | card)))


def bank_of(network: Network, draws: int = 3) -> Bank:
    return random_bank(bn_network_of(network), draws=draws)


def pixels(height: int = 40, width: int = 48, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def entered(image: Pixels) -> Tensor:  # H W 3 -> C H W
    scaled = (image / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(scaled.transpose(2, 0, 1).astype(np.float32))


def flat(bank: Bank) -> list[Tensor]:
    return [*bank.mean.values(), *bank.var.values()]


def assert_same_draws(first: Bank, two: Bank) -> None:
    assert first.layers == two.layers
    assert all(torch.equal(a, b) for a, b in zip(flat(first), flat(two), strict=True))


# --- MCBN ---


def test_an_estimate_is_the_plain_loops_in_every_attribute() -> None:
    network = network_of()
    bank, image = bank_of(network), noise(3, 40, 48)
    estimated = MCBN(network, bank)(image)
    p = probabilities_of(plain_loop(network.module, bank, image[None]).numpy())
    weights = bank.weights.tolist()
    for name, wanted in plain_measures(p, weights).items():
        np.testing.assert_allclose(getattr(estimated, name), wanted[0], atol=1e-5, err_msg=name)
        assert getattr(estimated, name).shape == (40, 48)
        assert getattr(estimated, name).dtype == torch.float32
    mean = np.average(p, axis=0, weights=weights)[0]
    np.testing.assert_allclose(estimated.probability, mean, atol=1e-5)
    assert torch.equal(estimated.prediction, torch.from_numpy(mean.argmax(axis=0)))
    assert estimated.prediction.dtype == torch.int64
    assert estimated.draws == 3


def test_several_images_in_give_several_estimates_out() -> None:
    network = network_of()
    mcbn = MCBN(network, bank_of(network))
    images = noise(3, 3, 40, 48)
    estimated = mcbn(images)
    assert estimated.prediction.shape == (3, 40, 48)
    assert estimated.probability.shape == (3, 4, 40, 48)
    for index in range(3):
        alone = mcbn(images[index])
        torch.testing.assert_close(estimated.image(index).probability, alone.probability, rtol=0, atol=1e-5)
        torch.testing.assert_close(estimated.variance[index], alone.variance, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 48), (41, 47), (5, 9), (1, 1)])
def test_pixels_go_through_the_card_and_odd_sizes_are_padded_and_cropped_back(size: tuple[int, int]) -> None:
    spec = InputSpec(mean=MEAN, std=STD, stride=4)
    network = network_of(calibrated(seeded(Strided), (32, 32)), input=spec)
    bank, image = bank_of(network), pixels(*size)
    estimated = MCBN(network, bank)(image)
    below, right = -size[0] % 4, -size[1] % 4
    padded = image
    for axis, more in ((0, below), (1, right)):
        width = [(0, 0)] * 3
        width[axis] = (0, more)
        padded = np.pad(padded, width, mode="reflect" if more < padded.shape[axis] else "edge")
    p = probabilities_of(plain_loop(network.module, bank, entered(padded)[None]).numpy())
    mean = np.average(p, axis=0, weights=bank.weights)[0, :, : size[0], : size[1]]
    np.testing.assert_allclose(estimated.probability, mean, atol=1e-5)
    assert estimated.prediction.shape == estimated.variance.shape == size
    again = MCBN(network, bank)(entered(image))
    torch.testing.assert_close(again.probability, estimated.probability, rtol=0, atol=1e-5)


def test_draws_come_one_at_a_time_and_give_the_same_mean() -> None:
    network = network_of()
    bank, image = bank_of(network), noise(3, 40, 48)
    mcbn = MCBN(network, bank)
    drawn = list(mcbn.draws(image))
    assert [p.shape for p in drawn] == [(4, 40, 48)] * 3
    p = probabilities_of(plain_loop(network.module, bank, image[None]).numpy())
    np.testing.assert_allclose(torch.stack(drawn), p[:, 0], atol=1e-5)
    mean = (bank.weights.view(3, 1, 1, 1) * torch.stack(drawn)).sum(dim=0)
    torch.testing.assert_close(mean, mcbn(image).probability, rtol=0, atol=1e-5)
    assert next(mcbn.draws(noise(2, 3, 40, 48))).shape == (2, 4, 40, 48)
    assert next(mcbn.draws(pixels(33, 31))).shape == (4, 33, 31)


def test_any_module_with_bn_is_taken_and_stays_the_callers(toy: Toy) -> None:
    toy.train()
    before = state_of(toy)
    bank = segment.fit_bank(load_network(toy), noise(6, 3, 32, 32), batch=2, draws=3)
    mcbn = MCBN(toy, bank)
    with torch.inference_mode():
        single = mcbn(noise(3, 32, 32))
    assert torch.equal(single.probability, mcbn(noise(3, 32, 32)).probability)
    assert_same_state(before, state_of(toy))
    with torch.no_grad():
        toy.head.weight.zero_()
    assert torch.equal(single.probability, mcbn(noise(3, 32, 32)).probability)


def test_a_module_without_bn_is_refused() -> None:
    network = network_of(nn.Conv2d(3, 4, 1))
    with pytest.raises(NoBatchNorm, match="MC dropout"):
        segment.fit_bank(network, noise(4, 3, 32, 32), batch=2, draws=2)


@pytest.mark.parametrize(("head", "outputs", "classes"), [("sigmoid", 1, 2), ("multilabel", 3, 3)])
def test_other_heads_have_their_shapes_and_measures(head: Any, outputs: int, classes: int) -> None:
    network = network_of(calibrated(seeded(lambda: Toy(outputs)), (32, 32)), head=head)
    bank, image = bank_of(network), noise(3, 40, 48)
    estimated = MCBN(network, bank)(image)
    assert estimated.probability.shape == (classes, 40, 48)
    assert estimated.prediction.shape == ((3, 40, 48) if head == "multilabel" else (40, 48))
    p = probabilities_of(plain_loop(network.module, bank, image[None]).numpy(), head)
    for name, wanted in plain_measures(p, bank.weights.tolist(), head).items():
        np.testing.assert_allclose(estimated.maps[name], wanted[0], atol=1e-5, err_msg=name)


def test_only_the_measures_asked_for_are_there() -> None:
    network = network_of()
    mcbn = MCBN(network, bank_of(network))
    estimated = mcbn(noise(3, 32, 32), measures=["margin", "variance"])
    assert list(estimated.maps) == ["margin", "variance"]
    with pytest.raises(AttributeError, match="no 'votes'; it has prediction, probability, margin, variance"):
        _ = estimated.votes
    with pytest.raises(WrongUse, match="No measure is called 'varience'"):
        mcbn(noise(3, 32, 32), measures=["varience"])


def test_the_standard_error_is_withheld_with_its_reason_where_there_is_none() -> None:
    network = network_of()
    bank = bank_of(network)
    single = MCBN(network, bank, draws=1)(noise(3, 32, 32))
    distilled = MCBN(network, replace(bank, provenance={"distilled": True}))(noise(3, 32, 32))
    for result, why in ((single, "one draw has no spread"), (distilled, "were chosen, not drawn at random")):
        assert list(result.withheld) == ["standard_error"]
        with pytest.raises(AttributeError, match=why):
            _ = result.standard_error
    assert set(single.maps) == set(MEASURES) - {"standard_error"}


def test_the_first_draws_of_a_bank_are_used_where_fewer_are_asked_for() -> None:
    network = network_of()
    bank, image = bank_of(network, draws=5), noise(3, 32, 32)
    estimated = MCBN(network, bank, draws=2)(image)
    assert estimated.draws == 2
    assert torch.equal(estimated.probability, MCBN(network, bank.first(2))(image).probability)
    with pytest.raises(WrongUse, match="6 draws were asked of a bank of 5"):
        MCBN(network, bank, draws=6)


WRONG: dict[str, Any] = {
    "whole numbers": torch.zeros(3, 32, 32, dtype=torch.int64),
    "a map": torch.zeros(32, 32),
    "float pixels": np.zeros((32, 32, 3), np.float32),
    "grey pixels": np.zeros((32, 32), np.uint8),
    "channels first": np.zeros((3, 32, 32), np.uint8),
    "an alpha channel": np.zeros((32, 32, 4), np.uint8),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_image_is_refused_with_what_to_give(what: str) -> None:
    network = network_of()
    with pytest.raises(WrongUse, match=r"uint8 H W 3|float tensor \(C H W\)"):
        MCBN(network, bank_of(network))(WRONG[what])


def test_a_network_that_gives_nan_is_named_so() -> None:
    network = network_of()
    with torch.no_grad():
        network.module.get_parameter("head.bias")[0] = float("nan")
    with pytest.raises(PredictionFailed, match=r"output is not finite for 100.0% of the values"):
        MCBN(network, bank_of(network))(noise(3, 32, 32))


def test_a_bank_of_another_network_or_preprocessing_is_refused() -> None:
    network = network_of()
    bank = segment.fit_bank(network, noise(6, 3, 32, 32), batch=2, draws=2)
    MCBN(network, bank)
    with pytest.raises(BankRefused, match="recorded on network 'toy'"):
        MCBN(network_of(calibrated(seeded(Toy, seed=1))), bank)
    with pytest.raises(BankRefused, match=r"another preprocessing \(scale: 255.0 in the bank, 1.0 now\)"):
        MCBN(network_of(network.module, input=InputSpec(scale=1.0)), bank)
    with pytest.raises(BankRefused, match=r"another preprocessing \(pad: reflect in the bank, edge now\)"):
        MCBN(network_of(network.module, input=InputSpec(pad="edge")), bank)


@pytest.mark.parametrize("how", ["in place", "load_state_dict", "data", "in place of data", "another order"])
def test_weights_that_were_changed_meanwhile_are_refused(how: str) -> None:
    network = network_of()
    bank = segment.fit_bank(network, noise(6, 3, 32, 32), batch=2, draws=2)
    made = MCBN(network, bank)
    before = made(noise(3, 32, 32))
    assert torch.equal(made(noise(3, 32, 32)).probability, before.probability)
    weights = {name: value.clone() for name, value in network.module.state_dict().items()}
    if how == "in place":
        with torch.no_grad():
            network.module.get_parameter("head.bias").mul_(1.5)
    elif how == "another order":
        network.module.get_parameter("head.weight").data.copy_(weights["head.weight"].flip(0))
    elif how == "in place of data":
        network.module.get_parameter("head.bias").data.mul_(1.5)
    elif how == "data":
        network.module.get_parameter("head.bias").data = weights["head.bias"] * 1.5
    else:
        network.module.load_state_dict(weights | {"head.bias": weights["head.bias"] * 1.5})
    for call in (lambda: made(noise(3, 32, 32)), lambda: list(made.draws(noise(3, 32, 32)))):
        with pytest.raises(BankRefused, match="other weights"):
            call()
    network.module.load_state_dict(weights)
    assert torch.equal(made(noise(3, 32, 32)).probability, before.probability)


def test_an_estimate_is_copied_and_pickled(tmp_path: Path) -> None:
    network = network_of()
    estimate = MCBN(network, bank_of(network))(noise(3, 32, 32))
    torch.save(estimate, tmp_path / "estimate.pt")
    others = [copy.copy(estimate), copy.deepcopy(estimate), torch.load(tmp_path / "estimate.pt", weights_only=False)]
    for other in others:
        assert torch.equal(other.probability, estimate.probability)
        assert torch.equal(other.variance, estimate.variance)


@pytest.mark.parametrize(("key", "value"), [("draws", 2.0), ("batch", None), ("seed", "0"), ("draws", 0)])
def test_counts_of_draws_are_integers_of_any_kind(key: str, value: Any) -> None:
    given: dict[str, Any] = {"draws": np.int64(2), "batch": np.int32(3), "seed": np.uint8(1)}
    assert DrawPlan(**given) == DrawPlan(draws=2, batch=3, seed=1)
    assert all(type(number) is int for number in vars(DrawPlan(**given)).values())
    with pytest.raises(WrongUse, match=f"{key} = {value}, but it is an integer"):
        DrawPlan(**given | {key: value})


def test_a_bank_of_some_layers_keeps_the_others_fixed() -> None:
    network = network_of()
    bank = segment.fit_bank(network, noise(6, 3, 32, 32), batch=2, draws=3, layers="bn2")
    assert bank.layers == ("bn2",)
    mcbn, image = MCBN(network, bank), noise(3, 32, 32)
    assert [layer.status for layer in mcbn.drawn.layers] == ["fixed", "stochastic"]
    p = probabilities_of(plain_loop(network.module, bank, image[None]).numpy())
    np.testing.assert_allclose(mcbn(image).probability, p.mean(axis=0)[0], atol=1e-5)


@pytest.mark.usefixtures("bfloat16")
def test_precision_is_what_was_asked_or_what_the_audit_allows() -> None:
    network = network_of()
    bank = bank_of(network)
    assert MCBN(network, bank).precision == "fp32"
    assert MCBN(network, bank, precision="bf16").precision == "bf16"
    for error, precision in ((0.01, "bf16"), (0.2, "fp32")):
        figures = {"variance_error": error, "speed": 2.0, "speed_low": 1.9, "speed_high": 2.1}
        audited = replace(bank, provenance={"audit": {"cpu": {"bf16": figures}}})
        assert MCBN(network, audited).precision == precision
    with pytest.raises(WrongUse, match="fp16 runs on CUDA only"):
        resolve_precision("fp16", bank, torch.device("cpu"))
    with pytest.raises(WrongUse, match="No precision is called 'fp64'"):
        MCBN(network, bank, precision="fp64")


def test_a_processor_without_bfloat16_takes_it_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: False)
    figures = {"variance_error": 0.01, "speed": 2.0, "speed_low": 1.9, "speed_high": 2.1}  # of another processor
    audits = {"cpu": {"bf16": figures}, "openvino": {"bf16": figures}}
    bank = replace(bank_of(network_of()), provenance={"audit": audits})
    cpu, caplog.handler.level = torch.device("cpu"), logging.WARNING
    assert resolve_precision("auto", bank, cpu) == resolve_precision("auto", bank, cpu, "openvino")
    assert resolve_precision("auto", bank, cpu) == ("fp32", NO_BFLOAT16)
    assert caplog.messages == []
    assert resolve_precision("bf16", bank, cpu) == ("bf16", "asked for")
    assert caplog.messages == [f"--precision bf16: {NO_BFLOAT16}. Take fp32."]
    with pytest.raises(WrongUse, match="Take --precision fp32"):
        resolve_precision("bf16", bank, cpu, "openvino")


def test_a_device_is_taken_by_name() -> None:
    network = network_of()
    bank, image = bank_of(network), noise(3, 32, 32)
    there = MCBN(network, bank, device="cpu")
    assert torch.equal(there(image).probability, MCBN(network, bank)(image).probability)
    assert there.network.module is network.module, "it is there already"
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    assert MCBN(network, bank, device="auto").network.device.type == automatic
    assert load_network("scenes", device="auto").device.type == automatic


def test_a_device_that_is_not_there_is_refused_in_the_same_words_everywhere() -> None:
    network = network_of()
    refusals = []
    for given in (network, network.module):
        with pytest.raises(WrongUse, match=r"Device 'cuda:99' cannot be used: .*'auto' takes \w+ here\.$") as refused:
            MCBN(given, bank_of(network), device="cuda:99")
        refusals.append(str(refused.value))
    with pytest.raises(WrongUse) as refused:
        load_network("scenes", device="cuda:99")
    assert {*refusals, str(refused.value)} == {refusals[0]}
    with pytest.raises(WrongUse, match=r"A device is auto, cpu, cuda or cuda:N, not 'gpu'\. 'auto' takes \w+ here\."):
        load_network("scenes", device="gpu")


# --- fitting ---


def recorded(network: Network, seen: Sequence[Tensor], plan: DrawPlan) -> Bank:
    """What fitting should give, from choices and tensors alone."""
    batches = [torch.stack([seen[index] for index in pick.images]) for pick in choices(plan, len(seen))]
    return Bank.of_draws(list(record(bn_network_of(network), batches)))


def test_float_tensors_are_the_mini_batches_as_they_are() -> None:
    network, images = network_of(), noise(7, 3, 24, 32)
    bank = segment.fit_bank(network, images, batch=3, draws=4, seed=5)
    wanted = recorded(network, list(images), DrawPlan(draws=4, batch=3, seed=5))
    for first, two in zip(flat(bank), flat(wanted), strict=True):
        torch.testing.assert_close(first, two, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bank.weights, torch.full((4,), 0.25))


def test_pixels_are_prepared_as_the_card_says() -> None:
    network = network_of(input=InputSpec(mean=MEAN, std=STD))
    images = [pixels(seed=seed) for seed in range(5)]
    bank = segment.fit_bank(network, images, batch=2, draws=3)
    wanted = recorded(network, [entered(image) for image in images], DrawPlan(draws=3, batch=2))
    for first, two in zip(flat(bank), flat(wanted), strict=True):
        torch.testing.assert_close(first, two, rtol=1e-5, atol=1e-5)


def test_a_bank_of_8_is_the_first_8_of_a_bank_of_16() -> None:
    network, images = network_of(), noise(9, 3, 16, 16)
    small, large = (segment.fit_bank(network, images, batch=4, draws=draws, seed=2) for draws in (8, 16))
    assert_same_draws(small, large.first(8))
    assert not torch.equal(small.mean["bn1"], segment.fit_bank(network, images, batch=4, draws=8).mean["bn1"])


TRANSFORMS = (
    {"name": "RandomCrop", "height": 24, "width": 32},
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "RandomBrightnessContrast", "p": 1.0},
)


def trained(**more: Any) -> Network:
    return network_of(training=TrainingSpec(batch=3, transforms=TRANSFORMS), **more)


def test_the_cards_training_pipeline_is_applied() -> None:
    mirrored = network_of(training=TrainingSpec(batch=2, transforms=({"name": "HorizontalFlip", "p": 1.0},)))
    images = [pixels(seed=seed) for seed in range(4)]
    bank = segment.fit_bank(mirrored, images, draws=3)
    flipped = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    assert_same_draws(bank, segment.fit_bank(network_of(), flipped, batch=2, draws=3))
    assert bank.provenance["batch"] == 2


def test_the_training_pipeline_is_seeded_by_image_and_draw() -> None:
    images = [pixels(seed=seed) for seed in range(5)]
    first, two, other = (segment.fit_bank(trained(), images, draws=4, seed=seed) for seed in (1, 1, 2))
    assert_same_draws(first, two)
    assert not torch.equal(first.mean["bn1"], other.mean["bn1"])
    same = segment.fit_bank(trained(), images[:3], draws=4)  # all three images in each draw: only the views differ
    assert len({tuple(mean.tolist()) for mean in same.mean["bn1"]}) == 4


def test_views_of_another_size_than_the_images_are_fine() -> None:
    images = [pixels(30 + seed, 40 - seed, seed) for seed in range(4)]
    assert len(segment.fit_bank(trained(), images, draws=2)) == 2


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    """What was timed (how much faster half precision is) is the one thing that differs."""
    images = [pixels(seed=seed) for seed in range(4)]
    for name in ("one", "two"):
        bank = segment.fit_bank(trained(), images, draws=2, seed=3)
        for audited in bank.provenance["audit"].values():
            for result in audited.values():
                result.update(speed=1.0, speed_low=1.0, speed_high=1.0)
        segment.save_bank(bank, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_bank_says_what_it_was_made_of(tmp_path: Path) -> None:
    network, images = trained(input=InputSpec(mean=MEAN, std=STD)), [pixels(seed=seed) for seed in range(4)]
    path = tmp_path / "bank.safetensors"
    segment.save_bank(segment.fit_bank(network, images, draws=2, seed=3), path)
    record = segment.load_bank(path).provenance
    assert record["fingerprint"] == network.fingerprint
    assert (record["network"], record["batch"], record["draws"], record["seed"], record["images"]) == (
        "toy",
        3,
        2,
        3,
        4,
    )
    assert record["preprocessing"] == {
        "scale": 255.0,
        "mean": list(MEAN),
        "std": list(STD),
        "channels": "RGB",
        "white": None,
        "stride": 1,
        "pad": "reflect",
        "head": "softmax",
        "drop_outputs": [],
    }
    assert record["pipeline"] == json.loads(json.dumps(TRANSFORMS))
    assert len(record["images_sha256"]) == 64
    assert record["versions"]["torch"] == version("torch")
    other = segment.fit_bank(network, images[::-1], draws=2, seed=3)
    assert other.provenance["images_sha256"] != record["images_sha256"]
    MCBN(network, segment.load_bank(path))


def test_a_size_is_the_shorter_side_to_fit_and_the_middle() -> None:
    network = network_of()
    wide = [np.repeat(pixels(20, 60, seed), 1, axis=0) for seed in range(3)]
    bank = segment.fit_bank(network, wide, batch=2, draws=2, size=(20, 30))
    middle = [np.ascontiguousarray(image[:, 15:45]) for image in wide]
    assert_same_draws(bank, segment.fit_bank(network, middle, batch=2, draws=2))
    assert bank.provenance["size"] == [20, 30]
    with pytest.raises(WrongUse, match="training pipeline, which sets the size; leave --size out"):
        segment.fit_bank(trained(), wide, draws=2, size=(20, 30))


def test_without_a_training_entry_a_warning_says_so(caplog: pytest.LogCaptureFixture) -> None:
    network, images = network_of(), [pixels(seed=seed) for seed in range(3)]
    with caplog.at_level(logging.WARNING):
        segment.fit_bank(replace(network, card=replace(network.card, folder=Path())), images, batch=2, draws=1)
    assert "The card of" in caplog.text
    assert "says nothing of its training" in caplog.text
    caplog.clear()
    segment.fit_bank(trained(), images, draws=1)
    assert "plain images are used" not in caplog.text


def test_a_module_without_a_card_is_told_of_no_card_and_of_tensors_nothing_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    images, tensors = [pixels(seed=seed) for seed in range(3)], noise(4, 3, 16, 16)
    with caplog.at_level(logging.WARNING):
        segment.fit_bank(network_of().module, images, batch=2, draws=1)
    assert "Nothing says how the images of Toy were transformed in training, so plain images are used" in caplog.text
    assert "The card of" not in caplog.text
    caplog.clear()
    segment.fit_bank(network_of().module, tensors, batch=2, draws=1)
    segment.fit_bank(network_of().module, TensorDataset(tensors), batch=2, draws=1)
    assert "plain images" not in caplog.text


def test_fewer_images_than_a_mini_batch_are_refused() -> None:
    with pytest.raises(
        WrongUse, match=r"of 32 images was asked of 5;.* --batch 5 .*the card's `training: batch`, else 32"
    ):
        segment.fit_bank(network_of(), noise(5, 3, 16, 16))
    with pytest.raises(WrongUse, match="mini-batch of 3 images was asked of 2"):
        segment.fit_bank(trained(), [pixels(), pixels()])


def folder_of(tmp_path: Path, images: dict[str, Pixels | bytes]) -> Path:
    for name, image in images.items():
        if isinstance(image, bytes):
            (tmp_path / name).write_bytes(image)
        else:
            Image.fromarray(image).save(tmp_path / name)
    return tmp_path


def test_a_folder_gives_the_bank_of_its_images(tmp_path: Path) -> None:
    images = [pixels(seed=seed) for seed in range(4)]
    folder = folder_of(tmp_path, {f"{index}.png": image for index, image in enumerate(images)})
    given = (folder, images)
    assert_same_draws(*(segment.fit_bank(network_of(), source, batch=2, draws=3) for source in given))


def test_images_of_mixed_sizes_are_refused_with_their_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {"a.png": pixels(), "b.png": pixels(), "odd.png": pixels(40, 56)})
    with pytest.raises(WrongUse, match=r"must share one size: \w+ is 40x\d\d, \w+ is 40x\d\d.*--size HxW") as refusal:
        segment.fit_bank(network_of(), folder, batch=3, draws=2)
    assert "odd is 40x56" in str(refusal.value)


def test_every_statistics_image_that_does_not_read_is_named(tmp_path: Path) -> None:
    good = pixels()
    folder = folder_of(
        tmp_path, {"a.png": good, "b.png": good, "empty.png": b"", "text.png": b"not a png", "c.png": good}
    )
    with pytest.raises(ImageUnreadable) as refusal:
        segment.fit_bank(network_of(), folder, batch=5, draws=2)
    message = str(refusal.value)
    assert "2 of the 5 statistics images that were read cannot be used" in message
    assert "empty.png" in message
    assert "text.png" in message
    assert "no bank was written" in message
    assert "\n" not in message


def test_every_draw_is_reported_as_it_comes() -> None:
    record: list[tuple[str, int, int, int]] = []
    segment.fit_bank(
        network_of(),
        noise(4, 3, 16, 16),
        batch=2,
        draws=3,
        progress=lambda *step: record.append(step),
    )
    assert [step[1:3] for step in record] == [(0, 3), (1, 3), (2, 3), (3, 3)]  # the bar shows from the start


def test_fitting_leaves_the_network_as_it_was() -> None:
    network = trained()
    network.module.train()
    before = state_of(network.module)
    segment.fit_bank(network, [pixels(seed=seed) for seed in range(4)], draws=2)
    assert_same_state(before, state_of(network.module))


def test_fitting_does_not_change_the_images() -> None:
    images = [pixels(seed=seed) for seed in range(4)]
    held = copy.deepcopy(images)
    segment.fit_bank(trained(), images, draws=3)
    assert all(np.array_equal(first, two) for first, two in zip(images, held, strict=True))


# --- the door ---


def test_every_public_name_loads() -> None:
    for name in segment.__all__:
        assert getattr(segment, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = segment.nothing


def test_every_public_function_takes_a_path_as_text_too() -> None:
    made_by_a_job = {"SavedRun", "Evaluation", "Sweep"}
    for name in set(segment.__all__) - {"__version__", "SegmentError"} - made_by_a_job:
        for parameter in inspect.signature(getattr(segment, name)).parameters.values():
            taken = str(parameter.annotation)
            by_reading = (name, parameter.name) == ("Card", "folder")
            assert "Path" not in taken or "str" in taken or by_reading, f"{name}({parameter})"


def test_importing_segment_does_not_import_torch() -> None:
    code = "import sys, segment; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Shifted(Toy):
    """Subtracts a buffer from its image."""

    def __init__(self) -> None:
        super().__init__()
        self.shift: Tensor
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.shift)


def test_a_buffer_that_was_changed_meanwhile_is_refused() -> None:
    network = segment.load_network(calibrated(seeded(Shifted), (32, 32)))
    made = MCBN(network, segment.fit_bank(network, noise(6, 3, 32, 32), batch=2, draws=2))
    made(noise(3, 32, 32))
    network.module.get_buffer("shift").fill_(1.0)
    with pytest.raises(BankRefused, match="other weights"):
        made(noise(3, 32, 32))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_an_mcbn_is_copied_and_pickled_with_its_options(again: Callable[[MCBN], MCBN]) -> None:
    network = network_of()
    made = segment.MCBN(network, bank_of(network), draws=2, precision="fp32", plan=PassPlan())
    image = noise(3, 32, 32)
    expected = made(image)
    other = again(made)
    assert type(other) is segment.MCBN
    assert (len(other.bank), other.precision, other.method.passes.plan) == (2, "fp32", PassPlan())
    assert torch.equal(other(image).variance, expected.variance)
    assert torch.equal(made(image).variance, expected.variance)


def test_a_measure_alone_needs_no_list() -> None:
    network = network_of()
    made = MCBN(network, bank_of(network))
    assert list(made(noise(3, 32, 32), measures="variance").maps) == ["variance"]


def test_the_image_of_one_is_itself_and_there_is_no_other() -> None:
    network = network_of()
    made = MCBN(network, bank_of(network))
    one, two = made(noise(3, 32, 32)), made(noise(2, 3, 32, 32))
    assert one.image(0) is one is one.image(-1)
    assert torch.equal(two.image(-1).variance, two.variance[1])
    for estimate, index in ((one, 1), (two, 2), (two, -3)):
        with pytest.raises(WrongUse, match=f"no image {index} in an estimate of"):
            estimate.image(index)


DEFAULTS = partial(torch.set_default_dtype, torch.float64), partial(torch.set_default_device, "meta")


@pytest.mark.parametrize("default", DEFAULTS)
def test_torchs_defaults_change_no_bank_and_no_map(default: Callable[[], None]) -> None:
    images, image = noise(6, 3, 32, 32), noise(3, 32, 32)
    module = calibrated(seeded(Toy), (32, 32))

    def maps() -> Tensor:
        bank = segment.fit_bank(module, images, batch=2, draws=4)
        return MCBN(module, bank, draws="auto", precision="fp32")(image).variance

    expected = maps()
    try:
        default()
        found = maps()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(found, expected)


def test_a_sparse_image_is_refused_in_a_line() -> None:
    network = network_of()
    with pytest.raises(WrongUse, match="it is sparse"):
        MCBN(network, bank_of(network))(noise(3, 32, 32).to_sparse())


@pytest.mark.parametrize("beside", [float("-inf"), -1e9, 0.0])
def test_a_value_of_a_buffer_is_seen_to_change_beside_any_other(beside: float) -> None:
    module = calibrated(seeded(Shifted), (32, 32))
    module.register_buffer("mask", torch.tensor([beside, 0.0, 0.0]))
    before = checksums(buffers(module))
    assert checksums(buffers(module)) == before
    module.get_buffer("mask").data[1] = 3.0
    assert checksums(buffers(module)) != before


def test_settings_that_were_changed_meanwhile_are_refused() -> None:
    network = network_of()
    made = MCBN(network, segment.fit_bank(network, noise(6, 3, 32, 32), batch=2, draws=2))
    image = noise(3, 32, 32)
    before = made(image)
    layer = network.module.get_submodule("bn2")
    assert isinstance(layer, nn.BatchNorm2d)
    layer.eps = 0.5
    for call in (lambda: made(image), lambda: list(made.draws(image))):
        with pytest.raises(BankRefused, match="eps"):
            call()
    layer.eps = 1e-5
    assert torch.equal(made(image).probability, before.probability)


def test_pictures_of_an_estimate_are_of_the_image_as_it_was() -> None:
    network, frame = network_of(), torch.rand(3, 32, 32)
    estimate = MCBN(network, bank_of(network))(frame)
    before = np.asarray(estimate.overlay())
    frame.zero_()
    np.testing.assert_array_equal(estimate.overlay(), before)


def test_a_network_that_is_changed_while_its_draws_are_taken_is_refused_after_them() -> None:
    network = network_of()
    made = MCBN(network, segment.fit_bank(network, noise(6, 3, 32, 32), batch=2, draws=2))
    layer = network.module.get_submodule("bn2")
    assert isinstance(layer, nn.BatchNorm2d)
    draws = made.draws(noise(3, 32, 32))
    next(draws)
    layer.eps = 0.5
    del draws
    with pytest.raises(BankRefused, match="eps"):
        made(noise(3, 32, 32))


class Brightens(Toy):
    """Three or more images are twice as bright."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (2.0 if len(x) > 2 else 1.0))


def test_an_image_among_several_has_the_estimate_that_it_has_alone_whatever_their_number_changes() -> None:
    module = calibrated(seeded(Brightens), (32, 32))
    mcbn = MCBN(module, segment.fit_bank(module, noise(4, 3, 32, 32), batch=2, draws=3))
    images = noise(4, 3, 32, 32, seed=1)
    alone = torch.stack([mcbn(image).probability for image in images])
    for count in (2, 3, 4):
        torch.testing.assert_close(mcbn(images[:count]).probability, alone[:count])
