"""Checkpoints of an unfinished fit or distilling, in a file beside its output, with which the same command goes on.

Must not know how a draw is recorded or refined.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank, Statistics
from segment.draws.identity import identified, is_bank_of
from segment.errors import SegmentError
from segment.files.banks.bank_file import save_bank
from segment.files.banks.cache import bank_of_recipe, signed
from segment.files.writing import write_bytes
from segment.networks.load import Network
from segment.stores.copies import here
from segment.stores.requests import is_there, remove
from segment.stores.urls import is_url

log = logging.getLogger(__name__)

PARTIAL = ".partial"
PLAN = "plan"
"""Key of its provenance: how its draws were recorded, which decides their last bits."""


def _beside(output: Path, part: str = "") -> Path:
    return output.with_suffix(f"{PARTIAL}.{part}.safetensors" if part else f"{PARTIAL}.safetensors")


class PartialBank:
    """`BANK.partial.safetensors`: the first draws of the bank that `recipe` describes, until the bank is written."""

    def __init__(self, output: Path, recipe: str) -> None:
        self.path, self.recipe = _beside(output), recipe

    def remove(self) -> None:
        """Called when the output is written."""
        remove([self.path])

    def load(self, network: Network, drawn: BatchNormNetwork) -> tuple[list[Statistics], Mapping[str, Any]] | None:
        """The draws and how they were recorded; None where there are none of this recipe and network."""
        bank = bank_of_recipe(self.path, self.recipe)
        plan = None if bank is None else bank.provenance.get(PLAN)
        if bank is None or plan is None or not is_bank_of(network, drawn, bank):
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


class PartialTensors:
    """Files of tensors that a distilling has reached, until its bank is written.

    recipe: of all that decides them, also of what the network computes, which neither its weights nor its draws say
    `BANK.partial.safetensors`: the state of refining; `BANK.partial.PART.safetensors`: the bank's passes over some
    views. output: the bank; None: nothing is kept. found: whether any was loaded
    """

    def __init__(self, output: Path | None, recipe: str) -> None:
        self.output, self.recipe = output, recipe
        self.found = False
        self._kept: set[Path] = set()

    def load(self, part: str = "") -> dict[str, Tensor] | None:
        """The tensors; None where there are none of this recipe."""
        if self.output is None:
            return None
        path = _beside(self.output, part)
        if not is_there(path):
            return None
        try:
            with here(path) as copy, safe_open(copy, framework="pt") as file:
                metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            log.info("%s is not used: %s", path, error)
            return None
        if metadata != self._metadata(state, part):
            return None
        self._kept.add(path)
        self.found = True
        return state

    def keep(self, state: Mapping[str, Tensor], part: str = "") -> None:
        """Write the tensors, whole or not at all; where that cannot be done, the distilling goes on without."""
        if self.output is None:
            return
        path = _beside(self.output, part)
        try:
            write_bytes(path, save(dict(state), self._metadata(state, part)))
        except (SegmentError, OSError) as error:
            log.info("What was reached is not kept: %s", error)
        else:
            self._kept.add(path)

    def remove(self) -> None:
        """Called when the output is written: its parts go, and no part of a call with other settings."""
        remove([path for path in sorted(self._kept) if is_url(path) or self._is_own(path)])

    def _is_own(self, path: Path) -> bool:
        """Not so where another call has written its own in that place."""
        try:
            with safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("recipe") == self.recipe
        except (OSError, SafetensorError):
            return False

    def _metadata(self, state: Mapping[str, Tensor], part: str) -> dict[str, str]:
        return {"recipe": self.recipe, "part": part, "content": _digest(state)}


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
