"""MCBN for a program: a network and a bank, called with an image, give an Estimate.

Must not know a file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segment.axes import Plane
from segment.draws.bank import Bank
from segment.draws.identity import fitted
from segment.draws.recording import Precision
from segment.errors import WrongUse
from segment.estimation.estimate import Estimate, Planes, estimate
from segment.estimation.memory_budget import Memory, room
from segment.estimation.precision import choose
from segment.estimation.tiled import InTiles
from segment.images.prepare import crop
from segment.methods.method import BankMethod, mcbn
from segment.networks.load import Network, load_network
from segment.passes.passes import PassPlan
from segment.uncertainty.heads import probabilities
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.stopping import StopPlan, Watch, refuse_several

Image = Tensor | NDArray[Any] | Sequence[Tensor | NDArray[Any]]


def resolve_precision(asked: str, bank: Bank, device: torch.device) -> tuple[Precision, str]:
    """fp32, bf16 or fp16, and why: what was asked, or for "auto" what the audit kept in the bank allows."""
    if asked == "auto":
        return choose(bank.provenance.get("audit", {}).get(device.type, {}))
    if asked not in ("fp32", "bf16", "fp16"):
        raise WrongUse(f"No precision is called {asked!r}. Known: auto, fp32, bf16, fp16.")
    if asked == "fp16" and device.type == "cpu":
        raise WrongUse("fp16 runs on CUDA only; on a CPU use --precision bf16 or fp32.")
    return ("fp32" if asked == "fp32" else "bf16" if asked == "bf16" else "fp16"), "asked for"


Draws = int | Literal["auto"] | None
"""The first N of a bank; "auto": as many as each image needs; None: all."""


def resolve_draws(asked: Draws, bank: Bank, plan: StopPlan) -> tuple[Bank, StopPlan | None]:
    """The draws that may be used, and when an image has had enough of them; None: it has all.

    Errors: WrongUse for more draws than there are, and for "auto" where there is no standard error to stop by.
    """
    if asked != "auto":
        return bank if asked is None else bank.first(asked), None
    if bank.distilled:
        raise WrongUse(
            "--draws auto stops by the Monte Carlo standard error, and a distilled bank has none: its draws are no "
            f"random sample. Its {len(bank)} draws are used whole; leave --draws out."
        )
    if len(bank) < 2:
        raise WrongUse("--draws auto stops by the spread of the draws, and one draw has none: fit a larger bank.")
    return bank, plan


def _side_by_side(each: Sequence[Planes]) -> Estimate:
    first = each[0]

    def stacked(planes: Sequence[Plane]) -> Tensor:
        return torch.stack([torch.from_numpy(np.asarray(plane)) for plane in planes])

    maps = {name: stacked([one.maps[name] for one in each]) for name in first.maps}
    probability = stacked([one.probability for one in each if one.probability is not None])
    prediction = stacked([one.prediction for one in each]).long()
    return Estimate(prediction, probability, maps, first.draws, first.withheld, first.reached_error)


class MCBN:
    """Monte Carlo batch normalisation (Teye et al. 2018) of one network under one bank.

    network: what `load_network` gave, or any torch module with BN (it is copied, so the caller's stays as it is)
    draws: the first N of the bank; None: all; "auto": as many as an image needs for a standard error of `tolerance`,
    one image a call (`segment.uncertainty.stopping`)
    precision: "auto", "fp32", "bf16", "fp16". device: None: where it is
    memory: a budget for the process, bytes or "4GiB": an image that does not fit goes through in tiles, one image after
    the other; None: nothing is planned
    """

    def __init__(
        self, network: Network | nn.Module, bank: Bank, *, draws: Draws = None, tolerance: float = StopPlan.tolerance,
        precision: str = "auto", device: str | Literal["auto"] | None = None, plan: PassPlan | None = None,
        memory: Memory = None,
    ) -> None:  # fmt: skip
        if isinstance(network, nn.Module):
            network = load_network(network)
        if device is not None:
            name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
            network = replace(network, module=copy.deepcopy(network.module).to(name))
        self.network = network
        self.bank, self.stop = resolve_draws(draws, bank, StopPlan(tolerance=tolerance))
        self.drawn = fitted(network, bank)
        self.precision, self.why = resolve_precision(precision, bank, self.drawn.device)
        plan = plan or PassPlan(channels_last=True, fuse=True)
        self.method: BankMethod = mcbn(self.drawn, self.bank, replace(plan, precision=self.precision))
        self.memory = memory
        self._tiled: dict[tuple[str, ...], InTiles] = {}

    def __call__(self, image: Image, measures: Iterable[str] = tuple(MEASURES)) -> Estimate:
        """Mask, mean probability and maps of one image or several.

        image: float (C H W) or (N C H W), already normalised; or uint8 (H W 3) RGB, which goes through the card; as
        `segment.images.accept` says, which `fit_bank` goes by too.
        Errors: WrongUse for another shape or type; PredictionFailed where an output is not finite.
        """
        images, size, single = self.network.accept.batch(image)
        if self.stop is not None:
            refuse_several(len(images))
        if self.memory is not None:
            each = [self._within(tuple(measures))(one[None], size) for one in images]
            found = _side_by_side(each)
            return found.image(0) if single else found
        head = self.network.card.head
        watch = None if self.stop is None else Watch(head, len(self.bank), self.stop)
        found = estimate(self.method, images, head=head, measures=measures, size=size, stop=watch)
        return found.image(0) if single else found

    def _within(self, measures: tuple[str, ...]) -> InTiles:
        """What is measured of the network is kept; what may be taken is asked anew."""
        if measures not in self._tiled:
            self._tiled[measures] = InTiles(self.method, self.network, measures=measures, keep=True, stop=self.stop)
        found = self._tiled[measures]
        found.within = room(self.memory, self.drawn.device)
        return found

    def draws(self, image: Image) -> Iterator[Tensor]:
        """The class probabilities of each draw, (K H W) or (N K H W), one at a time, in the bank's order."""
        images, size, single = self.network.accept.batch(image)
        for _, logits in self.method(images):
            p = probabilities(crop(logits, *size), self.network.card.head)
            yield p[0] if single else p
