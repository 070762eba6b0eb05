"""ENet with a PReLU after every convolution, in the encoder and in the decoder.

Source: Paszke et al. 2016, "ENet: A Deep Neural Network Architecture for Real-Time Semantic Segmentation",
arXiv:1606.02147; the published CamVid weights differ from the paper in one place, named below.
Must not know where its weights come from, nor what its classes mean.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

Pair = int | tuple[int, int]


def conv_norm_prelu(
    inputs: int, outputs: int, kernel: Pair, *, stride: int = 1, padding: Pair = 0, dilation: int = 1
) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.PReLU())


class Initial(nn.Module):
    """3 -> 16 channels at half the size: a convolution beside a pooled copy of the image."""

    def __init__(self, inputs: int = 3, outputs: int = 16) -> None:
        super().__init__()
        self.main_branch = nn.Conv2d(inputs, outputs - inputs, 3, stride=2, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(outputs)
        self.out_prelu = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:  # N 3 H W -> N 16 H/2 W/2
        pooled = functional.max_pool2d(x, 3, stride=2, padding=1)
        return self.out_prelu(self.batch_norm(torch.cat([self.main_branch(x), pooled], dim=1)))


class Bottleneck(nn.Module):
    """The branch all bottlenecks share: narrow, convolve, widen, drop whole channels; and the PReLU after the sum.

    `ext_conv3` ends in a PReLU, before the sum, which the paper does not have: the published weights need it.
    """

    def __init__(self, inputs: int, outputs: int, narrow: nn.Module, convolve: nn.Module, dropout: float) -> None:
        super().__init__()
        self.ext_conv1 = narrow
        self.ext_conv2 = convolve
        self.ext_conv3 = conv_norm_prelu(inputs // 4, outputs, 1)
        self.ext_regul = nn.Dropout2d(dropout)
        self.out_prelu = nn.PReLU(outputs)

    def branch(self, x: Tensor) -> Tensor:
        return self.ext_regul(self.ext_conv3(self.ext_conv2(self.ext_conv1(x))))

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N C H W
        return self.out_prelu(x + self.branch(x))


def regular(channels: int, dropout: float) -> Bottleneck:
    return dilated(channels, dropout, 1)


def dilated(channels: int, dropout: float, dilation: int) -> Bottleneck:
    inner = channels // 4
    convolve = conv_norm_prelu(inner, inner, 3, padding=dilation, dilation=dilation)
    return Bottleneck(channels, channels, conv_norm_prelu(channels, inner, 1), convolve, dropout)


def asymmetric(channels: int, dropout: float) -> Bottleneck:
    inner = channels // 4
    tall = conv_norm_prelu(inner, inner, (5, 1), padding=(2, 0))
    wide = conv_norm_prelu(inner, inner, (1, 5), padding=(0, 2))
    return Bottleneck(channels, channels, conv_norm_prelu(channels, inner, 1), nn.Sequential(*tall, *wide), dropout)


class Downsampling(Bottleneck):
    """Half the size; the pool's indices go to the matching upsampling block."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        inner = inputs // 4
        narrow = conv_norm_prelu(inputs, inner, 2, stride=2)
        super().__init__(inputs, outputs, narrow, conv_norm_prelu(inner, inner, 3, padding=1), dropout)
        self.added = outputs - inputs

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:  # N C H W -> N C' H/2 W/2, N C H/2 W/2
        main, indices = functional.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
        zeros = main.new_zeros((main.shape[0], self.added, *main.shape[2:]))
        return self.out_prelu(torch.cat([main, zeros], dim=1) + self.branch(x)), indices


class Upsampling(Bottleneck):
    """Twice the size, by unpooling with the indices of the matching downsampling block."""

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        inner = inputs // 4
        double = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1, bias=False)
        convolve = nn.Sequential(double, nn.BatchNorm2d(inner), nn.PReLU())
        super().__init__(inputs, outputs, conv_norm_prelu(inputs, inner, 1), convolve, dropout)
        self.main_conv1 = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def unpooled(self, x: Tensor, indices: Tensor) -> Tensor:  # N C H W, N C' H W -> N C' 2H 2W
        main = self.main_conv1(x)
        if main.device.type == "cpu" and not torch.onnx.is_in_onnx_export():
            # channels-last: threads share the pixels of a channel, and which writes last is not defined
            main = functional.max_unpool2d(main.contiguous(), indices.contiguous(), kernel_size=(2, 2), stride=(2, 2))
        else:
            main = unpooled_in_order(main, indices)
        return self.out_prelu(main + self.branch(x))


def unpooled_in_order(x: Tensor, indices: Tensor) -> Tensor:  # N C H W, N C H W -> N C 2H 2W
    """`max_unpool2d` as a CPU does it, bit for bit, on any device.

    The 3x3 pools overlap, so up to four values can be written to one pixel. A CPU writes in raster order and the last
    one stays; a GPU's order is not defined, and logits would differ from run to run.
    """
    n, c, h, w = x.shape
    around = functional.pad(indices, (1, 1, 0, 1), value=-1)
    later = [around[..., dy : dy + h, 1 + dx : 1 + dx + w] == indices for dy, dx in ((0, 1), (1, -1), (1, 0), (1, 1))]
    last = x.masked_fill(later[0] | later[1] | later[2] | later[3], 0)
    empty = x.new_zeros((n, c, 4 * h * w))
    return torch.scatter_add(empty, 2, indices.flatten(2), last.flatten(2)).reshape(n, c, 2 * h, 2 * w)


class ENet(nn.Module):
    """N 3 H W in 0..1, H and W multiples of 8 -> N K H W logits.

    classes: K, the void output included where the weights have one (12 for CamVid)
    """

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.initial_block = Initial()
        self.downsample1_0 = Downsampling(16, 64, 0.01)
        for index in range(1, 5):
            self.add_module(f"regular1_{index}", regular(64, 0.01))
        self.downsample2_0 = Downsampling(64, 128, 0.1)
        for stage, first in ((2, 1), (3, 0)):
            deep = (
                ("regular", regular(128, 0.1)),
                ("dilated", dilated(128, 0.1, 2)),
                ("asymmetric", asymmetric(128, 0.1)),
                ("dilated", dilated(128, 0.1, 4)),
                ("regular", regular(128, 0.1)),
                ("dilated", dilated(128, 0.1, 8)),
                ("asymmetric", asymmetric(128, 0.1)),
                ("dilated", dilated(128, 0.1, 16)),
            )
            for index, (kind, block) in enumerate(deep, start=first):
                self.add_module(f"{kind}{stage}_{index}", block)
        self.upsample4_0 = Upsampling(128, 64, 0.1)
        self.regular4_1 = regular(64, 0.1)
        self.regular4_2 = regular(64, 0.1)
        self.upsample5_0 = Upsampling(64, 16, 0.1)
        self.regular5_1 = regular(16, 0.1)
        self.transposed_conv = nn.ConvTranspose2d(16, classes, 3, stride=2, padding=1, output_padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # N 3 H W -> N K H W
        indices: list[Tensor] = []
        for block in self.children():  # registered in the order in which data passes them
            if isinstance(block, Downsampling):
                x, kept = block.pooled(x)
                indices.append(kept)
            elif isinstance(block, Upsampling):
                x = block.unpooled(x, indices.pop())
            else:
                x = block(x)
        return x
