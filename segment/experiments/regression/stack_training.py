"""R regression networks trained at once: one stack of batched matrix products under one Adam.

Every network has its own training set, L2 strength and dropout rate; they share the architecture, the batch size and
the clock, and the copies of one start share mini-batches and dropout noise. The gradient is
written out: autograd's form of the same takes about twice as long, in new memory for every result.
Must not know what a network's numbers mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from segment.experiments.regression.stack import Layers, Stack, TrainingData, batches_of, error_of_mean, rstd

PART = 2**18
"""Numbers of one layer that a step holds at a time: some such tables fit a core's cache."""
LEARNING_RATE = 1e-3
"""Adam's."""


@dataclass(frozen=True, kw_only=True)
class StackFit:
    """How one stack is trained: which set each network sees, and each one's own strengths.

    sets: (R,) into the data's S; batch: rows a step, at most N; l2: (R,), the loss adds l2/2 of the squared weights
    keep: (R,) chance that dropout keeps a unit, None without dropout; loss_scale: 1/2 for half the squared error
    leftovers: the last, smaller mini-batch of an epoch is used too (the authors drop it)
    """

    data: TrainingData
    sets: Tensor
    batch: int
    l2: Tensor
    keep: Tensor | None = None
    loss_scale: float = 0.5
    leftovers: bool = False


class Training:
    """A stack under Adam: run some epochs, compute the held-out error, drop networks, continue."""

    def __init__(self, stack: Stack, fit: StackFit, generator: torch.Generator) -> None:
        self.stack, self.data, self.generator = stack, fit.data, generator
        self.sets, self.l2 = fit.sets, fit.l2[:, None]
        self.keep, self.scale = fit.keep, fit.loss_scale
        self.batch = min(fit.batch, fit.data.rows)
        whole = fit.data.rows // self.batch * self.batch
        self.epoch_rows = fit.data.rows if fit.leftovers else whole
        self._begin()

    def _begin(self) -> None:
        """Optimiser, gradient and buffers for the networks that are in the stack now."""
        table = self.stack.table.requires_grad_()
        table.grad = torch.zeros_like(table)
        self.optimizer = torch.optim.Adam([table], lr=LEARNING_RATE, fused=True)
        self.passes: dict[int, list[Pass]] = {}
        if self.keep is not None:
            self.rates, rate_of = torch.unique(self.keep, return_inverse=True)
            self.mask_of = torch.arange(len(table)) // self.stack.copies * len(self.rates) + rate_of

    def run(self, epochs: int) -> None:
        """Train every network of the stack for that many epochs, copies of a start in the same order of its rows."""
        table, targets = self.data.x.flatten(0, 1), self.data.y.flatten()
        copies = self.stack.copies
        streams = self.sets[::copies]  # S'
        for _ in range(epochs):
            order = torch.rand(len(streams), self.data.rows, generator=self.generator).argsort(dim=1)
            order += streams[:, None] * self.data.rows
            for start in range(0, self.epoch_rows, self.batch):
                rows = order[:, start : min(start + self.batch, self.epoch_rows)]  # S' B
                x, y = table[rows].transpose(1, 2), targets[rows]
                self.step(x.repeat_interleave(copies, dim=0), y.repeat_interleave(copies, dim=0))

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> None:  # R D B, R B
        """One step of Adam on one mini-batch for each network."""
        masks = self.masks(x.shape[2])
        for piece in self._passes(x.shape[2]):
            mine = [mask.index_select(0, self.mask_of[piece.networks]) for mask in masks]
            output = piece.forward(x[piece.networks], mine)
            piece.backward((output - y[piece.networks]) * (2 * self.scale / y.shape[1]), mine)
        table, gradient = self.stack.table, self.stack.table.grad
        assert gradient is not None
        weights = self.stack.architecture.weights
        gradient[:, :weights].addcmul_(self.l2, table[:, :weights])
        self.optimizer.step()

    def _passes(self, rows: int) -> list[Pass]:
        if rows not in self.passes:
            most = max(1, PART // (rows * max(self.stack.architecture.hidden)))
            assert self.stack.table.grad is not None
            given, wanted = self.stack.layers, Layers.of(self.stack.architecture, self.stack.table.grad)
            self.passes[rows] = [
                Pass(slice(at, at + most), given, wanted, rows) for at in range(0, self.stack.size, most)
            ]
        return self.passes[rows]

    def masks(self, rows: int) -> list[Tensor]:
        """For each matrix what its inputs are multiplied by, 0 or 1 / keep; none without dropout.

        (U, width, B), one for each start and rate: network r has number `mask_of[r]`.
        """
        if self.keep is None:
            return []
        streams, masks = self.stack.size // self.stack.copies, []
        for inner, _ in self.stack.architecture.matrices:
            noise = torch.rand(streams, 1, inner, rows, generator=self.generator)
            every = (noise < self.rates[:, None, None]) / self.rates[:, None, None]  # S' rates width B
            masks.append(every.flatten(0, 1))
        return masks

    @torch.no_grad()
    def held_out_rmse(self, draws: int, of: int | None = None) -> Tensor:  # R
        """Error of the mean over that many draws on each network's held-out rows, in standardised units.

        of: an estimate, without bias, of the error of the mean over that many draws; see `error_of_mean`
        """
        drawn = self._held_out(draws)
        return torch.stack(
            [
                error_of_mean(outputs, self.data.y_held[which], of)
                for which, outputs in zip(self.sets.tolist(), drawn, strict=True)
            ]
        )

    def _held_out(self, draws: int) -> Iterator[Tensor]:  # R of T V
        """Each network's draws for its held-out rows, from the same mini-batches or the same noise for all."""
        x, held, sets = self.data.x, self.data.x_held, enumerate(self.sets.tolist())
        if self.keep is None:
            chosen = batches_of(self.data.rows, self.batch, draws, self.generator)  # T M
            return (self.stack.drawn(number, x[which][chosen], held[which]) for number, which in sets)
        keep, noise = self.keep.tolist(), self.stack.noise(draws * held.shape[1], self.generator)
        return (self.stack.dropped(number, held[which], keep[number], noise) for number, which in sets)

    def select(self, chosen: Tensor) -> None:
        """Go on with these copies of every start alone; Adam's moments go with them."""
        state = self.optimizer.state[self.stack.table]
        networks = self.stack.keep(chosen)
        self.sets, self.l2 = self.sets[networks], self.l2[networks]
        self.keep = None if self.keep is None else self.keep[networks]
        self._begin()
        if state:
            moments = {name: state[name][networks] for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[self.stack.table] = {"step": state["step"].clone(), **moments}


class Pass:
    """One pass in training mode and its gradient for some networks of a stack, in memory that every step writes anew.

    Signals lie as (R, width, B), so that BN over a mini-batch is one normalisation of the last axis.
    """

    def __init__(self, networks: slice, layers: Layers, gradient: Layers, rows: int) -> None:
        self.networks = networks
        self.layers, self.gradient = (
            Layers(*([part[networks] for part in kind] for kind in every)) for every in (layers, gradient)
        )
        hidden = [(*weight.shape[:2], rows) for weight in self.layers.weights[:-1]]
        self.outputs, self.errors = ([torch.empty(shape) for shape in hidden] for _ in range(2))
        self.centred = [torch.empty(shape) for shape in hidden] if self.layers.gammas else []
        self.entered: list[Tensor] = []  # what was multiplied by each matrix
        self.rstd: list[Tensor] = []

    def forward(self, x: Tensor, masks: list[Tensor]) -> Tensor:  # R D B -> R B
        """Outputs; masks: what the inputs of each matrix are multiplied by, none for BN."""
        weights, biases = self.layers.weights, self.layers.biases
        self.entered, self.rstd = [x * masks[0] if masks else x], []
        for layer, output in enumerate(self.outputs):
            if self.centred:
                centred = torch.bmm(weights[layer], self.entered[-1], out=self.centred[layer])
                centred -= centred.mean(dim=2, keepdim=True)
                self.rstd.append(rstd(centred))
                torch.mul(centred, self.layers.gammas[layer] * self.rstd[-1], out=output).add_(self.layers.betas[layer])
            else:
                torch.bmm(weights[layer], self.entered[-1], out=output).add_(biases[layer])
            output.relu_()
            if masks:
                output *= masks[layer + 1]
            self.entered.append(output)
        return torch.baddbmm(biases[-1], weights[-1], self.entered[-1])[:, 0]

    def backward(self, slope: Tensor, masks: list[Tensor]) -> None:  # R B
        """The gradient of the loss whose derivative by the outputs is `slope`."""
        weights, gradient, row = self.layers.weights, self.gradient, slope[:, None]
        gradient.biases[-1].copy_(row.sum(dim=2, keepdim=True))
        gradient.weights[-1].copy_(torch.bmm(row, self.entered[-1].transpose(1, 2)))
        torch.mul(weights[-1].transpose(1, 2), row, out=self.errors[-1])
        for layer in reversed(range(len(self.outputs))):
            error, output = self.errors[layer], self.outputs[layer]
            if masks:
                error *= masks[layer + 1]
            error *= output.sign_()  # of a ReLU; the output is not needed from here on
            total = error.sum(dim=2, keepdim=True)
            if self.centred:
                self._through_normalisation(layer, total)
            else:
                gradient.biases[layer].copy_(total)
            gradient.weights[layer].copy_(torch.bmm(error, self.entered[layer].transpose(1, 2)))
            if layer:
                torch.bmm(weights[layer].transpose(1, 2), error, out=self.errors[layer - 1])

    def _through_normalisation(self, layer: int, total: Tensor) -> None:
        """Turn an error behind BN's scale and shift into one before the normalisation, in place."""
        error, centred, scale = self.errors[layer], self.centred[layer], self.rstd[layer]
        self.gradient.betas[layer].copy_(total)
        along = torch.mul(error, centred, out=self.outputs[layer]).sum(dim=2, keepdim=True) * scale
        self.gradient.gammas[layer].copy_(along)
        steep, rows = self.layers.gammas[layer] * scale, error.shape[2]
        error.mul_(steep).addcmul_(centred, steep * scale * along / -rows).sub_(steep * total / rows)
