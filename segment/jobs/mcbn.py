"""MCBN as a Python object: a network and a bank, called with an image, give an Estimate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.errors import WrongUse, count_of, names_in
from segment.estimation.colour_scales import scales_of
from segment.estimation.estimate import Estimate, ReadOut, stacked
from segment.estimation.estimator import Estimator
from segment.estimation.memory_budget import Memory, memory_budget
from segment.estimation.plan import Draws, EstimatePlan, resolve_draws
from segment.estimation.precision import resolve_precision
from segment.estimation.view import PictureContext, pixels_of
from segment.files.banks.bank_file import bank_of
from segment.images.prepare import pad
from segment.images.specs import Channels
from segment.methods.mcbn import BankMethod, mcbn
from segment.networks.devices import device_named
from segment.networks.given import network_of, on_device
from segment.networks.load import Network
from segment.networks.modules import values_state
from segment.networks.preserve_state import undisturbed
from segment.passes.passes import FAST, PassPlan
from segment.passes.unchanged import SameSettings
from segment.pictures.palettes import palette
from segment.tracing.batch_independence import mixing_call
from segment.uncertainty.heads import probabilities
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.stopping import StopPlan, check_single_image

log = logging.getLogger(__name__)

Image = Any
"""An array, a tensor, a Pillow image or a path, or several: as `segment.images.accept` says."""


class MCBN:
    """Monte Carlo batch normalisation (Teye et al. 2018) of one network under one bank.

    network: what `load_network` gave, a URI, a card, or any torch module with BN (copied: the caller's stays as it is)
    bank: a bank, or its file
    draws: the first N of the bank; None: all; "auto": as many as an image needs for a standard error of `tolerance`,
    one image a call (`segment.uncertainty.stopping`)
    precision: "auto", "fp32", "bf16", "fp16". device: as `load_network` takes it; None: where the network is
    memory: a budget for the process, bytes or "4GiB": images go one after the other, in tiles where one does not fit.
    None: no plan at all, where jobs take 80 % of what is free: images go through whole, those of a call together
    mean, std, channels: how the images of a module were prepared in training, where no card says so

    Called with an image (uint8 H W 3, a Pillow image, a path, or a normalised float tensor) it gives an `Estimate`.
    """

    def __init__(
        self,
        network: Network | nn.Module | str | Path,
        bank: Bank | str | Path,
        *,
        draws: Draws = None,
        tolerance: float = StopPlan.tolerance,
        precision: str = "auto",
        device: str | Literal["auto"] | None = None,
        plan: PassPlan | None = None,
        memory: Memory = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        channels: Channels | Sequence[str] | None = None,
    ) -> None:
        network = network_of(network, mean=mean, std=std, channels=channels)
        if device is not None:
            network = on_device(network, device_named(device))
        self.network = network
        bank = bank_of(bank)
        asked = {"draws": draws, "tolerance": tolerance, "precision": precision, "plan": plan, "memory": memory}
        self._made_of = bank, asked
        self.bank, self.stop = resolve_draws(draws, bank, StopPlan(tolerance=tolerance))
        self.drawn = network_of_bank(network, bank)
        plan = plan or FAST
        self.precision, self.why = resolve_precision(precision, bank, self.drawn.device, plan.engine)
        self.plan = replace(plan, precision=self.precision)
        self.memory = memory
        self._start()

    def _start(self) -> None:
        """Without what is kept between calls: the network is as it is now."""
        self.method: BankMethod = mcbn(self.drawn, self.bank, self.plan, self.network.input)
        self._estimators: dict[tuple[str, ...], Estimator] = {}
        self._apart: dict[tuple[int, ...], bool] = {}
        self._values = values_state(self.network.module)
        self._settings = SameSettings(self.network.module)

    def __reduce__(self) -> tuple[Callable[..., MCBN], tuple[Any, ...]]:
        """Copied and pickled as what it was made of: a trace holds functions of torch that cannot be."""
        bank, options = self._made_of
        return _made_again, (type(self), self.network, bank, options)

    def __call__(self, image: Image, measures: str | Iterable[str] = tuple(MEASURES)) -> Estimate[Tensor]:
        """Prediction, mean probability and maps of one image or several.

        image: float (C H W) or (N C H W), already normalised; or uint8 (H W 3) RGB, which the card's preprocessing
        prepares; as `segment.images.accept` lists them, for `fit_bank` too.
        Errors: WrongUse for another shape or type; PredictionFailed where an output is not finite; BankRefused where
        the network was changed meanwhile, and computes something else now.
        """
        self._refuse_changed_network()
        images, single = self.network.accept.batch(image)
        if self.stop is not None:
            check_single_image(len(images))
        estimator = self._estimator(names_in(measures))
        if self.memory is None and self._keeps_apart(images):
            estimate = estimator.whole(images)[""]
        else:
            estimate = stacked([estimator(images[index : index + 1])[""] for index in range(len(images))])
        if estimator.to_redo:
            log.warning(
                "Fast passes gave other numbers than plain passes (%s); passes are plain from now on. "
                "Make the last %d estimates before this one again.",
                estimator.why,
                estimator.to_redo,
            )
            estimator.to_redo = 0
        self._settings = SameSettings(self.network.module)  # a pass may have written to attributes
        estimate = replace(estimate, view=self._view(images))
        return estimate.image(0) if single else estimate

    def _refuse_changed_network(self) -> None:
        """The caller may hold the network: another one under the bank's draws would be neither's estimate."""
        with undisturbed(self.network.module):
            if not self._settings or values_state(self.network.module) != self._values:
                self.drawn = network_of_bank(self.network, self.bank)
                self._start()

    def _keeps_apart(self, images: Tensor) -> bool:  # N C H W
        """Whether an image's estimate does not depend on those beside it; decided once for each number and size."""
        size = tuple(images.shape)
        if len(images) > 1 and size not in self._apart:
            padded = pad(images, self.network.input)
            mixing = mixing_call(self.network.module, self.network.module, padded.to(self.network.device))
            self._apart[size] = not mixing
            if mixing:
                log.info("Images go through the network one by one: %s may mix those of a batch.", mixing)
        return len(images) == 1 or self._apart[size]

    def __repr__(self) -> str:
        stochastic, layers = len(self.drawn.stochastic), len(self.drawn.layers)
        stop = "" if self.stop is None else f", stopped at a standard error of {self.stop.tolerance:g}"
        return (
            f"MCBN of {self.network.name}: {count_of(len(self.bank), 'draw')}{stop}, {self.precision}, "
            f"on {self.network.device}; {stochastic} of {layers} BN layers stochastic\n  {self.bank!r}\n"
            f"  input: {self.network.card.input.sentence}"
        )

    def _view(self, images: Tensor) -> PictureContext:  # N C H W
        card = self.network.card
        return PictureContext(
            name=self.network.name,
            classes=self.network.class_names,
            palette=palette(self.network.classes, card.palette),
            head=card.head,
            images=tuple(partial(pixels_of, image.clone(), card.input) for image in images),
            highs=scales_of(self.bank.provenance),
        )

    def _estimator(self, measures: tuple[str, ...]) -> Estimator:
        """The estimator of these measures, kept between calls; its memory budget is measured at each call."""
        if measures not in self._estimators:
            read_out = ReadOut(method=self.method, measures=measures)
            self._estimators[measures] = Estimator(self.network, {"": read_out}, EstimatePlan(stop=self.stop))
        estimator = self._estimators[measures]
        if self.memory is not None:
            budget = memory_budget(self.memory, self.drawn.device)
            estimator.plan = replace(estimator.plan, budget=budget)
        return estimator

    def draws(self, image: Image) -> Iterator[Tensor]:
        """The class probabilities of each draw, (K H W) or (N K H W), one at a time, in the bank's order.

        Errors: FastPathDiffers where a fast pass is found to be wrong: take the draws of this image again; WrongUse for
        several images where the network may mix them; BankRefused as a call.
        """
        self._refuse_changed_network()
        images, single = self.network.accept.batch(image)
        if not self._keeps_apart(images):
            raise WrongUse("The network may mix the images of a batch: ask for the draws of one image after the other.")
        for _, logits in self.method(images):
            self._settings = SameSettings(self.network.module)  # before the caller may change the network
            p = probabilities(logits, self.network.card.head)
            yield p[0] if single else p


def _made_again(kind: type[MCBN], network: Network, bank: Bank, options: Mapping[str, Any]) -> MCBN:
    return kind(network, bank, **options)
