"""A bank of T draws to K weighted draws whose passes have the same moments.

First a choice: K of the T draws, with weights, match the first two moments of the class probabilities over training
views. Then a refinement: Adam changes the statistics of the chosen draws, through the network, so that their weighted
mean and variance are nearest to the bank's; held-out views decide which step is kept.

Every view is passed under all T draws, and all views are used in the choice: draws chosen on a few views overfit to
them, and the moments of a part of the bank are a noisy target (on the CamVid U-Net, 128 views: held-out error .198,
where 16 views of the choice and 64 draws for each of the others left .228).

No mini-batch has the statistics of a refined draw. Must not know a file, nor where the views come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Self

import torch
from torch import Tensor

from segment.axes import Head
from segment.batch_norm.layers import BatchNormNetwork
from segment.distilling.choose import Chosen, Moments, choose
from segment.distilling.refine import (
    ROUNDING,
    DrawParameters,
    Progress,
    Refinement,
    RefinePlan,
    Student,
    Target,
    refine,
)
from segment.draws.bank import Bank
from segment.errors import PredictionFailed, WrongUse, integer
from segment.passes.passes import Passes
from segment.tracing.batch_independence import mixing_call
from segment.uncertainty.heads import probabilities
from segment.uncertainty.moments import DrawMoments

PIXELS = 64
"""Pixels of each view that the choice uses."""
TOGETHER = 4
"""Views in a pass at most: on the CamVid U-Net an image then takes three quarters of the time."""


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """How a bank is distilled.

    draws: K, a count from 1 up; seed: of every random choice; refine: how the draws are optimised
    """

    draws: int = 8
    seed: int = 0
    refine: RefinePlan = field(default_factory=RefinePlan)

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("seed", 0)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least=least))


@dataclass(frozen=True)
class Distilled:
    """K weighted draws, and the error of their variance map on the held-out views: as chosen, and as returned.

    chosen: which draws of the bank they started as; step: the step that was kept (0: they are the chosen ones)
    """

    bank: Bank
    chosen: Chosen
    chosen_error: float
    error: float
    step: int


@dataclass(frozen=True)
class Observed:
    """What passing all draws of a bank over views gave: enough to distill it to any K.

    targets: of each view; moments: of the draws at some pixels of each; seconds: that the passes took
    """

    targets: list[Target]
    moments: Moments
    seconds: float = 0.0

    def __add__(self, other: Observed) -> Observed:
        """What was observed on the views of both."""
        return Observed(self.targets + other.targets, self.moments + other.moments, self.seconds + other.seconds)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the views, by name, as tensors on the CPU."""
        tensors = {"moments": self.moments.state(), "seconds": torch.tensor(self.seconds, dtype=torch.float64)}
        for number, target in enumerate(self.targets):
            tensors |= {f"mean.{number}": target.mean.cpu(), f"variance.{number}": target.variance.cpu()}
        return tensors

    @classmethod
    def of(cls, views: Sequence[Tensor], tensors: Mapping[str, Tensor], device: torch.device) -> Self:
        """From the views (each 1 C H W) and what `tensors` gave, on the network's device.

        Errors: KeyError where they are of other views.
        """
        targets = [
            Target(view, *(tensors[f"{moment}.{number}"].to(device) for moment in ("mean", "variance")))
            for number, view in enumerate(views)
        ]
        return cls(targets, Moments.of(tensors["moments"]), float(tensors["seconds"]))


def observe_views(
    passes: Passes,
    views: Sequence[Tensor],
    head: Head,
    *,
    pixels: int = PIXELS,
    seed: int = 0,
    names: Sequence[str] = (),
    progress: Callable[[int], object] = lambda done: None,
) -> Observed:
    """Pass all draws of a bank over views; several in a pass, where the network keeps the images of a batch apart.

    passes: of all draws, as FAST plans them
    views: of training images, each (1 C H W), one or more; as the network sees them in training
    pixels: of each view, at random by the seed, at which the draws are compared for the choice; 0 for held-out views
    names: of the views' images, for messages; empty: they are numbered
    progress: called with the views that are done
    Errors: PredictionFailed where outputs of a view are not finite, which names it; FastPathDiffers, after which views
    that these passes went over before are to be passed again.
    """
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    network, bank = passes.network, passes.bank
    several = torch.cat([views[0]] * max(2, min(TOGETHER, len(views)))).to(network.device)
    most = 1 if mixing_call(network.module, network.module, several) else TOGETHER
    moments, targets = Moments(len(bank)), list[Target]()
    for group in _of_one_size(views, most):
        new, sampled = observe(passes, bank.weights, torch.cat(group), head, pixels, generator)
        for number, target in enumerate(new, start=len(targets)):
            _refuse_not_finite(target, names[number] if names else f"image {number}")
        targets.extend(new)
        moments.add(sampled, bank.weights)
        progress(len(targets))
    return Observed(targets, moments, time.perf_counter() - start)


def _refuse_not_finite(target: Target, image: str) -> None:
    """Refuse a view under whose draws some probability is not finite: it would spoil the moments of all views."""
    if not bool(torch.isfinite(target.mean).all()):
        height, width = target.views.shape[-2:]
        raise PredictionFailed(
            f"The network's output is not finite (NaN or infinity) under draws of the bank, in a view of {height} x "
            f"{width} pixels of {image}. Remove that image from the list, or repair it."
        )


def _of_one_size(views: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Views that follow each other and have one size, at most `most` together."""
    for _, same in groupby(views, key=lambda view: view.shape):
        several = list(same)
        yield from (several[start : start + most] for start in range(0, len(several), most))


def distill(
    network: BatchNormNetwork,
    bank: Bank,
    observed: Observed,
    held_out: Sequence[Target],
    head: Head,
    plan: DistillPlan | None = None,
    progress: Progress = lambda stage, done, total: None,
    begun: Mapping[str, Tensor] | None = None,
    keep: Callable[[Mapping[str, Tensor]], object] = lambda _: None,
) -> Distilled:
    """Choose K draws of a bank and refine them.

    observed: by `observe_views`, of this network and bank; held_out: targets of views of other images
    begun: a state that `keep` was called with, in a call with the same arguments: refining goes on from there
    Errors: as `check_bank` and `check_spread`.
    """
    plan = plan or DistillPlan()
    check_bank(bank, plan.draws)
    check_spread(len(bank), observed.targets, held_out)
    generator = torch.Generator().manual_seed(plan.seed)
    chosen = choose(observed.moments.products(), plan.draws, generator)
    student = Student(network, head)
    draws = DrawParameters(bank, chosen, network.device)
    before = student.error(draws, held_out)
    if plan.refine.steps == 0:
        return Distilled(draws.bank(bank), chosen, before, before, 0)
    refinement = Refinement(draws, plan.refine, generator, before)
    if begun is not None:
        refinement.load(begun)
    refine(student, refinement, observed.targets, held_out, progress, keep)
    return Distilled(draws.bank(bank), chosen, before, refinement.best, refinement.kept)


def check_bank(bank: Bank, draws: int) -> None:
    """Errors: WrongUse where the bank is distilled already or has no more draws than K."""
    if bank.distilled:
        raise WrongUse("This bank is distilled already; distill the one that it was made from.")
    if draws >= len(bank):
        raise WrongUse(f"{draws} draws were asked of a bank of {len(bank)}: distilling leaves fewer.")


def check_spread(draws: int, targets: Sequence[Target], held_out: Sequence[Target]) -> None:
    """Refuse draws that have no spread to approximate: errors relative to it would be those of rounding.

    Args:
        draws: T, for the message.
        targets: Of the views that draws are chosen and refined by.
        held_out: Of the views that the error is measured on.

    Raises:
        WrongUse: No pixel of either has a variance above ROUNDING.

    """
    for seen, kind in ((targets, "training views"), (held_out, "held-out views")):
        if max(float(target.variance.max()) for target in seen) <= ROUNDING:
            raise WrongUse(
                f"The {draws} draws of this bank have the same outputs on all {len(seen)} {kind}, but for rounding: "
                "there is no spread to approximate. Is the network trained? If the bank was recorded of equal images, "
                "or of mini-batches that hold all of them, record another; else give more images, or predict with "
                "--draws 1."
            )


def observe(
    passes: Passes, weights: Tensor, views: Tensor, head: Head, pixels: int, generator: torch.Generator
) -> tuple[list[Target], Tensor]:  # N C H W -> N targets and T N*P*K
    """The moments of a bank's passes over each view, and their probabilities at random pixels of each."""
    taken = torch.randint(views.shape[-2] * views.shape[-1], (len(views), 1, pixels), device="cpu", generator=generator)
    moments, kept = DrawMoments(head, ("square",)), []
    for weight, logits in zip(weights.tolist(), passes(views), strict=True):
        p = probabilities(logits, head)
        moments.update(p, weight)
        places = taken.expand(-1, p.shape[1], -1).to(p.device)
        kept.append(p.flatten(2).gather(2, places).transpose(1, 2).flatten().cpu())  # N * P * K
    parts = views, moments.mean, moments.variance
    return [Target(*(of[number : number + 1] for of in parts)) for number in range(len(views))], torch.stack(kept)
