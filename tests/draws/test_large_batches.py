"""A large mini-batch recorded part by part gives the draw of one pass over all of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from plain import Toy, assert_same_state, calibrated, noise, noise_without_ties, seeded, state_of, surveyed
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.large_batches import MergedStatistics, record_in_parts, why_whole
from segment.draws.recording import record
from segment.errors import ModelRefused, PredictionFailed, WrongUse
from segment.networks.architectures.enet import ENet
from segment.tracing.batch_independence import mixing_call
from segment.tracing.pass_memory import peak_bytes

KEEPING = (0, 4 * 2**10, float("inf"))
"""Bytes kept between sweeps: nothing, some parts only, everything."""


class Tangled(nn.Module):
    """A BN used twice, branches side by side, in-place sums, a 1x1 map, and a tensor read again at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.again = nn.BatchNorm2d(8)
        self.left = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.right = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Sigmoid())
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.again(self.stem(x)).relu_()
        second = self.left(first)
        second += self.right(first)
        third = self.again(second) * self.pooled(second)
        return self.head(torch.cat([third, first], dim=1))


class Preactivated(nn.Module):
    """A sum that later blocks write into, as in networks that normalise before they convolve."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x += conv(norm(x).relu())
        return self.head(x)


class Deployed(nn.Module):
    """A sum in place, then more channels: in its own inference mode, in which torch does not count what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.wide = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 8, 1))
        self.last, self.head = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x += self.inner(self.first(x).relu())
        return self.head(self.last(self.wide(x) + x).relu())


def unet() -> nn.Module:
    return smp.Unet("resnet18", encoder_weights=None, classes=4, decoder_channels=(32, 16, 16, 8, 8))


BUILDS: dict[str, Callable[[], nn.Module]] = {
    "toy": Toy,
    "tangled": Tangled,
    "preactivated": Preactivated,
    "unet": unet,
}


def network_of(name: str) -> BatchNormNetwork:
    size = (64, 64) if name == "unet" else (32, 32)
    return surveyed(calibrated(seeded(BUILDS[name]), size), size)


def assert_same_draw(draw: dict[str, tuple[Tensor, Tensor]], one_pass: dict[str, tuple[Tensor, Tensor]]) -> None:
    """1e-4 relative: of a mean to the layer's scale (a mean may be 0), of a variance to itself."""
    assert list(draw) == list(one_pass)
    for name, (mean, var) in one_pass.items():
        scale = (mean.abs() + var.sqrt()).clamp_min(1e-3)
        assert float(((draw[name][0] - mean).abs() / scale).max()) < 1e-4, name
        assert float(((draw[name][1] - var).abs() / (var + 1e-6 * scale**2)).max()) < 1e-4, name


def by_parts(
    network: BatchNormNetwork, batch: Tensor, at_once: int, keep_bytes: float = 0
) -> dict[str, tuple[Tensor, Tensor]]:
    (draw,) = record_in_parts(network, [batch], at_once=at_once, keep_bytes=keep_bytes)
    return dict(draw)


def in_one_pass(network: BatchNormNetwork, batch: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    (draw,) = record(network, [batch])
    return dict(draw)


@pytest.mark.parametrize("keep_bytes", KEEPING)
@pytest.mark.parametrize("name", BUILDS)
def test_parts_give_the_draw_of_one_pass(name: str, keep_bytes: float, caplog: pytest.LogCaptureFixture) -> None:
    network = network_of(name)
    batch = noise(7, 3, 64, 64, seed=3) if name == "unet" else noise(7, 3, 16, 24, seed=3)
    with caplog.at_level(logging.WARNING):
        draw = by_parts(network, batch, 3, keep_bytes)
    assert_same_draw(draw, in_one_pass(network, batch))
    assert not caplog.records  # recorded part by part, not whole


@pytest.mark.parametrize("at_once", [1, 2, 5, 6, 9])
def test_the_size_of_a_part_changes_nothing(at_once: int) -> None:
    network = network_of("tangled")
    batch = noise(6, 3, 16, 16, seed=4)
    assert_same_draw(by_parts(network, batch, at_once, float("inf")), in_one_pass(network, batch))


def test_layers_kept_fixed_still_normalise_by_the_whole_mini_batch() -> None:
    network = network_of("tangled").select("again")
    batch = noise(5, 3, 16, 16, seed=5)
    draw = by_parts(network, batch, 2)
    assert list(draw) == [layer.name for layer in network.stochastic]
    assert_same_draw(draw, in_one_pass(network, batch))


def test_several_mini_batches_are_several_draws_and_small_ones_take_one_pass(toy: Toy) -> None:
    network = surveyed(toy)
    batches = [noise(4, 3, 16, 16, seed=1), noise(2, 3, 16, 16, seed=2), noise(4, 3, 16, 16, seed=3)]
    draws = list(record_in_parts(network, batches, at_once=2))
    assert len(draws) == 3
    for draw, batch in zip(draws, batches, strict=True):
        assert_same_draw(dict(draw), in_one_pass(network, batch))


class Counting(TorchDispatchMode):
    """How many images go through a convolution each time that it is run."""

    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.images: list[int] = []
        self._weight = convolution.get_parameter("weight")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default and args[1] is self._weight:
            self.images.append(len(args[0]))
        return func(*args, **(kwargs or {}))


def counted(network: BatchNormNetwork, stem: str, batch: Tensor, at_once: int, keep_bytes: float) -> list[int]:
    """Images in each run of the stem, for one draw after a first one, which looks at the network too."""
    draws: Iterator[object] = record_in_parts(network, [batch, batch], at_once=at_once, keep_bytes=keep_bytes)
    next(draws)
    with Counting(network.module.get_submodule(stem)) as counting:
        next(draws)
    return counting.images


def test_with_room_for_results_each_image_passes_through_the_stem_once() -> None:
    batch = noise(5, 3, 64, 64, seed=1)
    assert counted(network_of("unet"), "encoder.conv1", batch, 2, float("inf")) == [2, 2, 1]


def test_without_room_every_layer_starts_at_the_images_again() -> None:
    network = network_of("tangled")
    assert len(network.layers) == 5
    assert counted(network, "stem", noise(3, 3, 16, 16), 2, 0) == [2, 1] * 5


def test_with_room_for_some_only_those_go_on_from_where_they_stood() -> None:
    result = counted(network_of("tangled"), "stem", noise(4, 3, 16, 16), 1, 20 * 2**10)
    assert 4 < len(result) < 4 * 5


def test_kept_results_stay_within_their_bytes() -> None:
    network = network_of("unet")
    batch = noise(4, 3, 64, 64, seed=2)
    first = peak_bytes(lambda images: in_one_pass(network, images), batch[:1])
    keep_bytes = 2**20
    parts = partial(record_in_parts, network, at_once=1, keep_bytes=keep_bytes, whole="")
    some = peak_bytes(lambda images: list(parts([images])), batch)
    assert keep_bytes < some <= first + keep_bytes + 2**18  # two draws of statistics are alive as well


def merged(parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    sums = MergedStatistics()
    for part in parts:
        sums.add(part)
    return sums.compute(torch.float32)


def test_a_constant_channel_has_variance_zero() -> None:
    mean, var = merged(list(torch.split(torch.full((6, 2, 4, 4), 3.5), 2)))
    assert mean.tolist() == [3.5, 3.5]
    assert var.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("centre", "deviation"), [(0.0, 1e-6), (1e-6, 1e-6), (1e3, 1.0), (1e4, 1.0), (-300.0, 0.01)])
def test_merged_statistics_keep_their_digits(centre: float, deviation: float) -> None:
    x = (noise(8, 3, 16, 16, seed=6).double() * deviation + centre).float()
    mean, var = merged(list(torch.split(x, 3)))
    exact = x.double()
    torch.testing.assert_close(mean.double(), exact.mean(dim=(0, 2, 3)), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(var.double(), exact.var(dim=(0, 2, 3), correction=0), rtol=1e-4, atol=0)


def test_parts_of_one_value_a_channel_are_merged() -> None:
    x = noise(5, 3, 1, 1, seed=7)
    mean, var = merged(list(torch.split(x, 1)))
    torch.testing.assert_close(mean, x.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(var, x.var(dim=(0, 2, 3), correction=0))


def test_autocast_keeps_statistics_in_float32(toy: Toy) -> None:
    network = surveyed(toy)
    batch = noise(6, 3, 16, 16, seed=8)
    (half,) = record_in_parts(network, [batch], at_once=2, keep_bytes=float("inf"), precision="bf16")
    (one_pass,) = record(network, [batch], precision="bf16")
    for name, (mean, var) in one_pass.items():
        assert half[name][0].dtype == half[name][1].dtype == torch.float32
        # the same roundings of activations, merged: far closer than one bf16 step (4e-3)
        torch.testing.assert_close(half[name][0], mean, rtol=5e-4, atol=5e-4 * float(var.max().sqrt()))
        torch.testing.assert_close(half[name][1], var, rtol=5e-4, atol=0)


class Stopping(Toy):
    """Asks for a value on its way."""

    def forward(self, x: Tensor) -> Tensor:
        if float(self.conv1(x).mean()) > 1e9:
            raise RuntimeError("never")
        return super().forward(x)


def test_a_network_that_reads_values_is_refused_where_its_mini_batch_does_not_fit_whole() -> None:
    network = surveyed(calibrated(seeded(Stopping), (32, 32)))
    with pytest.raises(ModelRefused, match="__float__ gives values of the images to Python"):
        by_parts(network, noise(5, 3, 16, 16, seed=9), 2, float("inf"))


class Meeting(Toy):
    """Subtracts the mean image of the mini-batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x - x.mean(dim=0, keepdim=True))).relu()
        return self.head(self.bn2(self.conv2(x)).relu())


def test_a_network_that_mixes_images_elsewhere_than_in_bn_is_refused() -> None:
    network = surveyed(calibrated(seeded(Meeting), (32, 32)))
    with pytest.raises(ModelRefused, match="mean may mix the images of a mini-batch"):
        by_parts(network, noise(4, 3, 16, 16, seed=1), 2)


class StandardisesMany(Toy):
    """The contrast of three or more images is made that of all of them."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.std() if len(x) > 2 else x)


class HalvesMany(Toy):
    """Four or more images have half the contrast; no call is another."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (0.5 if x.shape[0] >= 4 else 1.0))


@pytest.mark.parametrize("build", [StandardisesMany, HalvesMany, Meeting, Stopping])
def test_what_cannot_be_followed_goes_through_whole_where_that_fits(build: Callable[[], nn.Module]) -> None:
    network = surveyed(calibrated(seeded(build), (32, 32)))
    batch = noise(4, 3, 16, 16, seed=1)
    draws = list(record_in_parts(network, [batch, batch], at_once=1, keep_bytes=float("inf"), whole_fits=True))
    for draw in draws:
        for name, (mean, var) in in_one_pass(network, batch).items():
            assert torch.equal(draw[name][0], mean)
            assert torch.equal(draw[name][1], var)


def test_a_network_in_its_own_inference_mode_has_the_draw_of_one_pass_whatever_is_kept() -> None:
    network = surveyed(calibrated(seeded(Deployed), (32, 32)))
    batch = noise(4, 3, 32, 32, seed=3)
    assert "own inference mode" in why_whole(network, batch[:2])
    for keep_bytes in (0, 1e5, 2e5, 3e5, float("inf")):
        (draw,) = record_in_parts(network, [batch], at_once=1, keep_bytes=keep_bytes, whole_fits=True)
        assert_same_draw(dict(draw), in_one_pass(network, batch))


def test_the_network_is_restored(toy: Toy) -> None:
    network = surveyed(toy)
    toy.train()
    before = state_of(toy)
    by_parts(network, noise(5, 3, 16, 16), 2, float("inf"))
    assert_same_state(before, state_of(toy))
    with pytest.raises(PredictionFailed, match="not finite"):
        by_parts(network, torch.cat([noise(4, 3, 16, 16), torch.full((1, 3, 16, 16), float("inf"))]), 2)
    assert_same_state(before, state_of(toy))


def test_a_part_is_one_image_or_more(toy: Toy) -> None:
    with pytest.raises(WrongUse, match="from 1 up"):
        by_parts(surveyed(toy), noise(4, 3, 16, 16), 0)


class Indexed(nn.Module):
    """Values that are read and written by index, with the axis of the images, or along it."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.norm = axis, nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        order = y.argsort(dim=3) % y.shape[self.axis]
        sorted_values = torch.gather(y, self.axis, order)
        return torch.scatter_add(y.new_zeros(y.shape), self.axis, order, sorted_values)[..., 1:, :]


@pytest.mark.parametrize("by_index", [False, True])
def test_enet_keeps_images_apart_on_every_device(by_index: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """by_index: as it unpools on a GPU."""
    network = calibrated(seeded(lambda: ENet(5)), (32, 32))
    if by_index:
        monkeypatch.setattr("torch.onnx.is_in_onnx_export", lambda: True)
    with torch.no_grad():
        images = noise_without_ties(network, 3, 3, 32, 32)
        assert mixing_call(network, network, images) == ""
        torch.testing.assert_close(network(images)[1:2], network(images[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("axis", "named"), [(1, ""), (2, ""), (3, ""), (0, "gather")])
def test_reading_and_writing_by_index_keeps_images_apart_but_along_their_axis(axis: int, named: str) -> None:
    module, images = calibrated(Indexed(axis), (8, 8), 4), noise(2, 4, 8, 8)
    assert mixing_call(module, module, images) == named
    with torch.no_grad():
        assert torch.equal(module(images)[:1], module(images[:1])) == (named == "")
