"""Small regression networks, R of them trained at once as one stack of batched matrix products.

Every network of a stack has its own weights, training set, mini-batches, L2 strength and dropout rate; they share only
the architecture, the batch size and the clock. A trained one leaves the stack as a plain `nn.Sequential`.
Must not know what is measured on the predictions.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

EPS = 1e-10  # BN's, from the authors' code: small enough that a dead unit's variance of 0 alone feels it
INIT_STD = 0.1
AT_ONCE = 2**26
"""Numbers of one layer that draws for held-out rows make in one go, 256 MiB."""


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
    def widths(self) -> tuple[int, ...]:
        return (self.features, *self.hidden, 1)


@dataclass(frozen=True, kw_only=True)
class Problem:
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


def standardised(x: Tensor, y: Tensor, train: Tensor, held: Tensor) -> Problem:
    """S problems out of one table by row numbers: x (n, D), y (n), train (S, N), held (S, V); float64 in, float32 out.

    A feature (or target) that is constant on the training rows keeps a scale of 1.
    """
    rows, targets = x[train], y[train]  # S N D, S N
    mean, scale = rows.mean(dim=1, keepdim=True), rows.std(dim=1, correction=0, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    y_mean, y_scale = targets.mean(dim=1, keepdim=True), targets.std(dim=1, correction=0, keepdim=True)
    y_scale = torch.where(y_scale > 0, y_scale, 1.0)
    return Problem(
        x=((rows - mean) / scale).float(),
        y=((targets - y_mean) / y_scale).float(),
        x_held=((x[held] - mean) / scale).float(),
        y_held=((y[held] - y_mean) / y_scale).float(),
        y_mean=y_mean[:, 0],
        y_scale=y_scale[:, 0],
    )


class Stack:
    """R networks of one architecture: their stacked parameters and what a pass of all of them is.

    Activations lie as (R, width, B), so that BN over a mini-batch is one normalisation of the last axis.
    """

    def __init__(self, architecture: Architecture, size: int, generator: torch.Generator) -> None:
        self.architecture = architecture
        widths = architecture.widths
        self.weights = [
            _weights(architecture.init, (size, out, inner), generator)  # R out in
            for inner, out in itertools.pairwise(widths)
        ]
        biased = range(len(self.weights) - 1, len(self.weights)) if architecture.batchnorm else range(len(self.weights))
        self.biases = [
            _biases(architecture.init, (size, widths[layer + 1], 1), generator, positive=layer < len(self.weights) - 1)
            for layer in biased
        ]
        hidden = architecture.hidden if architecture.batchnorm else ()
        self.gammas = [torch.ones(size, width, 1) for width in hidden]
        self.betas = [torch.zeros(size, width, 1) for width in hidden]

    @property
    def size(self) -> int:
        return self.weights[0].shape[0]

    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases, *self.gammas, *self.betas]

    def forward(self, x: Tensor, keep: Tensor | None, generator: torch.Generator) -> Tensor:  # R B D -> R B
        """Outputs in training mode: BN by the mini-batch itself, dropout on (`keep`: R 1 1, chance to stay)."""
        signal = x.transpose(1, 2)  # R D B
        for layer, weight in enumerate(self.weights):
            if keep is not None:
                signal = signal * _mask(signal, keep, generator)
            if self.architecture.batchnorm and layer < len(self.gammas):
                signal = functional.layer_norm(weight @ signal, signal.shape[-1:], eps=EPS)  # over B: BN in train mode
                signal = torch.addcmul(self.betas[layer], self.gammas[layer], signal)
            else:
                signal = torch.baddbmm(self.biases[layer - len(self.gammas)], weight, signal)
            if layer < len(self.weights) - 1:
                signal = signal.relu()
        return signal[:, 0]

    @torch.no_grad()
    def mean_over_draws(self, batches: Tensor, x: Tensor) -> Tensor:  # R T M D, R V D -> R V
        """Mean of T passes of x, every BN layer of a pass normalised by the same mini-batch, layer after layer."""
        size, draws = batches.shape[:2]
        signal = batches.flatten(1, 2).transpose(1, 2)  # R D T*M
        held = x.transpose(1, 2).unsqueeze(2)  # R D 1 V, until the first BN layer tells the draws apart
        for layer, weight in enumerate(self.weights[:-1]):
            signal = (weight @ signal).view(size, -1, draws, batches.shape[2])  # R K T M
            held = (weight @ held.flatten(2)).view(size, weight.shape[1], -1, x.shape[1])  # R K T V
            variance, mean = torch.var_mean(signal, dim=3, correction=0, keepdim=True)
            scale = self.gammas[layer][..., None] * torch.rsqrt(variance + EPS)
            shift = self.betas[layer][..., None] - mean * scale
            signal = (signal * scale + shift).relu_().flatten(2)
            held = (held * scale + shift).relu_()
        held = torch.baddbmm(self.biases[0], self.weights[-1], held.flatten(2))  # R 1 T*V
        return held.reshape(size, draws, -1).mean(dim=1)

    def select(self, chosen: Tensor) -> None:
        """Keep the networks of these numbers, in this order."""
        for group in (self.weights, self.biases, self.gammas, self.betas):
            group[:] = [tensor.detach()[chosen].clone() for tensor in group]

    def only(self, number: int) -> Stack:
        """A stack of that one network, its parameters copied."""
        alone = copy.copy(self)
        for group in ("weights", "biases", "gammas", "betas"):
            setattr(alone, group, list(getattr(self, group)))
        alone.select(torch.tensor([number]))
        return alone

    @torch.no_grad()
    def network(self, number: int, *, dropout: float = 0.0, statistics: Tensor | None = None) -> nn.Sequential:
        """One of them as a plain module in eval mode, from (B, D) to (B, 1).

        statistics: (N, D), for BN: the rows whose mean and biased variance become the trained statistics, as the
        authors' BN baseline does (a moving average would be a noisy estimate of the same)
        """
        layers: list[nn.Module] = []
        for layer, weight in enumerate(self.weights):
            out, inner = weight.shape[1:]
            last, batchnorm = layer == len(self.weights) - 1, self.architecture.batchnorm
            if not batchnorm:
                layers.append(nn.Dropout(dropout))
            linear = nn.Linear(inner, out, bias=last or not batchnorm, device="meta").to_empty(device="cpu")  # no RNG
            linear.weight.copy_(weight[number])
            if linear.bias is not None:
                linear.bias.copy_(self.biases[layer - len(self.gammas)][number, :, 0])
            layers.append(linear)
            if batchnorm and not last:
                normalise = nn.BatchNorm1d(out, eps=EPS, momentum=1.0)  # 1: the buffers hold one batch's statistics
                normalise.weight.copy_(self.gammas[layer][number, :, 0])
                normalise.bias.copy_(self.betas[layer][number, :, 0])
                layers.append(normalise)
            if not last:
                layers.append(nn.ReLU())
        network = nn.Sequential(*layers)
        if statistics is not None:
            _fill_statistics(network, statistics)
        return network.eval()


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How one stack is trained: which set each network sees, and each one's own strengths.

    sets: (R,) into the problem's S; batch: rows a step, at most N; l2: (R,), the loss adds l2/2 of the squared weights
    keep: (R,) chance that dropout keeps a unit, None without dropout; loss_scale: 1/2 for half the squared error
    leftovers: the last, smaller mini-batch of an epoch is used too (the authors drop it)
    """

    problem: Problem
    sets: Tensor
    batch: int
    l2: Tensor
    keep: Tensor | None = None
    learning_rate: float = 1e-3
    loss_scale: float = 0.5
    leftovers: bool = False


class Training:
    """A stack under Adam: run some epochs, look at the held-out error, drop networks, go on."""

    def __init__(self, stack: Stack, fit: Fit, generator: torch.Generator) -> None:
        self.stack, self.problem, self.generator = stack, fit.problem, generator
        self.sets, self.l2 = fit.sets, fit.l2[:, None, None]
        self.keep = None if fit.keep is None else fit.keep[:, None, None]
        self.batch, self.scale, self.rate = min(fit.batch, fit.problem.rows), fit.loss_scale, fit.learning_rate
        whole = fit.problem.rows // self.batch * self.batch
        self.epoch_rows = fit.problem.rows if fit.leftovers else whole
        self.optimizer = self._optimizer()

    def _optimizer(self) -> torch.optim.Adam:
        parameters = [parameter.requires_grad_() for parameter in self.stack.parameters()]
        return torch.optim.Adam(parameters, lr=self.rate, fused=True)

    def run(self, epochs: int) -> None:
        """Train every network of the stack for that many epochs, each on its own order of its rows."""
        table, targets = self.problem.x.flatten(0, 1), self.problem.y.flatten()
        offset = self.sets[:, None] * self.problem.rows
        for _ in range(epochs):
            order = torch.rand(self.stack.size, self.problem.rows, generator=self.generator).argsort(dim=1) + offset
            for start in range(0, self.epoch_rows, self.batch):
                rows = order[:, start : min(start + self.batch, self.epoch_rows)]  # R B
                self._step(table[rows], targets[rows])

    def _step(self, x: Tensor, y: Tensor) -> None:  # R B D, R B
        residual = self.stack.forward(x, self.keep, self.generator) - y
        loss = residual.square().sum() * (
            self.scale / y.shape[1]
        )  # a sum over R: no network's gradient meets another's
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for weight in self.stack.weights:
                assert weight.grad is not None
                weight.grad.addcmul_(self.l2, weight)
        self.optimizer.step()

    @torch.no_grad()
    def held_out_rmse(self, draws: int) -> Tensor:  # R
        """Error of the mean over that many draws on each network's held-out rows, in standardised units."""
        x, y = self.problem.x_held[self.sets], self.problem.y_held[self.sets]  # R V D, R V
        total = torch.zeros_like(y)
        if self.stack.architecture.batchnorm:
            chosen = batches_of(self.problem.rows, self.batch, draws, self.generator)  # T M, the same for all
            draws = len(chosen)  # one where a batch holds every row
            for part in torch.split(chosen, self._at_once(x.shape[1] + self.batch)):
                total += len(part) * self.stack.mean_over_draws(self.problem.x[:, part][self.sets], x)
        else:
            most = self._at_once(x.shape[1])
            for start in range(0, draws, most):
                some = min(most, draws - start)
                passed = self.stack.forward(x.repeat(1, some, 1), self.keep, self.generator)
                total += passed.view(len(x), some, -1).sum(dim=1)
        return (total / draws - y).square().mean(dim=1).sqrt()

    def _at_once(self, rows: int) -> int:
        """Draws in one pass of that many rows for each network."""
        return max(1, AT_ONCE // (self.stack.size * rows * max(self.stack.architecture.widths)))

    def select(self, chosen: Tensor) -> None:
        """Keep training only these networks; Adam's moments go with them."""
        held = [self.optimizer.state[parameter] for parameter in self.stack.parameters()]
        self.stack.select(chosen)
        self.sets, self.l2 = self.sets[chosen], self.l2[chosen]
        self.keep = None if self.keep is None else self.keep[chosen]
        self.optimizer = self._optimizer()
        for parameter, state in zip(self.stack.parameters(), held, strict=True):
            if state:
                moments = {name: state[name][chosen].clone() for name in ("exp_avg", "exp_avg_sq")}
                self.optimizer.state[parameter] = {"step": state["step"].clone(), **moments}


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


def _mask(signal: Tensor, keep: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(signal.shape, generator=generator).lt(keep).float().div_(keep)


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
