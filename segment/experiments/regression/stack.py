"""Small regression networks: training sets for them, a stack of R of them, and their draws.

A trained network leaves the stack as a plain `nn.Sequential`.
Must not know how a stack is trained, nor what is measured on the predictions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

EPS = 1e-10  # BN's, from the authors' code: so small that it matters only where a dead unit's variance is 0
INIT_STD = 0.1


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Hidden ReLU layers, either BN before each activation or dropout before each matrix; nothing after the last.

    features: D, inputs; hidden: widths; batchnorm: BN, and then no biases before it; else dropout and biases
    init: "authors" (truncated normal of sd 0.1) or "glorot" (uniform, biases 0)
    """

    features: int
    hidden: tuple[int, ...] = (50, 50)
    batchnorm: bool = True
    init: str = "authors"

    @property
    def matrices(self) -> list[tuple[int, int]]:
        """Inputs and outputs of each."""
        return list(itertools.pairwise((self.features, *self.hidden, 1)))

    @property
    def biased(self) -> tuple[int, ...]:
        return (1,) if self.batchnorm else (*self.hidden, 1)

    @property
    def normalised(self) -> tuple[int, ...]:
        return self.hidden if self.batchnorm else ()

    @property
    def weights(self) -> int:
        """Numbers in all matrices."""
        return sum(inner * out for inner, out in self.matrices)

    @property
    def parameters(self) -> int:
        return self.weights + sum(self.biased) + 2 * sum(self.normalised)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """S training sets of one size and their held-out rows, each standardised on its own training rows.

    x: (S, N, D), y: (S, N), x_held: (S, V, D), y_held: (S, V); mean and scale of the targets: (S,), in original units
    """

    x: Tensor
    y: Tensor
    x_held: Tensor
    y_held: Tensor
    y_mean: Tensor
    y_scale: Tensor

    @property
    def rows(self) -> int:
        return self.x.shape[1]

    def first(self, sets: int | None) -> TrainingData:
        """The first of the training sets; None: all."""
        return TrainingData(**{each.name: getattr(self, each.name)[:sets] for each in fields(self)})


def standardised(x: Tensor, y: Tensor, train: Tensor, held: Tensor) -> TrainingData:
    """S training sets out of one table by row numbers: x (n, D), y (n), train (S, N), held (S, V).

    float64 in, float32 out. A feature (or target) that is constant on the training rows keeps a scale of 1.
    """
    rows, targets = x[train], y[train]  # S N D, S N
    (mean, scale), (y_mean, y_scale) = _mean_and_scale(rows), _mean_and_scale(targets)
    return TrainingData(
        x=((rows - mean) / scale).float(),
        y=((targets - y_mean) / y_scale).float(),
        x_held=((x[held] - mean) / scale).float(),
        y_held=((y[held] - y_mean) / y_scale).float(),
        y_mean=y_mean[:, 0],
        y_scale=y_scale[:, 0],
    )


def _mean_and_scale(values: Tensor) -> tuple[Tensor, Tensor]:  # S N ... -> S 1 ... each
    """Mean and biased standard deviation of the rows; where all are equal, that value and 1."""
    equal = (values == values[:, :1]).all(dim=1, keepdim=True)  # rounding leaves equal rows an sd above 0
    mean, scale = values.mean(dim=1, keepdim=True), values.std(dim=1, correction=0, keepdim=True)
    return torch.where(equal, values[:, :1], mean), torch.where(equal, 1.0, scale)


class Layers(NamedTuple):
    """Parameters of R networks by kind, each a view of one table: weights (R, out, in), all others (R, width, 1)."""

    weights: list[Tensor]
    biases: list[Tensor]
    gammas: list[Tensor]
    betas: list[Tensor]

    @classmethod
    def of(cls, architecture: Architecture, table: Tensor) -> Layers:  # R P
        """The kinds lie in the table in this order, the weights first."""
        sizes = [
            [out * inner for inner, out in architecture.matrices],
            *(list(widths) for widths in (architecture.biased, architecture.normalised, architecture.normalised)),
        ]
        parts = iter(torch.split(table, [size for group in sizes for size in group], dim=1))
        kinds = [[next(parts) for _ in group] for group in sizes]
        weights = [
            part.view(len(table), out, inner)
            for part, (inner, out) in zip(kinds[0], architecture.matrices, strict=True)
        ]
        return cls(weights, *([part[..., None] for part in kind] for kind in kinds[1:]))


class Stack:
    """R networks of one architecture: all their parameters in one table (R, P).

    size: different starts; copies: networks that start from each, side by side, so R = size * copies; in training they
    see the same mini-batches and dropout noise, so that they differ only by their strengths
    """

    def __init__(self, architecture: Architecture, size: int, generator: torch.Generator, *, copies: int = 1) -> None:
        self.architecture = architecture
        self.table = torch.empty(size, architecture.parameters)
        layers = self.layers
        for weight in layers.weights:
            weight.copy_(_weights(architecture.init, weight.shape, generator))
        for number, bias in enumerate(layers.biases):
            last = number == len(layers.biases) - 1
            bias.copy_(_biases(architecture.init, bias.shape, generator, positive=not last))
        for gamma, beta in zip(layers.gammas, layers.betas, strict=True):
            gamma.fill_(1.0)
            beta.fill_(0.0)
        self.table, self.copies = self.table.repeat_interleave(copies, dim=0), copies

    def keep(self, chosen: Tensor) -> Tensor:
        """Keep these copies of every start; the numbers that they had."""
        networks = of_every(chosen, self.copies, self.size)
        self.table, self.copies = self.table.detach()[networks], len(chosen)
        return networks

    @property
    def size(self) -> int:
        return len(self.table)

    @property
    def layers(self) -> Layers:
        """Views of the table as it is now."""
        return Layers.of(self.architecture, self.table.detach())

    def drawn(self, number: int, batches: Tensor, x: Tensor) -> Tensor:  # T M D, V D -> T V
        """T passes of one network over x, every BN layer of a pass normalised by the same mini-batch, in turn."""
        layers, draws = self.layers, len(batches)
        signal, held = batches.flatten(0, 1).T, x.T  # D T*M, D V: until the first BN layer all draws are alike
        for layer, weight in enumerate(layers.weights[:-1]):
            signal = (weight[number] @ signal).view(len(weight[number]), draws, -1)  # K T M
            held = (weight[number] @ held).view(len(weight[number]), -1, len(x))  # K T V
            mean = signal.mean(dim=2, keepdim=True)
            signal -= mean
            scale, beta = layers.gammas[layer][number, ..., None] * rstd(signal), layers.betas[layer][number, ..., None]
            signal = signal.mul_(scale).add_(beta).relu_().flatten(1)
            held = (held - mean).mul_(scale).add_(beta).relu_().flatten(1)
        return (layers.weights[-1][number] @ held + layers.biases[-1][number]).view(draws, -1)

    def dropped(self, number: int, x: Tensor, keep: float, noise: list[Tensor]) -> Tensor:  # V D -> T V
        """T passes of one network over x under dropout.

        noise: (width, T*V) for each matrix, uniform; a unit stays where it is below keep
        """
        layers = self.layers
        signal = x.T.repeat(1, noise[0].shape[1] // len(x))  # D T*V
        for layer, weight in enumerate(layers.weights):
            signal = (weight[number] / keep) @ signal.mul_(noise[layer] < keep) + layers.biases[layer][number]
            if layer < len(layers.weights) - 1:
                signal = signal.relu_()
        return signal.view(-1, len(x))

    def noise(self, rows: int, generator: torch.Generator) -> list[Tensor]:
        """What decides which units dropout keeps before each matrix."""
        return [torch.rand(inner, rows, generator=generator) for inner, _ in self.architecture.matrices]

    def network(self, number: int, *, dropout: float = 0.0, statistics: Tensor | None = None) -> nn.Sequential:
        """One network of the stack as a plain module in eval mode, from (B, D) to (B, 1).

        statistics: (N, D), for BN: the rows whose mean and biased variance become the trained statistics, as the
        authors' BN baseline does (a moving average would be a noisy estimate of the same)
        """
        with torch.no_grad():
            network = self._network(number, dropout)
            if statistics is not None:
                _fill_statistics(network, statistics)
        return network.eval()

    def _network(self, number: int, dropout: float) -> nn.Sequential:
        ours, layers = self.layers, list[nn.Module]()
        batchnorm = self.architecture.batchnorm
        for layer, weight in enumerate(ours.weights):
            out, inner = weight.shape[1:]
            last = layer == len(ours.weights) - 1
            if not batchnorm:
                layers.append(nn.Dropout(dropout))
            linear = nn.Linear(inner, out, bias=last or not batchnorm, device="meta").to_empty(device="cpu")  # no RNG
            linear.weight.copy_(weight[number])
            if linear.bias is not None:
                linear.bias.copy_(ours.biases[layer - len(ours.gammas)][number, :, 0])
            layers.append(linear)
            if batchnorm and not last:
                normalise = nn.BatchNorm1d(out, eps=EPS, momentum=1.0)  # 1: the buffers hold one batch's statistics
                normalise.weight.copy_(ours.gammas[layer][number, :, 0])
                normalise.bias.copy_(ours.betas[layer][number, :, 0])
                layers.append(normalise)
            if not last:
                layers.append(nn.ReLU())
        return nn.Sequential(*layers)


def of_every(chosen: Tensor, copies: int, networks: int) -> Tensor:
    """Numbers of these copies of every start, where a start's lie side by side.

    >>> of_every(torch.tensor([0, 2]), 3, 6).tolist()
    [0, 2, 3, 5]
    """
    return (torch.arange(0, networks, copies)[:, None] + chosen).flatten()


def batches_of(rows: int, batch: int, draws: int, generator: torch.Generator) -> Tensor:  # T M
    """T mini-batches of row numbers, each without replacement; one is all there is when a batch holds every row."""
    if batch >= rows:
        return torch.arange(rows)[None]
    return torch.rand(draws, rows, generator=generator).argsort(dim=1)[:, :batch]


def _fill_statistics(network: nn.Sequential, rows: Tensor) -> None:
    """Set each BN layer's buffers to the mean and biased variance of all rows at that layer."""
    signal = rows
    for module in network:
        if isinstance(module, nn.BatchNorm1d):
            variance, mean = torch.var_mean(signal, dim=0, correction=0)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.copy_(mean)
            module.running_var.copy_(variance)
        signal = module.eval()(signal)


def error_of_mean(drawn: Tensor, y: Tensor, of: int | None = None) -> Tensor:  # ... T V, ... V -> ...
    """RMSE of the mean over the draws; of: that of the mean over `of` draws, estimated from the T given.

    The squared error of a mean over T independent draws is on average that of the expectation plus variance / T.
    """
    draws = drawn.shape[-2]
    mean = drawn.mean(dim=-2)
    error = (mean - y).square().mean(dim=-1)
    if of is not None and draws > 1:
        variance = (drawn - mean[..., None, :]).square().sum(dim=-2).mean(dim=-1) / (draws - 1)
        error = (error - variance * (1 / draws - 1 / of)).maximum(variance / of)
    return error.sqrt()


def rstd(centred: Tensor) -> Tensor:
    """1 / sqrt(biased variance + eps) over the last axis; the norm is torch's only quick sum of squares."""
    return (torch.linalg.vector_norm(centred, dim=-1, keepdim=True).square() / centred.shape[-1] + EPS).rsqrt()


def _weights(init: str, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    tensor = torch.empty(*shape)
    if init == "glorot":
        bound = math.sqrt(6.0 / (shape[1] + shape[2]))
        return tensor.uniform_(-bound, bound, generator=generator)
    return nn.init.trunc_normal_(tensor, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD, generator=generator)


def _biases(init: str, shape: Sequence[int], generator: torch.Generator, *, positive: bool) -> Tensor:
    if init == "glorot":
        return torch.zeros(*shape)
    drawn = _weights(init, shape, generator)
    return drawn.abs_() if positive else drawn  # positive before a ReLU, so that no unit starts dead
