"""The small U-Net of the embedded default: every convolution but the last is followed by batch normalisation.

Must not know which images it is for, nor where its weights come from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class TinyUNet(nn.Module):
    """Four levels at 1/2, 1/4, 1/8 and 1/16 of the image, two convolutions each; no dropout.

    Source: after Ronneberger, Fischer & Brox 2015, arXiv:1505.04597, with BN, padding and bilinear upsampling; the
    first convolution halves the image, which makes a pass about four times cheaper.

    classes: K; width: channels of the first level, 2, 4 and 4 times as many below it
    generator: where the first weights come from (He et al. 2015, arXiv:1502.01852); None: a fixed seed

    >>> network = TinyUNet(classes=6).eval()
    >>> network(torch.zeros(1, 3, 40, 56)).shape
    torch.Size([1, 6, 40, 56])
    """

    def __init__(self, classes: int = 6, width: int = 16, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        one, two, four = width, 2 * width, 4 * width
        with torch.random.fork_rng(devices=[]):  # the constructors of layers draw from the global RNG
            self.down1 = _level(3, one, stride=2)
            self.down2 = _level(one, two)
            self.down3 = _level(two, four)
            self.bottom = _level(four, four)
            self.up3 = _level(four + four, four)
            self.up2 = _level(four + two, two)
            self.up1 = _level(two + one, one)
            self.head = nn.Conv2d(one, classes, 1)
        generator = generator or torch.Generator().manual_seed(0)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # training starts at the uniform prediction

    def forward(self, x: Tensor) -> Tensor:  # N 3 H W -> N K H W
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        three = self.down3(functional.max_pool2d(two, 2))
        bottom = self.bottom(functional.max_pool2d(three, 2))
        three = self.up3(_joined(bottom, three))
        two = self.up2(_joined(three, two))
        one = self.up1(_joined(two, one))
        return functional.interpolate(self.head(one), size=x.shape[-2:], mode="bilinear", align_corners=False)


def _level(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _joined(deep: Tensor, shallow: Tensor) -> Tensor:  # N A h w, N B H W -> N A+B H W
    deep = functional.interpolate(deep, size=shallow.shape[-2:], mode="bilinear", align_corners=False)
    return torch.cat([deep, shallow], dim=1)
