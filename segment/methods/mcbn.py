"""Passes under a bank: MCBN, one for each draw, and the bank's mean statistics, one in all.

Must not know what an output means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.images.prepare import in_padding
from segment.images.specs import InputSpec
from segment.passes.passes import Engine, Passes, PassPlan

UNPADDED = InputSpec()
FEW_DRAWS = 3
"""Passes whose memory is measured: what all draws share has been allocated after the second."""


@dataclass(frozen=True)
class BankMethod:
    """Passes under a bank; images are padded by `spec`."""

    name: str
    passes: Passes
    random: bool
    note: str = ""
    spec: InputSpec = UNPADDED
    tileable: bool = True

    in_eval_mode = False

    @property
    def draws(self) -> int:
        return len(self.passes.bank)

    @property
    def fold(self) -> int:
        return self.passes.plan.fold

    @property
    def engine(self) -> Engine:
        return self.passes.plan.engine

    @property
    def unverified(self) -> int:
        return self.passes.unverified

    def of(self, identity: str) -> BankMethod:
        return self

    def few_passes(self) -> BankMethod:
        passes = self.passes
        few = passes.bank.take(range(min(FEW_DRAWS, self.draws)))
        return replace(self, passes=Passes(passes.network, few, replace(passes.plan, fuse=False, engine="torch")))

    def halve(self) -> bool:
        plan = self.passes.plan
        self.passes.plan = replace(plan, fold=max(1, plan.fold // 2))
        return plan.fold > 1

    def take_plain_passes(self) -> None:
        self.passes.take_plain()

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        outputs = in_padding(self.passes, images, self.spec)
        return zip(self.passes.bank.weights.tolist(), outputs, strict=True)


def mcbn(network: BatchNormNetwork, bank: Bank, plan: PassPlan | None = None, spec: InputSpec = UNPADDED) -> BankMethod:
    """One pass under each draw of the bank (Teye et al. 2018, Algorithm 1)."""
    note = "its draws were chosen, not drawn at random" if bank.distilled else ""
    return BankMethod("mcbn", Passes(network, bank, plan), random=not bank.distilled, note=note, spec=spec)


def mean_statistics(
    network: BatchNormNetwork, bank: Bank, plan: PassPlan | None = None, spec: InputSpec = UNPADDED
) -> BankMethod:
    """One pass under the bank's mean statistics: re-estimated batch normalisation."""
    return BankMethod("mean_statistics", Passes(network, bank.average(), plan), random=False, spec=spec)
