"""Passes by OpenVINO are those of torch: held to plain passes at any size, and given up where they differ."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from plain import (
    assert_same_state,
    calibrated,
    noise,
    noise_without_ties,
    plain_loop,
    random_bank,
    seeded,
    state_of,
    surveyed,
)
from small_networks import Pooling, Small, Strided
from torch import Tensor, nn
from torch.nn import functional

from segment.errors import FastPathDiffers, ModelRefused, WrongUse
from segment.networks.architectures.enet import ENet
from segment.passes import openvino_passes
from segment.passes.fused import onednn
from segment.passes.openvino_passes import CompiledNetwork, OpenVinoPasses
from segment.passes.passes import Passes, PassPlan

BY_OPENVINO = PassPlan(engine="openvino", channels_last=True, fuse=True)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "strided": Small,
    "pooling": Pooling,
    "sizes cross the parts": lambda: Strided(4, cropped=True),
    "positions": lambda: ENet(4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_passes_by_openvino_are_those_of_a_plain_loop_at_every_size(name: str) -> None:
    module = calibrated(seeded(NETWORKS[name]))
    network = surveyed(module)
    bank = random_bank(network)
    passes = Passes(network, bank, BY_OPENVINO)
    before = state_of(module)

    def image(*shape: int, seed: int = 0) -> Tensor:
        return noise_without_ties(lambda one: plain_loop(module, bank, one), *shape, seed=seed)

    for images in (image(1, 3, 64, 48), image(1, 3, 32, 64), image(2, 3, 32, 64, seed=3), image(1, 3, 64, 48, seed=4)):
        outputs, expected = list(passes(images)), plain_loop(module, bank, images)
        largest = max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(torch.stack(outputs), expected, rtol=0, atol=1e-4 * largest)
        assert passes.way == "openvino"
    assert_same_state(before, state_of(module))
    kept = [output.clone() for output in outputs]
    list(passes(noise(1, 3, 64, 48, seed=9)))
    assert all(torch.equal(output, as_it_was) for output, as_it_was in zip(outputs, kept, strict=True))


def test_what_does_not_depend_on_the_draw_is_made_once_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    network = surveyed(calibrated(seeded(Small))).select("bn2")
    bank = random_bank(network)
    passes = OpenVinoPasses(CompiledNetwork(network, bank), noise(1, 3, 32, 32), "fp32")
    first, last = passes._parts
    assert (first.drawn, len(last.drawn)) == ((), 2)
    assert all("conv2" in name or "sizes" in name for name in first.gives)  # what the stochastic layer reads
    given = [passes(t) for t in range(3)]
    for t, expected in enumerate(plain_loop(network.module, bank, noise(1, 3, 32, 32))):
        made = given[t]
        assert made is not None
        torch.testing.assert_close(made, expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(not onednn.has_bfloat16(), reason="no bfloat16 instructions")
def test_in_half_precision_the_first_calls_stay_in_float32() -> None:
    module = calibrated(seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), *_deep(40))))
    network = surveyed(module)
    bank = random_bank(network, spread=0.05)
    compiled = CompiledNetwork(network, bank)
    parts, new = compiled.parts((1, 3, 32, 32), "bf16")
    assert (len(parts), new) == (3, True)
    assert compiled.parts((1, 3, 32, 32), "bf16") == (parts, False)
    image = noise(1, 3, 32, 32)
    exact = OpenVinoPasses(compiled, image, "fp32")(0)
    rounded = OpenVinoPasses(compiled, image, "bf16")(0)
    assert exact is not None
    assert rounded is not None
    assert 0 < float((exact - rounded).abs().max()) < 0.1 * float(exact.abs().max())


def _deep(channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs in (4, channels, channels):
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return [*layers, nn.Conv2d(channels, 4, 1)]


class WiderThan(Small):
    """Decides by the width of the image, which a graph made at another does not do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (3.0 if x.shape[-1] > 40 else 1.0)


def test_a_graph_that_computes_something_else_is_given_up_before_anything_is_yielded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = calibrated(seeded(WiderThan))
    network = surveyed(module)
    bank = random_bank(network)
    passes = Passes(network, bank, BY_OPENVINO)
    for size in (32, 64):
        images = noise(1, 3, 32, size)
        with caplog.at_level(logging.WARNING):
            outputs = torch.stack(list(passes(images)))
        torch.testing.assert_close(outputs, plain_loop(module, bank, images), rtol=0, atol=1e-4)
        assert passes.plan.engine == ("openvino" if size == 32 else "torch")
    assert "OpenVINO does not run this network's passes, torch does: other numbers than a plain pass" in caplog.text
    assert passes.way != "openvino"


def test_a_graph_that_turns_wrong_later_stops_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    network = surveyed(calibrated(seeded(Small)))
    passes = Passes(network, random_bank(network), BY_OPENVINO)
    images = noise(1, 3, 32, 32)
    list(passes(images))
    right = openvino_passes.OpenVinoPasses.__call__

    def wrong(self: OpenVinoPasses, t: int) -> Tensor | None:
        output = right(self, t)
        return None if output is None else output + output.amax() * torch.arange(4.0)[:, None, None]

    monkeypatch.setattr(openvino_passes.OpenVinoPasses, "__call__", wrong)
    passes.unverified = 100  # a comparison is due
    with pytest.raises(FastPathDiffers, match="passes are plain from now on"):
        list(passes(images))
    assert passes.plan.engine == "torch"
    torch.testing.assert_close(
        torch.stack(list(passes(images))), plain_loop(network.module, passes.bank, images), rtol=0, atol=1e-4
    )


class AlwaysDropout(Small):
    """Drops values out in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * functional.dropout(torch.ones_like(x), training=True))


def test_a_network_that_no_graph_expresses_is_refused_before_the_first_image() -> None:
    network = surveyed(calibrated(seeded(AlwaysDropout)))
    with pytest.raises(ModelRefused, match="draws random numbers"):
        Passes(network, random_bank(network), BY_OPENVINO)


class RolledBy(Small):
    """Moves its image by a number that it takes from the image, as a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.roll(x, (x.mean() > 0.5).long() * 4, -1))  # type: ignore[arg-type]


def test_a_tensor_in_place_of_a_number_is_refused_for_it_would_be_that_of_one_image() -> None:
    network = surveyed(calibrated(seeded(RolledBy)))
    with pytest.raises(ModelRefused, match="gives a tensor where torch takes a number"):
        Passes(network, random_bank(network), BY_OPENVINO)


class RolledByItsOwn(Small):
    """Moves its image by a buffer, which is one number for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("by", torch.tensor(4))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.roll(x, self.by, -1))  # type: ignore[arg-type]


def test_a_buffer_in_place_of_a_number_is_taken() -> None:
    module = calibrated(seeded(RolledByItsOwn))
    network, image = surveyed(module), noise(1, 3, 32, 32)
    passes = Passes(network, random_bank(network), BY_OPENVINO)
    outputs = torch.stack(list(passes(image)))
    assert passes.way == "openvino"
    torch.testing.assert_close(outputs, plain_loop(module, passes.bank, image), rtol=0, atol=1e-4)


def test_threads_have_the_numbers_of_one_after_the_other() -> None:
    network = surveyed(calibrated(seeded(Small)))
    passes = Passes(network, random_bank(network), BY_OPENVINO)
    images = [noise(1, 3, 64, 64, seed=seed) for seed in range(6)]
    alone = [torch.stack(list(passes(image))) for image in images]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(8):
            together = threads.map(lambda image: torch.stack(list(passes(image))), images)
            for outputs, expected in zip(together, alone, strict=True):
                torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-6)


def test_draws_side_by_side_and_fp16_are_wrong_use() -> None:
    with pytest.raises(WrongUse, match="one draw a pass"):
        PassPlan(engine="openvino", fold=2)
    with pytest.raises(WrongUse, match="fp32 or bf16"):
        PassPlan(engine="openvino", precision="fp16")
