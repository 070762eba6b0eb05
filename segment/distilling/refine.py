"""Weighted draws optimised through the network by gradient, so that their moments are nearest to those of a bank.

Held-out views decide which step is kept. Must not know how the draws were chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from segment.axes import Head
from segment.batch_norm.call import BatchNormCall
from segment.batch_norm.layers import BatchNormNetwork, Layer
from segment.distilling.choose import Chosen
from segment.draws.bank import Bank
from segment.draws.recording import BatchNormMode, layers_in_order
from segment.errors import WrongUse
from segment.networks.modules import parameters
from segment.tracing.trace import state_keeper
from segment.uncertainty.heads import probabilities

Progress = Callable[[str, int, int], None]
"""Called with a stage, steps done and steps in all."""


ROUNDING = 1e-10
"""A variance of probabilities up to which draws differ by rounding: the square of the 1e-5 that passes are held to."""


@dataclass(frozen=True, kw_only=True)
class RefinePlan:
    """How the draws are optimised.

    steps: at most; together: views in one step
    rate: length of Adam's first step of a draw, over all its statistics, in standard deviations over the bank's draws:
    each statistic moves by that over the square root of their number; weight_rate: Adam's first step of a weight's
    logarithm. Both decay to 0 as a cosine
    every: steps between evaluations on the held-out views; patience: evaluations without gain after which it stops
    """

    steps: int = 400
    together: int = 2
    rate: float = 1.2
    weight_rate: float = 0.02
    every: int = 40
    patience: int = 3

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise WrongUse(f"steps = {self.steps}, but it is a count from 0 up (0: the draws stay as chosen).")


@dataclass(frozen=True)
class Target:
    """The target of views (N C H W): mean and variance over its draws of the probabilities (N K H W)."""

    views: Tensor
    mean: Tensor
    variance: Tensor


def variance_error(variances: Sequence[Tensor], references: Sequence[Tensor]) -> float:  # N K ... each
    """Relative L1 error of the variance map: sum |v - v_ref| / sum v_ref over all pixels, v the mean over classes.

    Without meaning where the references are rounding only: see `check_spread` of `segment.distilling.distill`.
    """
    off = sum(float((a.mean(dim=1) - b.mean(dim=1)).abs().sum()) for a, b in zip(variances, references, strict=True))
    return off / max(sum(float(b.mean(dim=1).sum()) for b in references), 1e-30)


class DrawParameters(nn.Module):
    """K draws as parameters: means and logarithms of variances, in standard deviations over the bank's draws."""

    def __init__(self, bank: Bank, chosen: Chosen, device: torch.device) -> None:
        super().__init__()
        self._names = bank.layers
        self._sizes = [bank.mean[name].shape[1] for name in self._names] * 2
        logs = [bank.var[name].clamp(min=1e-12).log() for name in self._names]
        every = torch.cat([*(bank.mean[name] for name in self._names), *logs], dim=1)  # T 2C
        self.unit = nn.Buffer(every.std(dim=0, correction=0).to(device))  # 2C
        self.origin = nn.Buffer(every[list(chosen.draws)].to(device))  # K 2C
        self.moved = nn.Parameter(torch.zeros_like(self.origin))
        self.logits = nn.Parameter(chosen.weights.clamp(min=1e-3).log().to(device))

    def weights(self) -> Tensor:  # K
        return self.logits.softmax(dim=0)

    def statistics(self) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """Layer name -> mean and variance (C), for each of the K draws."""
        statistics = []
        for row in self.origin + self.unit * self.moved:
            parts = row.split(self._sizes)
            half = len(self._names)
            statistics.append(
                {
                    name: (mean, log.exp())
                    for name, mean, log in zip(self._names, parts[:half], parts[half:], strict=True)
                }
            )
        return statistics

    @torch.no_grad()
    def bank(self, source: Bank) -> Bank:
        """The draws as a bank, with its source's provenance."""
        draws = self.statistics()
        mean = {name: torch.stack([draw[name][0] for draw in draws]).cpu() for name in self._names}
        var = {name: torch.stack([draw[name][1] for draw in draws]).cpu() for name in self._names}
        return source.with_draws(self.weights().float().cpu(), mean, var, distilled=True)


class Student:
    """The network under draws that gradients reach."""

    def __init__(self, network: BatchNormNetwork, head: Head) -> None:
        self.network = network
        self.head = head
        self._layers = layers_in_order(network)
        self._state = state_keeper(network.module, network.trace)

    def moments(self, draws: DrawParameters, views: Tensor) -> tuple[Tensor, Tensor]:  # N C H W -> N K H W, N K H W
        """Mean and variance over the weighted draws."""
        outputs = []
        with _without_gradients(self.network.module):
            for number, draw in enumerate(draws.statistics()):
                images = self.network.writable(views)
                with self._state(), _Refined(self._layers, draw):
                    self._state.seed(number)  # as in the passes of the bank that is made
                    logits = self._state.own(self.network.forward(images))
                outputs.append(probabilities(logits, self.head))
        p, weights = torch.stack(outputs), draws.weights()
        mean = torch.einsum("t,t...->...", weights, p)
        return mean, torch.einsum("t,t...->...", weights, (p - mean) ** 2)

    @torch.no_grad()
    def error(self, draws: DrawParameters, targets: Sequence[Target]) -> float:
        variances = [self.moments(draws, target.views)[1] for target in targets]
        return variance_error(variances, [target.variance for target in targets])

    def loss(self, draws: DrawParameters, target: Target) -> Tensor:
        """Poisson deviance of the variance map, plus the squared error of the mean in units of that variance.

        Both are least at the target. The deviance bounds the squared L1 error (Pinsker's inequality), where squares
        would see the largest variances only.
        """
        mean, variance = self.moments(draws, target.views)
        reference = target.variance.mean(dim=1)
        unit = reference.mean().clamp(min=ROUNDING)  # a view under which all draws are equal divides by no 0
        floor = 0.02 * unit  # so that rounding in pixels of small variance has no effect
        v, t = variance.mean(dim=1) + floor, reference + floor
        deviance = (v - t + t * (t.log() - v.log())).sum() / t.sum()
        return deviance + 0.5 * ((mean - target.mean) ** 2).mean() / unit


class Refinement:
    """Draws while they are optimised, and all that decides the steps to come, so that another process can go on.

    step: steps that were made. best: the least error on the held-out views; kept: the step it was at, 0: none
    """

    def __init__(self, draws: DrawParameters, plan: RefinePlan, generator: torch.Generator, before: float) -> None:
        self.draws, self.plan, self.generator = draws, plan, generator
        self.step, self.best, self.kept, self._worse = 0, before, 0, 0
        self._moving = {"moved": draws.moved, "logits": draws.logits}
        self._rates = (plan.rate / math.sqrt(draws.moved.shape[1]), plan.weight_rate)
        groups = [{"params": [moving]} for moving in self._moving.values()]
        self._optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self._state = {name: value.clone() for name, value in draws.state_dict().items()}
        self._order: list[int] = []

    @property
    def ended(self) -> bool:
        return self.step >= self.plan.steps or self._worse >= self.plan.patience

    def advance(self, student: Student, targets: Sequence[Target]) -> None:
        """One step of Adam, on views in a random order."""
        left = 0.5 * (1 + math.cos(math.pi * self.step / self.plan.steps))
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * left
        self._optimiser.zero_grad()
        for _ in range(self.plan.together):
            self._order = self._order or torch.randperm(len(targets), device="cpu", generator=self.generator).tolist()
            loss = student.loss(self.draws, targets[self._order.pop()]) / self.plan.together
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.step += 1

    def judge(self, error: float) -> None:
        """Keep the draws where their error on the held-out views is the least so far."""
        self._worse = 0 if error < self.best else self._worse + 1
        if error < self.best:
            self.best, self.kept = error, self.step
            self._state = {name: value.clone() for name, value in self.draws.state_dict().items()}

    def end(self) -> None:
        """Leave the draws at their best."""
        self.draws.load_state_dict(self._state)

    def state(self) -> dict[str, Tensor]:
        """Everything that was reached, as tensors on the CPU."""
        state = {
            "numbers": torch.tensor([self.step, self.best, self.kept, self._worse], dtype=torch.float64),
            "order": torch.tensor(self._order, dtype=torch.int64),
            "generator": self.generator.get_state(),
        }
        for name, moving in self._moving.items():
            state |= {f"now.{name}": moving.detach(), f"best.{name}": self._state[name]}
            state |= {f"adam.{name}.{key}": value for key, value in self._optimiser.state[moving].items()}
        return {name: value.clone().cpu() for name, value in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Errors: KeyError, ValueError, RuntimeError where it is no such state."""
        step, best, kept, worse = state["numbers"].tolist()
        self.generator.set_state(state["generator"])
        for name, moving in self._moving.items():
            with torch.no_grad():
                moving.copy_(state[f"now.{name}"])
            self._state[name] = state[f"best.{name}"].to(moving.device)
            prefix = f"adam.{name}."
            reached = {
                key.removeprefix(prefix): value.clone() for key, value in state.items() if key.startswith(prefix)
            }
            self._optimiser.state[moving] = {
                key: value if key == "step" else value.to(moving.device) for key, value in reached.items()
            }
        self.step, self.best, self.kept, self._worse = int(step), best, int(kept), int(worse)
        self._order = state["order"].tolist()


def refine(
    student: Student,
    refinement: Refinement,
    targets: Sequence[Target],
    reference: Sequence[Target],
    progress: Progress,
    keep: Callable[[Mapping[str, Tensor]], object] = lambda _: None,
) -> None:
    """Optimise the draws, and leave them at the step that is best on the held-out views.

    keep: called after each evaluation there with the state that was reached
    """
    plan = refinement.plan
    while not refinement.ended:
        refinement.advance(student, targets)
        progress("refining", refinement.step, plan.steps)
        if refinement.step % plan.every == 0 or refinement.step == plan.steps:
            refinement.judge(student.error(refinement.draws, reference))
            keep(refinement.state())
    refinement.end()


class _Refined(BatchNormMode):
    """One pass under statistics that gradients reach: batch norm as the affine map by them."""

    def __init__(self, layers: Sequence[Layer], draw: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        super().__init__(layers)
        self._draw = draw

    def normalise(self, layer: Layer, call: BatchNormCall) -> Tensor:
        if layer.name not in self._draw:
            return call.unchanged()
        return _affine(*self._draw[layer.name], call)


def _affine(mean: Tensor, var: Tensor, call: BatchNormCall) -> Tensor:
    """The call's images normalised by the mean and variance of a draw."""
    root = (var + call.eps).rsqrt()
    scale = root if call.weight is None else call.weight * root
    shift = -mean * scale if call.bias is None else call.bias - mean * scale
    # torch gives the statistics of an eval-mode batch norm no gradient, but its weight and bias
    neutral = torch.zeros_like(mean), torch.ones_like(mean)
    return functional.batch_norm(call.input, *neutral, scale, shift, training=False, momentum=0.0, eps=0.0)


@contextmanager
def _without_gradients(module: nn.Module) -> Iterator[None]:
    """Parameters need no gradient within a block, so that torch keeps none of their inputs."""
    trainable = [parameter for parameter in parameters(module) if parameter.requires_grad]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)  # noqa: FBT003 - torch's own signature
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)  # noqa: FBT003 - torch's own signature
