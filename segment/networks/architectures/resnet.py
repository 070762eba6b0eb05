"""The residual network for 32 x 32 images that the paper's classification experiment uses.

Must not know where its weights come from, nor what its classes are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS = 5
"""Basic blocks of two convolutions in each of three stages: 6 * 5 + 2 = 32 layers."""


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters ("option A").

    A block that halves the map takes every second row and column for its shortcut, and pads the missing channels with
    zeros, half of them before and half after.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.missing = outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N C' H' W'
        shortcut = x
        if self.missing:
            half = self.missing // 2
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        branch = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (branch + shortcut).relu()


class ResNet32(nn.Module):
    """He et al. 2016, arXiv:1512.03385, section 4.2: three stages of 16, 32 and 64 channels; 31 BN layers.

    >>> ResNet32().eval()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the constructors of layers draw from the global RNG
            self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(16)
            self.layer1 = _stage(16, 16)
            self.layer2 = _stage(16, 32)
            self.layer3 = _stage(32, 64)
            self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:  # N 3 H W -> N K
        x = self.bn1(self.conv1(x)).relu()
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs), *(Block(outputs, outputs) for _ in range(BLOCKS - 1)))
