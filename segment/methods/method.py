"""How the next pass is made: MCBN, one deterministic pass, the bank's mean statistics, or an ensemble.

A method gives weighted outputs and knows whether they are a random sample. Must not know what an output means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from segment.draws.bank import Bank
from segment.draws.recording import half
from segment.networks.preserve_state import preserve_state
from segment.passes.passes import Passes, PassPlan
from segment.tracing.bn_layers import BatchNormNetwork


class Method(Protocol):
    """Called with images (N C H W), gives (weight, output N K ...) once a draw; weights sum to 1.

    random: its draws are a random sample, so that the mean of them has a Monte Carlo standard error
    draws: T; note: what a reader of its maps should know, or ""
    """

    @property
    def name(self) -> str: ...
    @property
    def random(self) -> bool: ...
    @property
    def draws(self) -> int: ...
    @property
    def note(self) -> str: ...
    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]: ...


@dataclass(frozen=True)
class BankMethod:
    """Passes under a bank, whatever the bank stands for."""

    name: str
    passes: Passes
    random: bool
    note: str = ""

    @property
    def draws(self) -> int:
        return len(self.passes.bank)

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        return zip(self.passes.bank.weights.tolist(), self.passes(images), strict=True)


def mcbn(network: BatchNormNetwork, bank: Bank, plan: PassPlan | None = None) -> BankMethod:
    """One pass under each draw of the bank (Teye et al. 2018, Algorithm 1)."""
    distilled = "its draws were chosen, not drawn at random" if bank.distilled else ""
    return BankMethod("mcbn", Passes(network, bank, plan), random=not bank.distilled, note=distilled)


def mean_statistics(network: BatchNormNetwork, bank: Bank, plan: PassPlan | None = None) -> BankMethod:
    """One pass under the bank's mean statistics: re-estimated batch normalisation."""
    return BankMethod("mean_statistics", Passes(network, bank.average(), plan), random=False)


def deterministic(network: BatchNormNetwork, bank: Bank | None = None, plan: PassPlan | None = None) -> BankMethod:
    """One pass under the trained running statistics, as `model.eval()`.

    A layer that keeps none (in eval mode it would use the test image itself) gets the bank's mean statistics.
    Errors: BankRefused where there is such a layer and no bank.
    """
    untracked = [layer.name for layer in network.stochastic if layer.trained is None]
    trained = Bank.of_trained(network, mean_of=bank)
    note = ""
    if untracked:
        note = (
            f"{len(untracked)} layers keep no running statistics and have the bank's mean: {', '.join(untracked[:3])}"
        )
    return BankMethod("deterministic", Passes(network, trained, plan), random=False, note=note)


@dataclass(frozen=True)
class Plain:
    """One pass in eval mode, for a network without BN: what `deterministic` is for the others.

    forward: images N C H W -> outputs N K ..., which runs the module
    """

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    plan: PassPlan
    name: str = "deterministic"
    random: bool = False
    draws: int = 1
    note: str = ""

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        device = next((parameter.device for parameter in self.module.parameters()), images.device)
        images = images.to(device)
        if self.plan.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), preserve_state(self.module), half(self.plan.precision, device):
            output = self.forward(images)
        yield 1.0, output


@dataclass(frozen=True)
class Ensemble:
    """One pass of each member, all with the same weight (Lakshminarayanan et al. 2017, arXiv:1612.01474)."""

    members: tuple[Method, ...]
    name: str = "ensemble"
    random: bool = False
    note: str = "its members are a few networks, no random sample"

    @property
    def draws(self) -> int:
        return sum(member.draws for member in self.members)

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        for member in self.members:
            for weight, output in member(images):
                yield weight / len(self.members), output
