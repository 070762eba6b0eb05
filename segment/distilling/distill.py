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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from segment.axes import Head
from segment.distilling.choose import Chosen, Moments, choose
from segment.distilling.refine import Draws, Progress, Refinement, RefinePlan, Student, Target, refine
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.passes.passes import Passes, PassPlan
from segment.tracing.batch_independence import mixing_call
from segment.tracing.bn_layers import BatchNormNetwork
from segment.uncertainty.heads import probabilities
from segment.uncertainty.moments import DrawMoments

FAST = PassPlan(channels_last=True, fuse=True)
TOGETHER = 4
"""Views in a pass at most: on the CamVid U-Net an image then takes three quarters of the time."""


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """How a bank is distilled.

    draws: K, a count from 1 up; seed: of every random choice
    pixels: of each view, that the choice uses; refine: how the draws are optimised
    """

    draws: int = 8
    seed: int = 0
    pixels: int = 64
    refine: RefinePlan = field(default_factory=RefinePlan)

    def __post_init__(self) -> None:
        least = {"draws": 1, "seed": 0, "pixels": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise WrongUse(f"{name} = {getattr(self, name)}, but it is an integer from {value} up.")


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

    targets: to learn from; held_out: of other images; moments: of the draws on the targets
    """

    targets: list[Target]
    held_out: list[Target]
    moments: Moments


def observe_views(
    network: BatchNormNetwork,
    bank: Bank,
    views: Sequence[Tensor],
    held_out: Sequence[Tensor],
    head: Head,
    plan: DistillPlan,
    progress: Progress = lambda stage, done, total: None,
) -> Observed:
    """Pass all draws of a bank over views; several in a pass, where the network keeps the images of a batch apart.

    views, held_out: of training images, each (1 C H W), no image in both; as the network sees them in training
    Errors: as `distill`; WrongUse without views.
    """
    _check(bank, plan)
    if not views or not held_out:
        raise WrongUse("Distilling needs views to learn from and held-out ones; give two images or more.")
    generator = torch.Generator().manual_seed(plan.seed)
    pair = torch.cat([views[0], views[0]]).to(network.device)
    most = 1 if mixing_call(network.module, network.module, pair) else TOGETHER
    passes, moments = Passes(network, bank, FAST), Moments(len(bank))
    seen = Observed([], [], moments)
    for targets, part, pixels in ((seen.targets, views, plan.pixels), (seen.held_out, held_out, 0)):
        for together in _of_one_size(part, most):
            found, sampled = observe(passes, bank.weights, torch.cat(together), head, pixels, generator)
            targets.extend(found)
            moments.add(sampled)
            progress("passing the bank", len(seen.targets) + len(seen.held_out), len(views) + len(held_out))
    return seen


def _of_one_size(views: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Views that follow each other and have one size, at most so many."""
    for _, same in groupby(views, key=lambda view: view.shape):
        several = list(same)
        yield from (several[start : start + most] for start in range(0, len(several), most))


def distill(
    network: BatchNormNetwork,
    bank: Bank,
    observed: Observed,
    head: Head,
    plan: DistillPlan | None = None,
    progress: Progress = lambda stage, done, total: None,
    begun: Mapping[str, Tensor] | None = None,
    keep: Callable[[Mapping[str, Tensor]], object] = lambda _: None,
) -> Distilled:
    """Choose K draws of a bank and refine them.

    observed: by `observe_views`, of this network and bank
    begun: a state that `keep` was called with, in a call with the same arguments: refining goes on from there
    Errors: WrongUse where the bank is distilled already or has no more draws than K.
    """
    plan = plan or DistillPlan()
    _check(bank, plan)
    generator = torch.Generator().manual_seed(plan.seed)
    chosen = choose(observed.moments.products(), plan.draws, generator)
    student = Student(network, head)
    draws = Draws(bank, chosen, network.device)
    before = student.error(draws, observed.held_out)
    if plan.refine.steps == 0:
        return Distilled(draws.bank(bank), chosen, before, before, 0)
    refinement = Refinement(draws, plan.refine, generator, before)
    if begun is not None:
        refinement.load(begun)
    refine(student, refinement, observed.targets, observed.held_out, progress, keep)
    return Distilled(draws.bank(bank), chosen, before, refinement.best, refinement.kept)


def _check(bank: Bank, plan: DistillPlan) -> None:
    if bank.distilled:
        raise WrongUse("This bank is distilled already; distill the one that it was made from.")
    if plan.draws >= len(bank):
        raise WrongUse(f"{plan.draws} draws were asked of a bank of {len(bank)}: distilling leaves fewer.")


def observe(
    passes: Passes, weights: Tensor, views: Tensor, head: Head, pixels: int, generator: torch.Generator
) -> tuple[list[Target], Tensor]:  # N C H W -> N targets and T N*P*K
    """The moments of a bank's passes over each view, and their probabilities at random pixels of each."""
    taken = torch.randint(views.shape[-2] * views.shape[-1], (len(views), 1, pixels), generator=generator)
    moments, kept = DrawMoments(head, ("square",)), []
    for weight, logits in zip(weights.tolist(), passes(views), strict=True):
        p = probabilities(logits, head)
        moments.update(p, weight)
        places = taken.expand(-1, p.shape[1], -1).to(p.device)
        kept.append(p.flatten(2).gather(2, places).transpose(1, 2).flatten().cpu())  # N * P * K
    found = views, moments.mean, moments.variance
    return [Target(*(of[number : number + 1] for of in found)) for number in range(len(views))], torch.stack(kept)
