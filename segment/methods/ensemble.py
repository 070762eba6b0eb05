"""An ensemble: the passes of several methods, each member with the same weight.

Must not know what an output means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from segment.methods.method import Composite


@dataclass(frozen=True)
class Ensemble(Composite):
    """One pass of each member, all with the same weight (Lakshminarayanan et al. 2017, arXiv:1612.01474)."""

    name: str = "ensemble"
    random: bool = False
    note: str = "its members are a few networks, no random sample"

    def __call__(self, images: Tensor) -> Iterator[tuple[float, Tensor]]:
        for member in self.members:
            for weight, output in member(images):
                yield weight / len(self.members), output
