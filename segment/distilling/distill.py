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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from segment.axes import Head
from segment.distilling.choose import Chosen, Moments, choose
from segment.distilling.refine import Draws, Progress, Refinement, RefinePlan, Student, Target, refine
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.passes.passes import Passes, PassPlan
from segment.tracing.bn_layers import BatchNormNetwork
from segment.uncertainty.heads import probabilities
from segment.uncertainty.moments import DrawMoments

FAST = PassPlan(channels_last=True, fuse=True)


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

    targets: to learn from; held_out: of other images; products: of the draws' features on the targets (T T)
    """

    targets: Sequence[Target]
    held_out: Sequence[Target]
    products: Tensor


def observe_views(
    network: BatchNormNetwork,
    bank: Bank,
    views: Sequence[Tensor],
    held_out: Sequence[Tensor],
    head: Head,
    plan: DistillPlan,
    progress: Progress = lambda stage, done, total: None,
) -> Observed:
    """Pass all draws of a bank over views.

    views, held_out: of training images, each (1 C H W), no image in both; as the network sees them in training
    Errors: as `distill`; WrongUse without views.
    """
    _check(bank, plan)
    if not views or not held_out:
        raise WrongUse("Distilling needs views to learn from and held-out ones; give two images or more.")
    generator = torch.Generator().manual_seed(plan.seed)
    passes, moments = Passes(network, bank, FAST), Moments(len(bank))
    targets = []
    for number, view in enumerate((*views, *held_out), start=1):
        target, sampled = observe(passes, bank.weights, view, head, plan.pixels, generator)
        targets.append(target)
        if number <= len(views):
            moments.add(sampled)
        progress("passing the bank", number, len(views) + len(held_out))
    return Observed(targets[: len(views)], targets[len(views) :], moments.products())


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
    chosen = choose(observed.products, plan.draws, generator)
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
    passes: Passes, weights: Tensor, view: Tensor, head: Head, pixels: int, generator: torch.Generator
) -> tuple[Target, Tensor]:  # -> and T P*K
    """The moments of a bank's passes over a view (1 C H W), and their probabilities at random pixels."""
    taken = torch.randint(view.shape[-2] * view.shape[-1], (pixels,), generator=generator)
    moments, kept = DrawMoments(head, ("square",)), []
    for weight, logits in zip(weights.tolist(), passes(view), strict=True):
        p = probabilities(logits, head)
        moments.update(p, weight)
        kept.append(p.flatten(2)[0][:, taken.to(p.device)].T.flatten().cpu())  # P * K
    return Target(view, moments.mean, moments.variance), torch.stack(kept)
