"""One deterministic pass: under the trained statistics, or in eval mode where a network has no BN.

Must not know what an output means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.recording import in_precision
from segment.images.prepare import in_padding
from segment.images.specs import InputSpec
from segment.methods.mcbn import UNPADDED, BankMethod
from segment.methods.method import OnePass
from segment.networks.modules import device_of
from segment.networks.preserve_state import StateKeeper
from segment.passes.passes import Passes, PassPlan


def deterministic(
    network: BatchNormNetwork, bank: Bank | None = None, plan: PassPlan | None = None, spec: InputSpec = UNPADDED
) -> BankMethod:
    """One pass under the trained running statistics, as `model.eval()`.

    A layer without running statistics, which in eval mode would use the test image's own, gets the bank's mean ones.
    Errors: BankRefused where there is such a layer and no bank.
    """
    untracked = network.untracked
    trained = Bank.of_trained(network, mean_of=bank)
    note = ""
    if untracked:
        note = (
            f"{len(untracked)} layers keep no running statistics and have the bank's mean: {', '.join(untracked[:3])}"
        )
    return BankMethod("deterministic", Passes(network, trained, plan), random=False, note=note, spec=spec)


@dataclass(frozen=True)
class Plain(OnePass):
    """One pass in eval mode, for a network without BN: as `deterministic` for the others.

    forward: images N C H W -> outputs N K ..., which runs the module; images are padded as `spec` says
    """

    module: nn.Module
    forward: Callable[[Tensor], Tensor]
    plan: PassPlan
    spec: InputSpec = UNPADDED
    name: str = "deterministic"
    random: bool = False
    draws: int = 1
    note: str = ""

    in_eval_mode = True

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        for output in in_padding(self._outputs, images, self.spec):
            yield 1.0, output

    def _outputs(self, images: Tensor) -> Iterator[Tensor]:
        device = device_of(self.module)
        images = images.to(device, copy=True)  # a network may write into its image
        if self.plan.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        state = StateKeeper(self.module)
        with torch.no_grad(), state(), in_precision(self.plan.precision, device):
            output = state.own(self.forward(images))
        yield output
