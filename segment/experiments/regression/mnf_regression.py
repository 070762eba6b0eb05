"""Regression networks of MNF layers, R of them trained at once, by the variational bound.

Must not know what is measured on the predictions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segment.experiments.regression.mnf import DenseMNF
from segment.experiments.regression.stack import TrainingData, error_of_mean, of_every

AT_ONCE = 2**20
"""Numbers of one layer that draws for held-out rows make in one go."""
GROUPS = 4  # draws of z in one training step, each for a quarter of the mini-batch


class RegressionMNF(nn.Module):
    """Dense layers with ReLU between them, one output; as many networks at once as the stack has."""

    def __init__(self, widths: tuple[int, ...], *, generator: torch.Generator, stack: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.widest = max(widths)
        self.layers = nn.ModuleList(
            DenseMNF(inner, out, generator=generator, stack=stack) for inner, out in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Outputs (..., G, B) of rows (..., G, B, D) under G draws, and the divergence bound (stack)."""
        signal, divergence = x, torch.zeros(())
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, DenseMNF)
            drawn = layer.multipliers(x.shape[-3], generator)
            signal = layer(signal if number == 0 else signal.relu(), drawn, generator)
            divergence = divergence + layer.divergence(drawn, generator)
        return signal[..., 0], divergence


@dataclass(frozen=True, kw_only=True)
class VariationalFit:
    """How a stack of MNF networks is trained.

    sets: (R,) into the data's S; precision: (R,), of the Gaussian likelihood, in standardised units
    batch: rows a step, at most N, rounded down to a multiple of the groups
    """

    data: TrainingData
    sets: Tensor
    precision: Tensor
    batch: int = 100
    learning_rate: float = 1e-3


class VariationalTraining:
    """A stack of MNF networks under Adam, with what `search.race` asks for."""

    def __init__(self, network: RegressionMNF, fit: VariationalFit, generator: torch.Generator) -> None:
        self.network, self.data, self.generator = network, fit.data, generator
        self.sets, self.precision, self.rate = fit.sets, fit.precision, fit.learning_rate
        self.batch = max(min(fit.batch, fit.data.rows) // GROUPS, 1) * GROUPS
        self.optimizer = torch.optim.Adam(network.parameters(), lr=self.rate, fused=True)

    def run(self, epochs: int) -> None:
        """Train every network for that many epochs; an incomplete last mini-batch is dropped."""
        rows, table, targets = self.data.rows, self.data.x.flatten(0, 1), self.data.y.flatten()
        offset = self.sets[:, None] * rows
        for _ in range(epochs):
            order = torch.rand(len(self.sets), rows, generator=self.generator).argsort(dim=1) + offset
            for start in range(0, rows - self.batch + 1, self.batch):
                batch = order[:, start : start + self.batch].view(len(self.sets), GROUPS, -1)
                self._step(table[batch], targets[batch])

    def _step(self, x: Tensor, y: Tensor) -> None:  # R G B D, R G B
        outputs, divergence = self.network(x, self.generator)
        error = 0.5 * self.precision * (outputs - y).square().mean(dim=(1, 2))
        loss = (error + divergence / self.data.rows).sum()  # the bound, a row; up to a constant
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def held_out_rmse(self, draws: int, of: int | None = None) -> Tensor:  # R
        """Error of the mean over the draws on each network's held-out rows, in standardised units; `error_of_mean`."""
        x, y = self.data.x_held[self.sets], self.data.y_held[self.sets]
        return error_of_mean(predictions(self.network, x, draws, self.generator), y, of)

    def select(self, chosen: Tensor) -> None:
        """Go on with these candidates of every set alone; Adam's moments go with them."""
        each = int((self.sets == self.sets[0]).sum())
        chosen = of_every(chosen, each, len(self.sets))
        self.sets, self.precision = self.sets[chosen], self.precision[chosen]
        moved: dict[Tensor, dict[str, Tensor]] = {}
        for parameter in self.network.parameters():
            state = self.optimizer.state[parameter]
            parameter.data = parameter.data[chosen].clone()
            parameter.grad = None
            if state:
                moments = {name: state[name][chosen].clone() for name in ("exp_avg", "exp_avg_sq")}
                moved[parameter] = {"step": state["step"].clone(), **moments}
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.rate, fused=True)
        self.optimizer.state.update(moved)


@torch.no_grad()
def predictions(network: RegressionMNF, x: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """T passes (R, T, V) of rows (R, V, D), each with a z of its own."""
    most = max(1, AT_ONCE // (len(x) * x.shape[1] * network.widest))
    parts = [
        network(x[:, None].expand(-1, min(most, draws - at), -1, -1), generator)[0] for at in range(0, draws, most)
    ]
    return torch.cat(parts, dim=1)
