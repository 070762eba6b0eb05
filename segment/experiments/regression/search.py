"""Hyper-parameters by cross-validation: all candidates trained side by side, the worst dropped early.

Must not know what a candidate's numbers mean, nor what a network is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Trainable(Protocol):
    """A stack of networks under training, one for each fold and candidate, the candidates of a fold side by side.

    held_out_rmse: of every network, that of the mean over so many draws, estimated from the given number
    select: go on with these candidates, of every fold
    """

    def run(self, epochs: int) -> None: ...

    def held_out_rmse(self, draws: int, of: int | None) -> Tensor: ...

    def select(self, chosen: Tensor) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Race:
    """When a candidate's held-out error is computed, and when its training stops.

    every: epochs between two checks; patience: checks without improvement; epochs: the most
    rungs: epoch -> share of a group's candidates that go on from there (successive halving); none: nobody is dropped
    draws, of: the error that is compared is that of the mean over `of` draws, estimated without bias from a smaller
    number of them; of = None: that of those few
    """

    every: int = 20
    patience: int = 10
    epochs: int = 2000
    rungs: Mapping[int, float] = field(default_factory=dict)
    draws: int = 20
    of: int | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """For each candidate: its best error (mean RMSE over folds; inf if it never was finite) and that epoch."""

    rmse: Tensor
    epoch: Tensor

    @property
    def best(self) -> int:
        return int(self.rmse.argmin())


def race(training: Trainable, groups: list[int], folds: int, plan: Race) -> SearchResult:
    """Train the candidates (one group number each) until each has stopped early, been dropped or reached the end.

    A rung keeps the better share of those of each group that have not stopped. The error of a candidate is the mean
    over its folds, which share one clock, as in the authors' code.
    """
    count = len(groups)
    best, at = torch.full((count,), math.inf), torch.zeros(count, dtype=torch.long)
    waits = torch.zeros(count, dtype=torch.long)
    alive = torch.arange(count)
    for epoch in range(plan.every, plan.epochs + 1, plan.every):
        training.run(plan.every)
        error = training.held_out_rmse(plan.draws, plan.of).view(folds, -1).mean(dim=0).nan_to_num(math.inf)
        better = error < best[alive]
        at[alive[better]] = epoch
        best[alive[better]] = error[better]
        waits[alive] = torch.where(better, 0, waits[alive] + 1)
        stays = waits[alive] < plan.patience
        if epoch in plan.rungs:
            stays &= _ahead(best[alive], torch.tensor(groups)[alive], stays, plan.rungs[epoch])
        if not stays.all():
            alive = alive[stays]
            if len(alive) == 0:
                break
            training.select(torch.nonzero(stays)[:, 0])
    return SearchResult(rmse=best, epoch=at)


def _ahead(error: Tensor, groups: Tensor, running: Tensor, share: float) -> Tensor:
    """Which of the running ones are in the better share of their group."""
    ahead = torch.zeros_like(running)
    for group in set(groups.tolist()):
        members = torch.nonzero((groups == group) & running)[:, 0]
        kept = members[error[members].argsort(stable=True)][: math.ceil(share * len(members))]
        ahead[kept] = True
    return ahead
