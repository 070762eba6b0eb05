"""What a fit or a distilling that has not ended has reached, in a file beside its output: the same command goes on.

Must not know how a draw is recorded or refined.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segment.draws.bank import Bank, Statistics
from segment.draws.identity import computes_the_same, identified
from segment.errors import SegmentError
from segment.files.bank_cache import bank_of_recipe, signed
from segment.files.banks import save_bank
from segment.files.writing import fresh
from segment.networks.load import Network
from segment.stores.copies import here
from segment.stores.requests import is_there, remove
from segment.stores.urls import is_url
from segment.tracing.bn_layers import BatchNormNetwork

log = logging.getLogger(__name__)

SUFFIX = ".partial.safetensors"
PLAN = "plan"
"""Key of its provenance: how its draws were recorded, which decides their last bits."""


@dataclass(frozen=True)
class _Beside:
    """A file beside the output of a command, until that is written. recipe: of all that decides what it holds."""

    path: Path
    recipe: str

    @classmethod
    def beside(cls, output: Path, recipe: str) -> Self:
        return cls(output.with_suffix(SUFFIX), recipe)

    def remove(self) -> None:
        """Called when the output is written."""
        if is_url(self.path):
            remove([self.path])
        else:
            self.path.unlink(missing_ok=True)


class PartialBank(_Beside):
    """`BANK.partial.safetensors`: the first draws of the bank that `recipe` describes."""

    def load(self, network: Network) -> tuple[list[Statistics], Mapping[str, Any]] | None:
        """The draws and how they were recorded; None where there are none of this recipe and network."""
        bank = bank_of_recipe(self.path, self.recipe)
        plan = None if bank is None else bank.provenance.get(PLAN)
        if bank is None or plan is None or bank.probe is None or not computes_the_same(network, bank.probe):
            return None
        return list(bank), plan

    def keeper(
        self, network: Network, drawn: BatchNormNetwork, plan: Mapping[str, Any]
    ) -> Callable[[Sequence[Statistics]], bool]:
        """Called with the draws so far, writes them, whole or not at all.

        Gives whether that could be done; where it cannot, the fit goes on without. plan: how they are recorded
        """

        def keep(draws: Sequence[Statistics]) -> bool:
            try:
                bank = identified(network, drawn, Bank.of_draws(draws, {PLAN: dict(plan)}))
                save_bank(signed(bank, self.recipe), self.path)
            except (SegmentError, OSError) as error:
                log.info("The draws so far are not kept: %s", error)
                return False
            return True

        return keep


class PartialRefinement(_Beside):
    """`BANK.partial.safetensors`: the state that refining a bank has reached; `recipe` is all that decides it."""

    def load(self) -> dict[str, Tensor] | None:
        """The state; None where there is none of this recipe."""
        if not is_there(self.path):
            return None
        try:
            with here(self.path) as copy, safe_open(copy, framework="pt") as file:
                metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            log.info("%s is not used: %s", self.path, error)
            return None
        of_this = metadata == {"recipe": self.recipe, "content": _digest(state)}
        return state if of_this else None

    def keep(self, state: Mapping[str, Tensor]) -> None:
        """Write the state, whole or not at all; where that cannot be done, refining goes on without."""
        try:
            with fresh(self.path) as stream:
                stream.write(save(dict(state), {"recipe": self.recipe, "content": _digest(state)}))
        except (SegmentError, OSError) as error:
            log.info("What was reached is not kept: %s", error)


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
