"""Channels lie innermost only where a network gives the same numbers for them."""

from __future__ import annotations

import pytest
import torch
from plain import Toy, calibrated, in_eval_mode, noise, random_bank, seeded, surveyed
from small_networks import Random, Small
from torch import Tensor, nn
from torch.nn import functional

from segment.methods.deterministic import deterministic
from segment.methods.mcbn import mcbn
from segment.passes.passes import PassPlan


class Windows(nn.Module):
    """The largest of each window, by strides over contiguous memory, as attention over windows makes them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        f = self.bn(self.conv(x)).relu()
        n, c, h, w = f.shape
        padded = functional.pad(f, (2, 2, 2, 2))
        rows, columns = h + 4, w + 4
        strides = (c * rows * columns, rows * columns, columns, 1, columns, 1)
        made: Tensor = self.head(f + padded.as_strided((n, c, h, w, 5, 5), strides).amax((-1, -2)))
        return made


def test_a_network_that_reads_memory_by_its_layout_gets_contiguous_images() -> None:
    module = calibrated(seeded(Windows), (32, 32))
    network, image = surveyed(module), noise(1, 3, 32, 32, seed=1)
    assert not network.channels_last
    plan = PassPlan(channels_last=True, fuse=True)
    ((_, output),) = deterministic(network, plan=plan)(image)
    torch.testing.assert_close(output, in_eval_mode(module, image), rtol=1e-5, atol=1e-5)
    bank = random_bank(network)
    plain, fast = ([output for _, output in mcbn(network, bank, each)(image)] for each in (PassPlan(share=False), plan))
    torch.testing.assert_close(torch.stack(fast), torch.stack(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Toy, Small, Random])
def test_other_networks_have_channels_innermost(kind: type[nn.Module]) -> None:
    module = calibrated(seeded(kind), (32, 32))
    before = torch.get_rng_state()
    assert surveyed(module).channels_last
    assert torch.equal(torch.get_rng_state(), before)
