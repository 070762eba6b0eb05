"""An ensemble: the passes of several methods, all members counting the same.

Must not know what an output means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from segment.methods.method import Method


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

    @property
    def tileable(self) -> bool:
        return all(member.tileable for member in self.members)

    @property
    def unverified(self) -> int:
        return max(member.unverified for member in self.members)

    def of(self, identity: str) -> Ensemble:
        return replace(self, members=tuple(member.of(identity) for member in self.members))

    def probe(self) -> Ensemble:
        return replace(self, members=tuple(member.probe() for member in self.members))

    def halve(self) -> bool:
        halved = [member.halve() for member in self.members]
        return any(halved)

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        for member in self.members:
            for weight, output in member(images):
                yield weight / len(self.members), output
