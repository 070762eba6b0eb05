"""Networks made at random from what networks are made of, tame and wild, all of it decided by a seed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Rng = np.random.Generator


class Activated(nn.BatchNorm2d):
    """BN with its activation inside, as timm's."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.leaky_relu(super().forward(x), 0.1)


class Functional(nn.Module):
    """BN by the function, with buffers of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean: Any = self.running_mean
        var: Any = self.running_var
        return functional.batch_norm(x, mean, var, weight=self.scale, eps=1e-3)


class Standardised(nn.Conv2d):
    """Weights normalised by batch norm, as timm's ScaledStdConv2d."""

    def forward(self, x: Tensor) -> Tensor:
        weight = functional.batch_norm(
            self.weight.reshape(1, len(self.weight), -1), None, None, training=True, momentum=0.0
        ).reshape_as(self.weight)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Dynamic(nn.Module):
    """A convolution whose weights are computed from each image, as in CondConv."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.ones(3, channels, channels, 3, 3))
        self.route = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        share = self.route(x.mean((2, 3))).sigmoid()
        weight = (share @ self.experts.flatten(1)).view(batch * channels, channels, 3, 3)
        return functional.conv2d(x.reshape(1, -1, height, width), weight, padding=1, groups=batch).view_as(x)


class OneWeight(nn.Module):
    """A convolution whose weights are scaled by the first image's mean, a batch of one assumed."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.conv.weight * (1 + x[0].mean()), self.conv.bias, padding=1)


class Attention(nn.Module):
    """Every pixel looks at every other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).chunk(3, dim=1)
        share = torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, dim=-1)
        return x + (v @ share.transpose(1, 2)).view_as(x)


class Excite(nn.Module):
    """Channels weighed by what the whole image holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(functional.adaptive_avg_pool2d(x, 1)).sigmoid()


class GridBySize(nn.Module):
    """A grid that is made again for each new size, and kept as a plain attribute."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None or self.grid.shape != x.shape[-1:]:
            self.grid = torch.linspace(-1, 1, x.shape[-1])
        return x + self.grid


class Plain(nn.Module):
    """A plain tensor, registered nowhere, that takes part."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.held = {"offset": [torch.full((1, channels, 1, 1), 0.3)]}

    def forward(self, x: Tensor) -> Tensor:
        return x * 1.5 - self.held["offset"][0]


class Function(nn.Module):
    """A function as a part."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _leak(x: Tensor) -> Tensor:
    return torch.relu(x) * 0.9 + 0.1 * x


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch deprecates TorchScript, and networks still have it inside
    _scripted = torch.jit.script(_leak)


def scripted(x: Tensor) -> Tensor:
    return _scripted(x)


def routed(x: Tensor) -> Tensor:
    return x * 2 if x.mean() < 0 else x.flip(-1) - 1


def by_size(x: Tensor) -> Tensor:
    return x.flip(1) if x.shape[-1] == 24 else x


def by_number(x: Tensor) -> Tensor:
    return x * (1 + abs(x.max().item()) / 10)


def by_numpy(x: Tensor) -> Tensor:
    return x + torch.from_numpy(np.tanh(x.detach().numpy()))


def masked(x: Tensor) -> Tensor:
    return x - x[x > 0.5].sum() / x.numel()


def fills(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, :-1]
    y += 0.5 * x
    return y


def in_place(x: Tensor) -> Tensor:
    return x.clone().mul_(0.5).add_(x).clamp_(min=-3)


def through_a_view(x: Tensor) -> Tensor:
    y = (x * 1.0).contiguous()
    y.view(-1)[::3] += 0.25
    return y


def named_results(x: Tensor) -> Tensor:
    low, high = torch.aminmax(x, dim=1, keepdim=True)
    best = x.max(dim=1, keepdim=True)
    return (x - low) / (high - low + 1) + best.values + 0.1 * x.topk(2, dim=1).values[:, 1:]


def by_place(x: Tensor) -> Tensor:
    values, places = x.sort(dim=1)
    return x + 0.1 * values.gather(1, places)


def over_the_batch(x: Tensor) -> Tensor:
    return x - x.mean(dim=0, keepdim=True) * 0.5


def counts_images(x: Tensor) -> Tensor:
    return x / x.shape[0]


def pixels_as_rows(x: Tensor) -> Tensor:
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    return functional.layer_norm(rows, rows.shape[1:]).view(*x.shape[:1], *x.shape[2:], -1).permute(0, 3, 1, 2)


def merges_channels_and_rows(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.contiguous().view(n, c * h, w).roll(1, -1).view(n, c, h, w)


def contiguous_only(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, c * h, w).flip(-1).view(n, c, h, w)


TAME: list[Callable[[int], nn.Module]] = [
    Excite,
    Attention,
    GridBySize,
    Plain,
    Dynamic,
    *[
        lambda _c, f=f: Function(f)
        for f in (fills, in_place, through_a_view, named_results, by_place, by_size, pixels_as_rows, torch.tanh)
    ],
]
WILD: list[Callable[[int], nn.Module]] = [
    OneWeight,
    *[
        lambda _c, f=f: Function(f)
        for f in (
            scripted,
            routed,
            by_number,
            by_numpy,
            masked,
            over_the_batch,
            counts_images,
            merges_channels_and_rows,
        )
    ],
]
ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    lambda: nn.ReLU(inplace=True),
    nn.SiLU,
    nn.Hardswish,
    nn.LeakyReLU,
    nn.ReLU6,
    nn.PReLU,
    nn.Sigmoid,
    lambda: nn.Hardtanh(-0.5, 2.0),
]
NORMS: list[Callable[[int], nn.Module]] = [
    nn.BatchNorm2d,
    nn.BatchNorm2d,
    Activated,
    Functional,
    lambda c: nn.BatchNorm2d(c, affine=False),
    lambda c: nn.BatchNorm2d(c, track_running_stats=False),
]


class Block(nn.Module):
    """Convolution, BN, activation, joined with what came before, in one of many ways."""

    def __init__(self, rng: Rng, channels: int) -> None:
        super().__init__()
        groups = int(rng.choice([1, 1, 2, channels]))
        kernel, dilation = int(rng.choice([1, 3, 3])), int(rng.choice([1, 1, 2]))
        padding = dilation * (kernel // 2)
        build = Standardised if groups == 1 and dilation == 1 and rng.random() < 0.15 else nn.Conv2d
        how: dict[str, Any] = {} if build is Standardised else {"groups": groups, "dilation": dilation}
        self.conv = build(channels, channels, kernel, padding=padding, bias=bool(rng.random() < 0.5), **how)
        self.norm = NORMS[rng.integers(len(NORMS))](channels)
        self.act = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]()
        self.order = int(rng.integers(3))
        self.join = int(rng.integers(4))
        self.mix = nn.Conv2d(2 * channels, channels, 1) if self.join == 2 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.order == 0:
            y = self.act(self.norm(self.conv(x)))
        elif self.order == 1:
            y = self.conv(self.act(self.norm(x)))
        else:
            kept = self.norm(self.conv(x))
            y = self.act(kept.clone()) + 0.1 * kept
        if self.join == 1:
            return y + x
        if self.mix is not None:
            return self.mix(torch.cat([y, x], dim=1))
        return y


class RandomNetwork(nn.Module):
    """Stem, random parts at full and at half or a third of the size, a head of 3 classes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        channels = int(rng.choice([4, 6, 8]))
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.stride = int(rng.choice([1, 2, 2, 3]))
        parts: list[nn.Module] = []
        for _ in range(int(rng.integers(1, 5))):
            parts.append(Block(rng, channels))
            if rng.random() < 0.5:
                pick = WILD if rng.random() < 0.35 else TAME
                parts.append(pick[rng.integers(len(pick))](channels))
        if rng.random() < 0.3:
            parts.insert(0, TAME[rng.integers(len(TAME))](channels))
        if rng.random() < 0.15:
            parts.insert(0, WILD[rng.integers(len(WILD))](channels))
        if rng.random() < 0.08:
            parts.insert(0, Function(contiguous_only))
        self.parts = nn.ModuleList(parts)
        self.pool = [None, "max", "avg", "conv"][rng.integers(4)]
        self.down = nn.Conv2d(channels, channels, 3, padding=1, stride=self.stride)
        self.up = ["nearest", "bilinear"][rng.integers(2)]
        self.last = Block(rng, channels)
        self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        x = skip = self.stem(x)
        if self.pool == "max":
            x = functional.max_pool2d(x, self.stride)
        elif self.pool == "avg":
            x = functional.avg_pool2d(x, self.stride)
        elif self.pool == "conv":
            x = self.down(x)
        for part in self.parts:
            x = part(x)
        if self.pool is not None:
            x = functional.interpolate(x, size=size, mode=self.up)
            x = x + skip
        return self.head(self.last(x))
