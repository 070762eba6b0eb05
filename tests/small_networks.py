"""Small networks that see a few pixels, the whole image, or a pixel's place: what tiling has to tell apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from plain import calibrated, seeded
from torch import Tensor, nn
from torch.nn import functional

from segment.networks.load import Network, load_network


class Small(nn.Module):
    """Halves the image twice and comes back; a cut is felt a few dozen pixels away."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return self.head(functional.interpolate(y, scale_factor=4, mode="bilinear"))


class Pooling(Small):
    """The same, weighed by what the whole image holds."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y * functional.adaptive_avg_pool2d(y, 1))).relu()
        return self.head(functional.interpolate(y, scale_factor=4, mode="bilinear"))


class Placed(Small):
    """The same, with the pixel's place in the image as an input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.linspace(-1, 1, x.shape[-1]))


def network_of(build: type[Small] = Small) -> Network:
    network = load_network(calibrated(seeded(build), (64, 64)))
    return replace(network, card=replace(network.card, input=replace(network.card.input, stride=4)))
