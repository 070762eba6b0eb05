"""Small networks, each with one property that a test is about: what it sees, what it draws, what it cannot do."""

from __future__ import annotations

from dataclasses import replace

import torch
from plain import Toy, calibrated, seeded
from torch import Tensor, nn
from torch.nn import functional

from segment.networks.load import Network, load_network


class Small(nn.Module):
    """Two strides of 2 and upsampling back; a cut changes outputs a few dozen pixels away."""

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


class Random(Small):
    """Adds noise, drawn in the order of memory."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x))


class Backwards(Toy):
    """Calls its layers in another order than it names them."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn1(self.conv2(self.bn2(self.conv1(x)))))


class Contrast(Toy):
    """Divides each image by its largest value: 0 / 0 on a black image."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.amax((1, 2, 3), keepdim=True))


class InNumpy(Toy):
    """Goes through NumPy, which knows no bfloat16."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        return self.head(self.bn2(self.conv2(torch.from_numpy(y.numpy()).clone())).relu())


class Strided(nn.Module):
    """One convolution of a stride, one between its outputs, and back to the size of the image.

    cropped: upsampled by the stride and cropped, not stretched; checked: other sides than multiples are refused
    """

    def __init__(
        self,
        stride: int,
        *,
        mode: str = "bilinear",
        align_corners: bool = False,
        cropped: bool = False,
        checked: bool = False,
        classes: int = 4,
    ) -> None:
        super().__init__()
        self.stride, self.cropped, self.checked = stride, cropped, checked
        self.mode, self.align_corners = mode, None if mode == "nearest" else align_corners
        self.conv1 = nn.Conv2d(3, 6, max(3, stride), padding=max(1, stride // 2), stride=stride)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.checked and (height % self.stride or width % self.stride):
            raise RuntimeError(f"sides of {height} and {width} are no multiples of {self.stride}")
        down = functional.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        y = self.bn1(self.conv1(down)).relu()[..., : down.shape[-2] // self.stride, : down.shape[-1] // self.stride]
        y = self.head(self.bn2(self.conv2(y)).relu())
        size = down.shape[-2:] if self.cropped else x.shape[-2:]
        return functional.interpolate(y, size, mode=self.mode, align_corners=self.align_corners)[..., :height, :width]


def network_of(build: type[Small] = Small) -> Network:
    network = load_network(calibrated(seeded(build), (64, 64)))
    return replace(network, card=replace(network.card, input=replace(network.card.input, stride=4)))
