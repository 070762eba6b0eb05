"""What stays in float32 under half precision, and what that is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from plain import noise, random_bank, seeded, surveyed
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.passes.float32_calls import exact_calls, position_calls
from segment.passes.passes import Passes, PassPlan

HALVES = [PassPlan(precision="bf16", channels_last=last, fuse=last) for last in (False, True)]


class SharesItsFirstConvolutions(nn.Sequential):
    """Two convolutions before the first BN layer."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))


class UnpoolsByPlace(nn.Module):
    """A pool's places under a draw, and convolutions after them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mid, self.bn2, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.mid(self.bn(self.conv(x)).relu()))
        pooled, places = functional.max_pool2d(y, 2, return_indices=True)
        return torch.cat([self.head(pooled.repeat_interleave(2, 2).repeat_interleave(2, 3)), places_of(places)], dim=1)


def places_of(places: Tensor) -> Tensor:
    return places.repeat_interleave(2, 2).repeat_interleave(2, 3).float()


class Narrows(nn.Module):
    """A cheap first convolution after the first BN, then dear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.cheap, self.dear = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 32, 5, padding=2)
        self.last = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.dear(self.cheap(self.start(x))))


def depends_of(network: BatchNormNetwork) -> list[bool]:
    drawn = {layer.call for layer in network.stochastic}
    depends: list[bool] = []
    for index, call in enumerate(network.calls):
        depends.append(index in drawn or any(parent >= 0 and depends[parent] for parent in call.parents))
    return depends


def outputs(network: BatchNormNetwork, bank: Bank, image: Tensor, plan: PassPlan) -> Tensor:
    return torch.stack(list(Passes(network, bank, plan)(image))).float()


@pytest.mark.parametrize("plan", HALVES, ids=["plain", "fused"])
def test_what_does_not_depend_on_the_draw_is_computed_in_float32(plan: PassPlan) -> None:
    network = surveyed(seeded(SharesItsFirstConvolutions).eval())
    bank, image = random_bank(network), noise(1, 3, 24, 24)
    exact = outputs(network, bank, image, PassPlan())
    torch.testing.assert_close(outputs(network, bank, image, plan), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("plan", HALVES, ids=["plain", "fused"])
def test_half_precision_changes_no_position_of_a_pool(plan: PassPlan) -> None:
    network = surveyed(seeded(UnpoolsByPlace).eval())
    bank, image = random_bank(network), noise(1, 3, 64, 64)
    if not plan.channels_last:  # whose kernels round equal windows by their place on some CPUs, in float32 too
        image[..., 16:48, 16:48] = 0.3  # equal values, of which the first must be chosen whatever the rounding
    exact, half = (outputs(network, bank, image, replace(plan, precision=name)) for name in ("fp32", "bf16"))
    assert torch.equal(half[:, :, 4:], exact[:, :, 4:])
    assert not torch.equal(half[:, :, :4], exact[:, :, :4]), "the last convolution runs in bf16"


def test_position_calls_are_all_that_a_position_depends_on_and_none_after_it() -> None:
    network = surveyed(seeded(UnpoolsByPlace).eval())
    positions = position_calls(network.calls)
    convolutions = [index for index, call in enumerate(network.calls) if call.function is torch.conv2d]
    assert [index in positions for index in convolutions] == [True, True, False]


def test_the_first_convolutions_stay_exact_as_far_as_they_are_a_small_share_of_the_work() -> None:
    network = surveyed(seeded(Narrows).eval())
    exact = exact_calls(network.calls, depends_of(network))
    convolutions = [index for index, call in enumerate(network.calls) if call.function is torch.conv2d]
    products = [3 * 4, 4 * 32 * 25, 32 * 32 * 9]  # a pixel
    assert products[0] < 0.03 * sum(products) < products[0] + products[1]
    assert [index in exact for index in convolutions] == [True, False, False]
