"""Networks that write into their image, their buffers or their precision, or decide at one pixel by rounding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain import Toy, calibrated, noise, plain_loop, random_bank, seeded, surveyed
from timm.layers import evo_norm
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.layers import survey
from segment.batch_norm.network import bn_network_of
from segment.distilling.choose import Chosen
from segment.distilling.refine import DrawParameters, Student
from segment.draws.bank import Bank
from segment.draws.large_batches import record_in_parts
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import record
from segment.errors import ModelRefused, WrongUse
from segment.jobs.distill import distill_bank
from segment.jobs.fit import fit_bank
from segment.methods.deterministic import Plain
from segment.methods.dropout import Dropout
from segment.networks.load import load_network
from segment.networks.preserve_state import preserve_state
from segment.passes.comparison import within_noise
from segment.passes.fused import convolutions
from segment.passes.passes import Passes, PassPlan

FUSED = PassPlan(channels_last=True, fuse=True)


class InPlace(Toy):
    """It prepares its image in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.3).div_(0.5))


class Grey(InPlace):
    """The same of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)


@pytest.mark.parametrize("pixels", ["normalised", "uint8"])
@pytest.mark.parametrize(("module", "channels"), [(InPlace, 3), (Grey, 1)])
def test_a_network_that_writes_into_its_image_is_recorded_by_clean_images(
    module: type[InPlace], channels: int, pixels: str
) -> None:
    network = calibrated(seeded(module), (32, 32), channels)
    given: list[Any]
    if pixels == "uint8":
        given = [np.random.default_rng(seed).integers(0, 256, (32, 32, channels), dtype=np.uint8) for seed in range(12)]
        images = [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in given]
    else:
        given = [noise(channels, 32, 32, seed=seed) for seed in range(12)]
        images = [image.clone() for image in given]
    before = [np.array(image) for image in given]
    bank = fit_bank(network, given, batch=4, draws=3)
    for image, was in zip(given, before, strict=True):
        np.testing.assert_array_equal(np.array(image), was)
    for t, choice in enumerate(choices(DrawPlan(draws=3, batch=4, seed=0), 12)):
        batch = torch.stack([images[index] for index in choice.images])
        with torch.no_grad():
            expected = network.conv1((batch - 0.3) / 0.5)
        torch.testing.assert_close(bank.mean["bn1"][t], expected.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(bank.var["bn1"][t], expected.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("module", "channels"), [(InPlace, 3), (Grey, 1)])
def test_a_network_that_writes_into_its_image_leaves_each_pass_a_clean_one(
    module: type[InPlace], channels: int
) -> None:
    network = calibrated(seeded(module), (32, 32), channels)
    drawn = surveyed(network, (32, 32), channels)
    batch = noise(4, channels, 32, 32, seed=3)
    (whole,), (parts,) = (
        list(record(drawn, [batch])),
        list(record_in_parts(drawn, [batch], at_once=2, whole_fits=True)),
    )
    torch.testing.assert_close(batch, noise(4, channels, 32, 32, seed=3), rtol=0, atol=0)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-5)
    image, bank = noise(1, channels, 32, 32, seed=5), random_bank(drawn, 3)
    outputs = plain_loop(network, bank, image.clone()).softmax(2)
    draws = DrawParameters(Bank.of_draws(list(bank)), Chosen((0, 1, 2), torch.full((3,), 1 / 3), 0.0), drawn.device)
    with torch.no_grad():
        mean, variance = Student(drawn, "softmax").moments(draws, image)
    torch.testing.assert_close(mean, outputs.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(variance, outputs.var(0, correction=0), rtol=1e-3, atol=1e-6)
    network.dropout.p = 0.0
    same = Dropout(Plain(network, network, PassPlan()), 4)
    first, *others = [output for _, output in same(image)]
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


class DropsInPlace(Toy):
    """Its dropout works in place, and what it gives is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout2d(0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        self.drop(y)
        functional.dropout(input=y, p=0.2, training=self.training, inplace=True)
        return self.head(self.bn2(self.conv2(y)).relu())


def test_dropout_in_place_drops_as_dropout_whose_result_is_used() -> None:
    network = calibrated(seeded(DropsInPlace), (32, 32)).eval()

    class Used(DropsInPlace):
        def forward(self, x: Tensor) -> Tensor:
            y = functional.dropout(self.drop(self.bn1(self.conv1(x)).relu()), 0.2, self.training)
            return self.head(self.bn2(self.conv2(y)).relu())

    used = seeded(Used).eval()
    used.load_state_dict(network.state_dict())
    used.drop.inplace = False
    image = noise(1, 3, 32, 32)
    found, expected = (
        torch.stack([output for _, output in Dropout(Plain(each, each, PassPlan()), 6)(image)])
        for each in (network, used)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert float(found.var(0).max()) > 1e-3


class OwnPrecision(Toy):
    """A part that stays in float32 whatever the precision of the others, on values far from 0."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        with torch.autocast(x.device.type, enabled=False):
            weight = self.head.weight - self.head.weight.mean(1, keepdim=True)
            return functional.conv2d(y.float() + 30, weight, self.head.bias)


@pytest.mark.parametrize("plan", [PassPlan(), FUSED, PassPlan(engine="openvino")])
def test_a_part_that_stays_in_float32_does_so_in_every_draw(plan: PassPlan) -> None:
    if plan.engine == "openvino":
        pytest.importorskip("openvino")
    network = surveyed(calibrated(seeded(OwnPrecision), (32, 32)))
    draw = next(iter(random_bank(network, 1)))
    passes = Passes(network, Bank.of_draws([draw] * 4), replace(plan, precision="bf16"))
    first, *others = passes(noise(1, 3, 32, 32))
    assert passes.way == "plain"
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    batch = noise(4, 3, 32, 32, seed=3)
    (whole,) = record(network, [batch], precision="bf16")
    (parts,) = record_in_parts(network, [batch], at_once=1, precision="bf16", whole_fits=True)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-5)


class Written(Toy):
    """A buffer that grows in each pass, without a trace of it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Buffer(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        self.gain.data.mul_(1.1)
        return super().forward(x) * self.gain


@pytest.mark.parametrize("plan", [PassPlan(share=False), PassPlan(), FUSED])
def test_a_buffer_written_through_data_is_given_back(plan: PassPlan) -> None:
    module = calibrated(seeded(Written), (32, 32))
    module.gain.fill_(1)
    with preserve_state(module), torch.no_grad():
        module(noise(1, 3, 32, 32))
    assert float(module.gain) == 1
    network = surveyed(module)
    draw = next(iter(random_bank(network, 1)))
    first, *others = Passes(network, Bank.of_draws([draw] * 4), plan)(noise(1, 3, 32, 32))
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)
    assert float(module.gain) == 1
    loaded = load_network(module)
    before = loaded.fingerprint
    assert loaded.classes == 4
    assert loaded.fingerprint == before


class Hard(Toy):
    """One pixel hangs on a sum that is 0 but for rounding."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        nothing = y.sum(1, keepdim=True) - y.flip(1).sum(1, keepdim=True)
        z = self.head(self.bn2(self.conv2(self.bn1(y).relu())).relu())
        here = torch.zeros_like(z)
        here[:, 0, 0, 0] = 1
        return z + 20 * nothing.sign() * here


def test_a_decision_that_rounding_flips_at_one_pixel_excuses_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    real = convolutions._scaled

    def wrong(*given: object) -> tuple[Tensor, Tensor]:
        weight, shift = real(*given)  # type: ignore[arg-type]
        return weight * 1.3, shift + 0.2

    monkeypatch.setattr(convolutions, "_scaled", wrong)
    module = calibrated(seeded(Hard), (32, 32))
    network = replace(surveyed(module), head="softmax")
    bank = random_bank(network, 4)
    for seed in range(8, 14):
        image = noise(1, 3, 32, 32, seed=seed)
        outputs = torch.stack(list(Passes(network, bank, FUSED)(image))).softmax(2)
        off = (outputs - plain_loop(module, bank, image).softmax(2)).abs().amax((0, 1, 2))
        assert float(off.median()) < 1e-4


def test_differences_are_as_those_of_rounding_largest_by_largest() -> None:
    noisy = torch.zeros(1000)
    noisy[:3] = torch.tensor([1.0, 0.5, 0.01])
    assert within_noise(noisy, noisy)
    assert within_noise(noisy.flip(0) * 3, noisy)
    assert not within_noise(noisy * 5, noisy)
    assert within_noise(torch.zeros(1000), torch.zeros(1))
    spread = noisy.clone()
    spread[:8] = 0.5
    assert within_noise(spread, noisy)
    spread[:40] = 0.5
    assert not within_noise(spread, noisy)
    assert not within_noise(torch.tensor([float("inf")]), noisy)


def test_openvino_runs_the_weights_that_the_network_has_now() -> None:
    pytest.importorskip("openvino")
    module = calibrated(seeded(Toy), (32, 32))
    network, image = surveyed(module), noise(1, 3, 32, 32)
    bank = random_bank(network, 4)
    passes = Passes(network, bank, PassPlan(engine="openvino"))
    for change in (lambda: None, lambda: module.conv2.weight.mul_(1.5), lambda: module.head.weight.data.add_(0.1)):
        with torch.no_grad():
            change()
        torch.testing.assert_close(torch.stack(list(passes(image))), plain_loop(module, bank, image), rtol=0, atol=1e-4)
        assert passes.way == "openvino"


class Statistics(nn.Module):
    """Batch normalisation by hand, under another name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.running_mean = nn.Buffer(torch.zeros(channels))
        self.running_var = nn.Buffer(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running_mean[:, None, None]) / self.running_var[:, None, None].sqrt()


class Folded(Toy):
    """A BN folded into its convolution by way of `.data`."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        assert self.bn2.running_var is not None
        scale = self.bn2.running_var.data.add(1e-5).rsqrt()
        return self.head(functional.conv2d(y, self.conv2.weight * scale[:, None, None, None], padding=1).relu())


def by_hand() -> Iterator[tuple[str, nn.Module]]:
    for layer in (Statistics(8), evo_norm.EvoNorm2dB0(8)):
        module: nn.Module = seeded(Toy)
        module.bn2 = layer
        yield type(layer).__name__, module
    yield "Folded", seeded(Folded)


def test_statistics_of_mini_batches_that_cannot_be_drawn_are_refused() -> None:
    for name, module in by_hand():
        network = survey(module.eval(), module, noise(1, 3, 32, 32))
        status = {layer.name: layer.status for layer in network.layers}
        assert status == {"bn1": "stochastic", "bn2": "refused"}, name
        with pytest.raises(ModelRefused, match="bn2"):
            network.select(["*"])


class Swapped(Toy):
    """Two layers without running statistics, in an order that the image decides."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.BatchNorm2d(8, track_running_stats=False)
        self.b = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        first, second = (self.a, self.b) if x.mean() > 0 else (self.b, self.a)
        return self.head(self.bn2(self.conv2(second(first(y).relu() * 3 + 1))).relu())


def test_layers_without_statistics_are_not_taken_for_each_other() -> None:
    network = surveyed(calibrated(seeded(Swapped), (32, 32)), (32, 32))
    bright = noise(4, 3, 32, 32) + 1
    traced = survey(network.module, network.forward, bright[:1])
    (draw,) = record(traced, [bright])
    with pytest.raises(ModelRefused, match="another way"):
        list(record(traced, [bright - 3]))
    passes = Passes(traced, Bank.of_draws([draw, draw]), PassPlan(share=False))
    list(passes(bright[:1]))
    with pytest.raises(ModelRefused, match="another way"):
        list(passes(bright[:1] - 3))


def test_a_bank_is_distilled_at_the_size_that_it_was_recorded_at() -> None:
    network = load_network(calibrated(seeded(Toy), (32, 32)))
    images = [np.random.default_rng(seed).integers(0, 256, (40, 60, 3), dtype=np.uint8) for seed in range(4)]
    bank = fit_bank(network, images, batch=2, draws=4, size=(24, 32))
    made = distill_bank(network, bank, images, draws=2, views=2, held_out=1, steps=0)
    assert made.provenance["distillation"]["size"] == [24, 32]
    with pytest.raises(WrongUse, match="recorded at"):
        distill_bank(network, bank, images, draws=2, views=2, held_out=1, steps=0, size=(32, 32))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_refused_in_words(kind: torch.dtype) -> None:
    module = seeded(Toy).to(kind)
    with pytest.raises(ModelRefused, match=r"module\.float\(\)"):
        survey(module.eval(), module, noise(1, 3, 32, 32))


def test_a_layer_of_a_module_that_only_a_hook_holds_is_refused() -> None:
    module = calibrated(seeded(Toy), (32, 32))
    module.extra = nn.BatchNorm2d(8)
    module.conv2.register_forward_hook(lambda _, given, output: module.extra(output))
    network = load_network(module.eval())  # a copy, whose hook still holds the first one
    with pytest.raises(ModelRefused, match=r"'conv2'.*that a hook or a closure holds"):
        bn_network_of(network)
    assert {layer.name for layer in survey(module, module, noise(1, 3, 32, 32)).stochastic} == {"bn1", "extra", "bn2"}


class Vectorised(Toy):
    """Calls a function image by image, as `torch.vmap` does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.vmap(lambda image: image * torch.sigmoid(image))(x))


class PartlyHalf(Toy):
    """Its second BN layer, and what is before it, in bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2.bfloat16()
        self.bn2.bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.head(functional.relu(self.bn2(self.conv2(x.to(self.conv2.weight.dtype)))).float())


@pytest.mark.parametrize(("module", "tolerance"), [(Vectorised, 1e-5), (PartlyHalf, 2e-2)])
@pytest.mark.parametrize("plan", [PassPlan(), FUSED])
def test_a_network_of_vectorised_or_half_precision_calls_has_the_numbers_of_a_plain_loop(
    module: type[Toy], tolerance: float, plan: PassPlan
) -> None:
    network = calibrated(seeded(module), (32, 32))
    bank = fit_bank(network, noise(6, 3, 32, 32), batch=3, draws=3)
    drawn, image = bn_network_of(load_network(network)), noise(1, 3, 32, 32, seed=1)
    found = torch.cat(list(Passes(drawn, bank, plan)(image)))
    expected = torch.cat(list(plain_loop(network, bank, image)))
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())
