"""Passes and maps equal a plain loop's: on real architectures, under every plan, and on networks hard to follow."""

from __future__ import annotations

import copy
import logging
import re
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from plain import (
    Floats,
    Toy,
    calibrated,
    noise,
    passes,
    plain_loop,
    plain_measures,
    probabilities_of,
    random_bank,
    seeded,
    surveyed,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.large_batches import record_in_parts
from segment.draws.recording import record
from segment.errors import ModelRefused, WrongUse
from segment.estimation.estimate import estimate
from segment.methods.mcbn import mcbn
from segment.networks.load import Network, load_network
from segment.passes.passes import Passes, PassPlan
from segment.tracing.pass_memory import peak_bytes
from segment.tracing.replay import OtherShapes, Recording
from segment.uncertainty.measures import MEASURES

PLANS = [PassPlan(fold=fold, share=share) for fold in (1, 3) for share in (False, True)]
PLANS += [PassPlan(fold=2, share=True, channels_last=True)]  # 2 does not divide the 3 draws
PLANS += [PassPlan(channels_last=True, fuse=True)]

NAMES = ["plain", "shared", "folded", "both", "uneven", "fused"]
SIZES = ((64, 96), (96, 64))

NETWORKS = {
    "segment:enet?classes=5": ("downsample1*,downsample2*", "upsample*"),
    "smp:Unet?encoder=resnet34&classes=5": ("encoder.*", "decoder.*"),
    "smp:DeepLabV3Plus?encoder=mobilenet_v2&classes=5": ("encoder.*", "decoder.*"),
    "smp:FPN?encoder=tu-efficientnet_lite0&classes=5": ("encoder.*", ""),
    "torchvision:lraspp_mobilenet_v3_large?num_classes=5": ("backbone.*", "classifier.*"),
    "smp:Linknet?encoder=resnet18&classes=5": ("encoder.*", "decoder.*"),
    "smp:PSPNet?encoder=resnet18&classes=5": ("encoder.*", "decoder.*"),
}
"""URI -> globs of its first and of its second half ("" where that has no BN)."""


@cache
def network_of(uri: str) -> Network:
    network = load_network(uri)
    calibrated(seeded(lambda: network.module), (64, 96))
    return network


def run(network: Network) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda module, x: replace(network, module=module)(x)


def uneven(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Images whose brightness and contrast differ, as those of a data set do."""
    contrast, brightness = 1 + noise(count, 1, 1, 1, seed=seed + 1).abs(), noise(count, 1, 1, 1, seed=seed + 2)
    return noise(count, 3, *size, seed=seed) * contrast + brightness


@cache
def reference(
    uri: str, size: tuple[int, int], globs: str
) -> tuple[BatchNormNetwork, Bank, Tensor, dict[str, Floats], dict[str, float], dict[str, Any]]:
    """Network, bank, images, the plain loop's maps, the error allowed in each, and where each may be compared."""
    network = network_of(uri)
    drawn = bn_network_of(network, globs)
    draws = record(drawn, [uneven(2, size, seed=10 * t) for t in range(3)])
    equal = Bank.of_draws(list(draws))
    bank = replace(equal, weights=torch.tensor([0.5, 0.3, 0.2]))
    image = uneven(1 if size == SIZES[0] else 2, size, seed=77)
    maps, clear = {}, {}
    for dtype in (torch.float32, torch.float64):
        p = probabilities_of(plain_loop(network.module, bank, image, run(network), dtype).numpy())
        maps[dtype] = plain_measures(p, [0.5, 0.3, 0.2])
    mean_sorted = np.sort(np.average(p, axis=0, weights=[0.5, 0.3, 0.2]), axis=1)
    each_sorted = np.sort(p, axis=2)
    decided = mean_sorted[:, -1] - mean_sorted[:, -2] > 2e-3
    every_decided = (each_sorted[:, :, -1] - each_sorted[:, :, -2] > 2e-3).all(axis=0)
    cost = {}
    for name in MEASURES:
        clear[name] = (
            every_decided
            if name == "variation_ratio"
            else (decided if name in ("predicted_std", "standard_error") else np.ones_like(decided))
        )
        assert clear[name].mean() > 0.75
        apart = np.abs(maps[torch.float32][name] - maps[torch.float64][name])[clear[name]]
        cost[name] = max(1e-4, 4 * float(apart.max()))
    return drawn, bank, image, maps[torch.float32], cost, clear


def assert_maps_equal(uri: str, size: tuple[int, int], globs: str, plans: Sequence[PassPlan]) -> None:
    drawn, bank, image, wanted, allowed, clear = reference(uri, size, globs)
    assert wanted["variance"].mean() > 1e-5  # the draws do differ
    for plan in plans:
        method = mcbn(drawn, bank, plan)
        estimated = estimate(method, image, head="softmax")
        for name in MEASURES:
            apart = np.abs(estimated.maps[name].double().numpy() - wanted[name])[clear[name]]
            assert apart.max() <= allowed[name], (name, plan, apart.max())


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("uri", NETWORKS)
def test_every_map_equals_the_plain_loops_on_real_architectures(uri: str, size: tuple[int, int]) -> None:
    assert_maps_equal(uri, size, "all", PLANS[2:] if size == SIZES[0] else [PLANS[1], PLANS[3]])


QUICK = ("torchvision:lraspp_mobilenet_v3_large?num_classes=5", "smp:PSPNet?encoder=resnet18&classes=5")


def halves(uris: Sequence[str]) -> list[tuple[str, str]]:
    return [(uri, globs) for uri in uris for globs in NETWORKS[uri] if globs]


@pytest.mark.parametrize(("uri", "globs"), halves(QUICK))
def test_every_map_equals_the_plain_loops_where_half_the_layers_are_drawn(uri: str, globs: str) -> None:
    assert_maps_equal(uri, SIZES[0], globs, PLANS[1:4])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("uri", "globs"), halves([uri for uri in NETWORKS if uri not in QUICK]))
def test_half_the_layers_of_larger_networks_too(uri: str, globs: str, size: tuple[int, int]) -> None:
    assert_maps_equal(uri, size, globs, PLANS)


@pytest.mark.parametrize("precision", ["bf16"])
def test_half_precision_passes_give_float32_maps_near_those_of_fp32(precision: Any) -> None:
    drawn, bank, image, wanted, _, _ = reference("smp:PSPNet?encoder=resnet18&classes=5", SIZES[0], "all")
    for plan in PLANS:
        estimated = estimate(mcbn(drawn, bank, replace(plan, precision=precision)), image, head="softmax")
        assert {value.dtype for value in (estimated.probability, *estimated.maps.values())} == {torch.float32}
        apart = np.abs(estimated.variance.numpy() - wanted["variance"]).mean() / wanted["variance"].mean()
        assert 0 < apart < 0.1


# --- plans ---


def test_outputs_come_one_a_draw_in_the_banks_order(toy: Toy, image: Tensor) -> None:
    bank = random_bank(surveyed(toy), draws=7)
    wanted = plain_loop(toy, bank, image)
    for plan in PLANS:
        outputs = list(passes(surveyed(toy), bank, image, plan))
        assert len(outputs) == 7
        torch.testing.assert_close(torch.stack(outputs), wanted, rtol=1e-5, atol=1e-5)


def test_a_fold_larger_than_the_bank_is_the_whole_bank(toy: Toy, image: Tensor) -> None:
    bank = random_bank(surveyed(toy), draws=3)
    outputs = torch.stack(list(passes(surveyed(toy), bank, image, PassPlan(fold=50))))
    torch.testing.assert_close(outputs, plain_loop(toy, bank, image), rtol=1e-5, atol=1e-5)


def test_a_fold_below_one_is_refused() -> None:
    with pytest.raises(WrongUse, match="fold = 0, but it is a count of draws from 1 up"):
        PassPlan(fold=0)


def test_dropout_stays_off_in_every_pass(toy: Toy, image: Tensor) -> None:
    network, bank = surveyed(toy), random_bank(surveyed(toy), draws=2)
    toy.train()
    for plan in PLANS:
        first, two = (torch.stack(list(passes(network, bank, image, plan))) for _ in range(2))
        assert torch.equal(first, two)
        torch.testing.assert_close(first, plain_loop(toy, bank, image), rtol=1e-5, atol=1e-5)


def test_an_image_gives_the_same_alone_and_beside_others(toy: Toy) -> None:
    network, bank, images = surveyed(toy), random_bank(surveyed(toy)), noise(3, 3, 24, 40)
    for plan in PLANS:
        together = torch.stack(list(passes(network, bank, images, plan)))
        alone = torch.cat([torch.stack(list(passes(network, bank, first[None], plan))) for first in images], dim=1)
        torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_passes_change_neither_the_bank_nor_the_image(toy: Toy, image: Tensor) -> None:
    network, bank = surveyed(toy), random_bank(surveyed(toy))
    held, shown = copy.deepcopy(bank), image.clone()
    for plan in PLANS:
        for output in passes(network, bank, image, plan):
            output.zero_()  # a caller may do with an output what it likes
    for name in bank.layers:
        assert torch.equal(bank.mean[name], held.mean[name])
        assert torch.equal(bank.var[name], held.var[name])
    assert torch.equal(image, shown)


def test_an_output_that_the_caller_overwrites_does_not_reach_the_next_draw(toy: Toy, image: Tensor) -> None:
    network, bank = surveyed(toy), random_bank(surveyed(toy))
    wanted = plain_loop(toy, bank, image)
    for plan in PLANS:
        for t, output in enumerate(passes(network, bank, image, plan)):
            torch.testing.assert_close(output, wanted[t], rtol=1e-5, atol=1e-5)
            output.fill_(float("nan"))


def test_two_iterators_over_one_network_do_not_disturb_each_other(toy: Toy) -> None:
    network, bank = surveyed(toy), random_bank(surveyed(toy))
    images = [noise(1, 3, 32, 32, seed=1), noise(2, 3, 24, 24, seed=2)]
    for plan in PLANS:
        shared = Passes(network, bank, plan)
        for t, (first, two) in enumerate(zip(shared(images[0]), shared(images[1]), strict=True)):
            torch.testing.assert_close(first, plain_loop(toy, bank, images[0])[t], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(two, plain_loop(toy, bank, images[1])[t], rtol=1e-5, atol=1e-5)


def test_weights_changed_after_the_listing_are_the_ones_used(toy: Toy, image: Tensor) -> None:
    network, bank = surveyed(toy), random_bank(surveyed(toy))
    for plan in PLANS:
        engine = Passes(network, bank, plan)
        list(engine(image))
        with torch.no_grad():
            toy.conv2.weight.mul_(1.5)
        outputs = torch.stack(list(Passes(network, bank, plan)(image)))
        torch.testing.assert_close(outputs, plain_loop(toy, bank, image), rtol=1e-5, atol=1e-5)


# --- networks hard to follow ---


class Base(nn.Module):
    """Convolutions and BN layers for the networks below; each forward is one difficulty."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.side = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 3, padding=1)
        self.bn, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.mid, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def end(self, y: Tensor) -> Tensor:
        return self.head(self.bn2(self.mid(y)).relu())

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class AddsInPlaceToSharedWork(Base):
    """`+=` onto what no draw changes."""

    def forward(self, x: Tensor) -> Tensor:
        a = self.side(x)
        a += self.bn(self.conv(x))
        return self.end(a)


class OverwritesSharedWorkAfterADraw(Base):
    """What the first draw read is changed before the second comes."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.bn(y)
        y += 1
        return self.end(y * z)


class WritesASlice(Base):
    """A drawn value is put into a slice of shared work."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, :2] = self.bn(y)[:, 2:4]
        return self.end(y)


class WritesThroughAView(Base):
    """Shared work is changed by way of a view made before."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        view = y.flatten(2).transpose(1, 2)
        z = self.bn(y)
        view.mul_(2)
        return self.end(y + z)


class WritesADrawThroughAView(Base):
    """A view of shared work takes a drawn value."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.side(x)
        part = y.narrow(1, 0, 3)
        part.copy_(self.bn(self.conv(x))[:, :3])
        return self.end(y)


class WritesByOut(Base):
    """`out=` names shared work."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.side(x)
        torch.add(self.bn(self.conv(x)), y, out=y)
        return self.end(y)


class WritesIntoTheImage(Base):
    """The image itself is scaled in place."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return self.end(self.bn(self.conv(x)))


class WritesIntoTheImageAfterADraw(Base):
    """The image is changed between two reads."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.bn(self.conv(x))
        x.add_(1)
        return self.end(z + self.side(x))


class FillsAFreshTensor(Base):
    """Zeros, filled half by shared work and half by a draw."""

    def forward(self, x: Tensor) -> Tensor:
        filled = torch.zeros(x.shape[0], 6, *x.shape[2:])
        filled[:, :3] = self.side(x)[:, :3]
        filled[:, 3:] = self.bn(self.conv(x))[:, 3:]
        return self.end(filled)


class ActsInPlace(Base):
    """In-place activations, as most networks have."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu_(self.conv(x))
        z = functional.relu_(self.bn(y))
        return self.end(z.add_(y))


class BranchesOnTheImage(Base):
    """Other calls for dark images than for bright ones."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x) if x.mean() > 0 else self.side(x))
        if x.mean() > 0:
            return self.end(y.sigmoid())
        return self.end(functional.avg_pool2d(y.relu(), 3, 1, 1))


class BranchesOnTheDraw(Base):
    """Other calls for some draws than for others."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.end(y.sigmoid() if y.mean() > 0 else functional.avg_pool2d(y, 3, 1, 1))


class ChoosesSharedWorkByTheDraw(Base):
    """The same calls in the same order for all draws, but on other shared work."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        side = self.side(x) if y.mean() > 0 else self.conv(x)
        return self.end(y + side)


class ReadsANumberOfTheDraw(Base):
    """A draw leaves torch as a Python number and scales shared work."""

    def forward(self, x: Tensor) -> Tensor:
        scale = self.bn(self.conv(x)).abs().mean().item()
        return self.head(self.side(x)) * scale


class GoesThroughNumpy(Base):
    """A draw leaves torch as an array and comes back."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.end(torch.from_numpy(np.tanh(y.numpy())))


class PoolsLargeImages(Base):
    """Other calls at another size."""

    def forward(self, x: Tensor) -> Tensor:
        y = functional.avg_pool2d(x, 2) if x.shape[-1] > 40 else x
        return functional.interpolate(self.end(self.bn(self.conv(y))), size=x.shape[-2:])


class MixesTheBatch(Base):
    """The mean over the images is taken off each."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.end(y - y.mean(dim=0, keepdim=True))


class CountsPixelsOfTheDraw(Base):
    """How many pixels are chosen depends on the draw, and that number is read off a shape."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        share = y[y > 0].shape[0] / y.numel()
        return self.end(y + share)


class DividesByTheBatch(Base):
    """The number of images enters the numbers."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.end(y * y.square().sum() / (x.shape[0] * y[0].numel()))


class ReshapesByTheBatch(Base):
    """The image's batch size is written into a view of drawn work."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        return self.end(y.view(x.shape[0], 2, 3, *x.shape[2:]).flip(2).reshape(x.shape[0], 6, *x.shape[2:]))


class FoldsImagesIntoColumns(Base):
    """Images lie side by side along W while they are normalised."""

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.cat(list(self.conv(x)), dim=-1)[None]
        y = self.bn(wide)
        return self.end(torch.stack(y[0].chunk(x.shape[0], dim=-1)))


class NormalisesPixelsAsRows(Base):
    """BN over (pixels, channels), pixels outermost."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).permute(2, 3, 0, 1)  # H W N C
        return self.end(self.rows(y.reshape(-1, 6)).reshape(y.shape).permute(2, 3, 0, 1))


class CachesBySize(Base):
    """A grid is made when a size is first seen."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        if size not in self.grids:
            self.grids[size] = torch.linspace(-1, 1, size[1]).expand(1, 1, *size) * 0.5
        return self.end(self.bn(self.conv(x) + self.grids[size]) + self.grids[size])


class ExpandsAGridByTheBatch(Base):
    """A grid of no image is expanded to the images and joined to drawn work."""

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.linspace(-1, 1, x.shape[-1]).expand(x.shape[0], 2, *x.shape[2:])
        y = self.bn(self.conv(x))
        return self.end(torch.cat([y[:, :4], grid], dim=1))


class GatesByAPooledImage(Base):
    """Squeeze and excite: one drawn by one shared factor, both ways round."""

    def forward(self, x: Tensor) -> Tensor:
        y, side = self.bn(self.conv(x)), self.side(x)
        return self.end(y * side.mean(dim=(2, 3), keepdim=True).sigmoid() + side * y.mean(dim=(2, 3), keepdim=True))


class SplitsSharedWork(Base):
    """One call gives several results; a view of one is written."""

    def forward(self, x: Tensor) -> Tensor:
        first, two = self.side(x).chunk(2, dim=1)
        y = self.bn(self.conv(x))
        two.relu_()
        return self.end(torch.cat([first + y[:, :3], two * y[:, 3:]], dim=1))


class ScalesInPlace(Base):
    """In-place calls whose results are not used but by their effect."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.mul_(2)
        functional.relu_(y)
        z = self.bn(y)
        z.add_(y)
        return self.end(z)


class NormalisesItsWeightsToo(Base):
    """One module that calls batch_norm on a weight and on data, both with as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(6))
        self.register_buffer("running_var", torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.batch_norm(self.mid.weight.transpose(0, 1), None, None, training=True).transpose(0, 1)
        y = functional.conv2d(self.bn(self.conv(x)), weight, padding=1)
        return self.head(functional.batch_norm(y, self.running_mean, self.running_var))


class ActivatesInManyWays(Base):
    """Activations that may be fused behind a convolution, some read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.bn3 = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.leaky_relu(self.bn(self.conv(x)), 0.3)
        z = functional.hardswish(self.mid(y))
        y = functional.hardtanh(functional.silu(self.mid(y) + z), -0.2, 0.9)
        return self.head(functional.relu6(self.bn2(self.mid(y))) + functional.elu(self.bn3(self.mid(z))))


def twice(y: Tensor, mode: str = "nearest") -> Tensor:
    return functional.interpolate(y, scale_factor=2, mode=mode)


class Decodes(Base):
    """Images upsampled and concatenated before a convolution, as in decoders, with a border that would show a shift."""

    def __init__(self) -> None:
        super().__init__()
        self.join, self.three = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(18, 6, 3, padding=1)
        self.bn3, self.bn4 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        full = self.bn(self.conv(x)).relu()
        half = functional.avg_pool2d(full, 2)
        y = self.bn2(self.mid(twice(functional.avg_pool2d(half, 2)))).relu()
        y = self.bn3(self.join(torch.cat([twice(y, "nearest-exact"), full], 1))).relu()
        half = functional.avg_pool2d(y, 2)
        z = torch.cat((functional.interpolate(half, size=x.shape[2:]), full, y), dim=-3)
        return self.head(self.bn4(self.three(z)) + self.mid(twice(half)))


class DoublesInOtherWays(Base):
    """Doubled images that no transposed convolution can stand for: other windows, orders, readers, enlargements."""

    def __init__(self) -> None:
        super().__init__()
        self.join, self.wide = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=2, dilation=2)
        self.three = nn.Conv2d(18, 6, 3, padding=1)
        self.grouped, self.strided = nn.Conv2d(12, 6, 3, padding=1, groups=2), nn.Conv2d(6, 6, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        full = self.bn(self.conv(x)).relu()
        half = functional.avg_pool2d(full, 2)
        y = functional.silu(self.bn2(self.join(torch.cat([twice(half), full], 1)))) + self.wide(twice(half))
        y = y + self.join(torch.cat([full, twice(half)], 1)) + self.grouped(torch.cat([twice(half), full], 1))
        y = y + functional.interpolate(self.strided(twice(half)), size=x.shape[2:])
        y = y + functional.avg_pool2d(self.mid(torch.cat([twice(half), full], 3)), (1, 2))
        y = y + functional.relu6(self.mid(twice(half)))
        read_twice = twice(half)
        y = y + self.mid(read_twice) * read_twice + self.mid(twice(half, "bilinear"))
        quarter = functional.avg_pool2d(half, 2)
        y = y + self.mid(twice(twice(quarter))) + self.join(torch.cat([twice(half), twice(twice(quarter))], 1))
        y = y + self.three(torch.cat([torch.cat([twice(half), full], 1), full], 1))
        threefold = functional.interpolate(half, scale_factor=3)
        return self.head(y + functional.interpolate(self.mid(threefold), size=x.shape[2:])) + self.head(twice(half))


class Checkpoints(Base):
    """Memory-saving blocks, as torchvision's densenets have."""

    def forward(self, x: Tensor) -> Tensor:
        return self.end(checkpoint(lambda x: self.bn(self.conv(x)).relu(), x, use_reentrant=False))


class CastsInside(Base):
    """A part of the network runs in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.bn(self.conv(x))
        return self.end(y.float())


class CountsItsPasses(Base):
    """A buffer counts passes, and is replaced by a new one each time."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: Tensor
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes = self.passes + 1
        return self.end(self.bn(self.conv(x)) * self.passes)


HARD: tuple[type[Base], ...] = (
    AddsInPlaceToSharedWork,
    OverwritesSharedWorkAfterADraw,
    WritesASlice,
    WritesThroughAView,
    WritesADrawThroughAView,
    WritesByOut,
    WritesIntoTheImage,
    WritesIntoTheImageAfterADraw,
    FillsAFreshTensor,
    ActsInPlace,
    BranchesOnTheImage,
    BranchesOnTheDraw,
    ChoosesSharedWorkByTheDraw,
    ReadsANumberOfTheDraw,
    GoesThroughNumpy,
    PoolsLargeImages,
    MixesTheBatch,
    CountsPixelsOfTheDraw,
    DividesByTheBatch,
    ReshapesByTheBatch,
    FoldsImagesIntoColumns,
    NormalisesPixelsAsRows,
    CachesBySize,
    ExpandsAGridByTheBatch,
    GatesByAPooledImage,
    SplitsSharedWork,
    ScalesInPlace,
    NormalisesItsWeightsToo,
    ActivatesInManyWays,
    Decodes,
    DoublesInOtherWays,
    Checkpoints,
    CastsInside,
    CountsItsPasses,
)


def one_way_then_the_other(network: BatchNormNetwork) -> Bank:
    """Six draws; the mean of the first layer's output is above 0 under the first three, below under the others."""
    bank = random_bank(network, draws=6)
    first = network.stochastic[0].name
    shift = torch.tensor([-2.0, -2, -2, 2, 2, 2])[:, None] * bank.var[first].sqrt()
    return replace(bank, mean={**bank.mean, first: bank.mean[first] + shift})


@cache
def hard_reference(number: int) -> list[tuple[Tensor, Tensor]]:
    """A network of HARD: images (bright, dark, of another size, one alone, the first again), each with T N K H W."""
    module = seeded(HARD[number]).eval()
    bank = one_way_then_the_other(surveyed(module))
    images = [noise(2, 3, 24, 24, seed=1) + 0.5, noise(2, 3, 24, 24, seed=2) - 0.5, noise(2, 3, 16, 48, seed=3)]
    images += [noise(1, 3, 24, 24, seed=4), images[0]]
    each_the_first = [[plain_loop(module, Bank.of_draws([draw]), image) for draw in bank] for image in images]
    return [(image, torch.cat(outputs)) for image, outputs in zip(images, each_the_first, strict=True)]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # torch's checkpoint, no_grad
@pytest.mark.parametrize("hard", HARD, ids=lambda hard: hard.__name__)
@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
@pytest.mark.usefixtures("no_fast_path_given_up")
def test_a_network_hard_to_follow_gives_the_plain_loops_numbers(hard: type[Base], plan: PassPlan) -> None:
    network = surveyed(seeded(hard).eval())
    engine = Passes(network, one_way_then_the_other(network), plan)
    for number, (image, wanted) in enumerate(hard_reference(HARD.index(hard))):
        shown = image.clone()
        outputs = torch.stack(list(engine(image)))
        tolerance = 2e-2 if hard is CastsInside else 1e-4
        torch.testing.assert_close(outputs, wanted, rtol=tolerance, atol=tolerance, msg=f"image {number}: {{}}".format)
        assert torch.equal(image, shown), f"image {number} was changed"


@pytest.mark.parametrize("hard", [MixesTheBatch, DividesByTheBatch])
def test_a_warning_reports_that_draws_are_not_folded(hard: type[Base], caplog: pytest.LogCaptureFixture) -> None:
    network = surveyed(seeded(hard).eval())
    with caplog.at_level(logging.WARNING):
        list(passes(network, random_bank(network), noise(2, 3, 32, 32), PassPlan(fold=3, share=False)))
    assert re.search("draws run one by one: (mean|sum) may mix the images of a batch", caplog.text)


@pytest.mark.parametrize("build", [Toy, Decodes, DoublesInOtherWays])
def test_a_network_that_can_be_followed_gives_no_warning(
    build: type[nn.Module], caplog: pytest.LogCaptureFixture
) -> None:
    network = surveyed(seeded(build).eval())
    for plan in PLANS:
        list(passes(network, random_bank(network), noise(2, 3, 24, 48), plan))
    assert not caplog.records


def test_an_upsampled_image_is_not_made_where_its_convolution_does_not_need_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    enlarge = torch._C._nn.upsample_nearest2d

    def counted(image: Tensor, *given: Any) -> Tensor:
        made.append(image.shape)
        return enlarge(image, *given)

    monkeypatch.setattr(torch._C._nn, "upsample_nearest2d", counted)
    network = surveyed(seeded(Decodes).eval())
    engine = Passes(network, random_bank(network), PassPlan(channels_last=True, fuse=True))
    list(engine(noise(1, 3, 16, 24)))
    assert made, "the first image is held against plain passes"
    made.clear()
    list(engine(noise(1, 3, 16, 24)))
    assert not [shape for shape in made if shape[1] == 6]
    assert not caplog.records


@pytest.mark.parametrize("plan", [PassPlan(), PassPlan(channels_last=True, fuse=True)], ids=["shared", "fused"])
def test_the_networks_own_code_runs_once_an_image(toy: Toy, plan: PassPlan) -> None:
    bank = random_bank(surveyed(toy), draws=5)
    engine = Passes(surveyed(toy), bank, plan)
    list(engine(noise(1, 3, 16, 24, seed=1)))  # the first image is held against plain passes
    runs = []
    toy.conv2.register_forward_hook(lambda *_: runs.append(1))
    for seed in (2, 3):
        image = noise(1, 3, 24, 16, seed=seed)
        torch.testing.assert_close(torch.stack(list(engine(image))), plain_loop(toy, bank, image), rtol=1e-5, atol=1e-5)
    assert len(runs) - 2 * len(bank) == 2  # the plain loop's are the others


@pytest.mark.parametrize("hard", [CountsPixelsOfTheDraw, BranchesOnTheDraw])
def test_where_a_draw_changes_the_calls_the_networks_own_code_runs_for_each(hard: type[Base]) -> None:
    module = seeded(hard).eval()
    network = surveyed(module)
    bank = one_way_then_the_other(network)
    engine = Passes(network, bank, PassPlan())
    list(engine(noise(1, 3, 16, 24, seed=1)))
    runs = []
    module.mid.register_forward_hook(lambda *_: runs.append(1))
    list(engine(noise(1, 3, 16, 24, seed=2)))
    assert len(runs) == len(bank)


def test_what_no_later_call_reads_is_let_go_while_a_pass_is_run_again() -> None:
    script, first = Recording(), torch.ones(4)
    second = first + 1
    third = second * 2
    script.add(0, torch.ones, (4,), {}, first)
    script.add(1, torch.add, (first, 1), {}, second)
    script.add(2, torch.mul, (second, 2), {}, third)
    assert script.finish(third)
    alive: list[weakref.ref[Tensor]] = []
    seen = []

    def make(_: int, function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
        seen.append([ref() is not None for ref in alive])
        result: Tensor = function(*arguments, **named)
        alive.append(weakref.ref(result))
        return result

    assert torch.equal(script.run(make), torch.full((4,), 4.0))
    assert seen == [[], [True], [False, True]]


def test_a_pass_run_again_stops_at_a_result_of_another_shape() -> None:
    script, first = Recording(), torch.ones(4)
    script.add(0, torch.ones, (4,), {}, first)
    script.add(1, torch.chunk, (first, 2), {}, pair := first.chunk(2))
    assert script.finish(pair[1])
    assert script.run(lambda _, function, arguments, named: function(*arguments, **named)).shape == (2,)
    with pytest.raises(OtherShapes):
        script.run(lambda _, function, arguments, named: function(*arguments, **named)[..., :1])
    with pytest.raises(OtherShapes):
        script.run(lambda index, *_: torch.ones(4) if index == 0 else torch.ones(2))


def test_counting_a_pass_sees_weights_that_are_packed_and_leaves_it_fused(caplog: pytest.LogCaptureFixture) -> None:
    network = surveyed(seeded(Decodes).eval())
    engine, image = Passes(network, random_bank(network), PassPlan(channels_last=True, fuse=True)), noise(1, 3, 16, 24)
    counted = peak_bytes(lambda x: list(engine(x)), image)
    assert counted > peak_bytes(lambda x: list(engine(x)), image) > 0, "the first passes pack the weights"
    assert not caplog.records


def test_a_network_that_skips_a_layer_at_another_size_is_refused() -> None:
    class SkipsALayer(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.end(self.bn(y) if x.shape[-1] < 40 else y)

    network = surveyed(seeded(SkipsALayer).eval())
    for plan in PLANS:
        with pytest.raises(ModelRefused, match="another way"):
            list(passes(network, random_bank(network), noise(1, 3, 32, 64), plan))


def test_a_network_that_calls_its_layers_in_another_order_at_another_size_is_refused() -> None:
    class SwapsItsLayers(Base):
        def forward(self, x: Tensor) -> Tensor:
            first, two = (self.bn, self.bn2) if x.shape[-1] < 40 else (self.bn2, self.bn)
            return self.head(two(self.mid(first(self.conv(x)))).relu())

    network = surveyed(calibrated(seeded(SwapsItsLayers), (32, 32)))
    with pytest.raises(ModelRefused, match="another way"):
        list(record(network, [noise(2, 3, 32, 64)]))
    for plan in PLANS:
        with pytest.raises(ModelRefused, match="another way"):
            list(passes(network, random_bank(network), noise(1, 3, 32, 64), plan))


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_passes_work_in_a_callers_inference_mode_and_with_inference_tensors(toy: Toy, plan: PassPlan) -> None:
    image = noise(2, 3, 32, 32)
    bank = random_bank(surveyed(toy))
    wanted = plain_loop(toy, bank, image)
    held = toy.bn1.get_buffer("running_mean")
    with torch.inference_mode():
        inside = noise(2, 3, 32, 32)
        outputs = torch.stack(list(passes(surveyed(toy), bank, inside, plan)))
        torch.testing.assert_close(outputs, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.stack(list(passes(surveyed(toy), bank, inside, plan))), wanted, rtol=1e-5, atol=1e-5
    )
    with torch.inference_mode():
        made_inside = calibrated(seeded(Toy), (32, 32))
    network = surveyed(made_inside)
    outputs = torch.stack(list(passes(network, random_bank(network), image, plan)))
    torch.testing.assert_close(outputs, wanted, rtol=1e-5, atol=1e-5)
    list(record(network, [image]))
    assert torch.equal(made_inside.bn1.get_buffer("running_mean"), held)


class WritesInPlace(Toy):
    """Writes into its image and into its results."""

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.1)
        x = self.bn1(self.conv1(x)).relu_()
        return self.head(functional.relu(self.bn2(self.conv2(x)), inplace=True))


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_a_callers_inference_mode_changes_no_way(plan: PassPlan, caplog: pytest.LogCaptureFixture) -> None:
    network = surveyed(calibrated(seeded(WritesInPlace), (32, 32)))
    bank, image, batch = random_bank(network), noise(1, 3, 32, 32), noise(4, 3, 32, 32)
    ways, outputs, draws = [], [], []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            engine = Passes(network, bank, plan)
            outputs.append(torch.stack(list(engine(image.clone()))))
            ways.append(engine.way)
            draws += [*record(network, [batch]), *record_in_parts(network, [batch], at_once=1)]
    assert ways[0] == ways[1]
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)
    for name, (mean, var) in draws[0].items():
        for draw in draws[1:]:
            torch.testing.assert_close(draw[name], (mean, var))


def test_a_float64_network_runs_in_float64(toy: Toy, image: Tensor) -> None:
    bank = random_bank(surveyed(toy))
    wanted = plain_loop(toy, bank, image, dtype=torch.float64)
    module = toy.double()
    network = survey(module, module, image.double())
    for plan in PLANS:
        outputs = torch.stack(list(passes(network, bank, image.double(), plan)))
        torch.testing.assert_close(outputs, wanted, rtol=1e-10, atol=1e-10)


def test_a_callers_own_hooks_act_in_every_pass(toy: Toy, image: Tensor) -> None:
    bank = random_bank(surveyed(toy))
    doubled = copy.deepcopy(toy)
    for module in (toy, doubled):
        module.conv2.register_forward_hook(lambda _m, _a, output: 2 * output)
        module.bn1.register_forward_pre_hook(lambda _m, inputs: (inputs[0] + 1,))
    wanted = plain_loop(doubled, bank, image)
    for plan in PLANS:
        outputs = torch.stack(list(passes(surveyed(toy), bank, image, plan)))
        torch.testing.assert_close(outputs, wanted, rtol=1e-5, atol=1e-5)
