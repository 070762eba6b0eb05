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
        base, double, quadruple = width, 2 * width, 4 * width
        with torch.random.fork_rng(devices=[]):  # the constructors of layers draw from the global RNG
            self.down1 = _level(3, base, stride=2)
            self.down2 = _level(base, double)
            self.down3 = _level(double, quadruple)
            self.bottom = _level(quadruple, quadruple)
            self.up3 = _level(quadruple + quadruple, quadruple)
            self.up2 = _level(quadruple + double, double)
            self.up1 = _level(double + base, base)
            self.head = nn.Conv2d(base, classes, 1)
        generator = generator or torch.Generator().manual_seed(0)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # training starts at the uniform prediction

    def forward(self, x: Tensor) -> Tensor:  # N 3 H W -> N K H W
        level1 = self.down1(x)
        level2 = self.down2(functional.max_pool2d(level1, 2))
        level3 = self.down3(functional.max_pool2d(level2, 2))
        bottom = self.bottom(functional.max_pool2d(level3, 2))
        level3 = self.up3(_joined(bottom, level3))
        level2 = self.up2(_joined(level3, level2))
        level1 = self.up1(_joined(level2, level1))
        return functional.interpolate(self.head(level1), size=x.shape[-2:], mode="bilinear", align_corners=False)


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
