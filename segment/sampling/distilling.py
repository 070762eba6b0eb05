"""A bank of T draws to K weighted ones whose passes have the same moments.

First a choice: K of the T draws, with weights, match the first two moments of the class probabilities over training
views. Then a refinement: Adam moves the statistics of the chosen draws, through the network, until their weighted mean
and variance are nearest to the bank's; views of images that took no part in it decide which step is kept.

What decides is how many views there are, not how exactly the bank is known on each: only the views of the choice are
passed by all T draws, each of the others by some of them, drawn anew for each view, so that what these draws get wrong
is another thing on the next view and averages out.

A refined draw belongs to no mini-batch. Must not know a file, nor where the views come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from segment.axes import Head
from segment.draws.bank import Bank
from segment.errors import WrongUse
from segment.networks.batchnorm import BatchNormNetwork
from segment.sampling.choosing import Chosen, choose
from segment.sampling.passes import Passes, PassPlan
from segment.sampling.refining import Draws, RefinePlan, Student, Target, Told, refine
from segment.uncertainty.heads import probabilities
from segment.uncertainty.moments import DrawMoments

FAST = PassPlan(channels_last=True, fuse=True)


@dataclass(frozen=True, kw_only=True)
class DistillPlan:
    """How a bank is distilled.

    draws: K, a count from 1 up; seed: of every random choice
    choosing: views that all T draws pass, for the choice; pixels: of each, that the choice looks at
    sampled: draws of the bank that pass each of the other views; refine: how the draws are moved
    """

    draws: int = 8
    seed: int = 0
    choosing: int = 16
    pixels: int = 256
    sampled: int = 64
    refine: RefinePlan = field(default_factory=RefinePlan)

    def __post_init__(self) -> None:
        least = {"draws": 1, "seed": 0, "choosing": 1, "pixels": 1, "sampled": 2}
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


def distill(
    network: BatchNormNetwork, bank: Bank, views: Sequence[Tensor], held_out: Sequence[Tensor], head: Head,
    plan: DistillPlan | None = None, told: Told = lambda stage, done, total: None,
) -> Distilled:  # fmt: skip
    """Choose K draws of a bank and refine them.

    views, held_out: of training images, each (1 C H W), no image in both; as the network sees them in training
    Errors: WrongUse where the bank is distilled already or has no more draws than are asked.
    """
    plan = plan or DistillPlan()
    if bank.distilled:
        raise WrongUse("This bank is distilled already; distill the one that it was made from.")
    if plan.draws >= len(bank):
        raise WrongUse(f"{plan.draws} draws were asked of a bank of {len(bank)}: distilling leaves fewer.")
    if not views or not held_out:
        raise WrongUse("Distilling needs views to learn from and others to be held against; give two images or more.")
    generator = torch.Generator().manual_seed(plan.seed)
    first = views[: plan.choosing]
    targets, seen = observe(network, bank, first, head, plan.pixels, generator, told)
    chosen = choose(features(seen), plan.draws, generator)
    reference, _ = observe(network, bank, held_out, head, 1, generator, told)
    student = Student(network, head)
    draws = Draws(bank, chosen, network.device)
    before = student.error(draws, reference)
    if plan.refine.steps == 0:
        return Distilled(draws.bank(bank), chosen, before, before, 0)
    targets += sample(network, bank, views[plan.choosing :], head, plan.sampled, generator, told)
    step, error = refine(student, draws, targets, reference, before, plan.refine, generator, told)
    return Distilled(draws.bank(bank), chosen, before, error, step)


def observe(
    network: BatchNormNetwork, bank: Bank, views: Sequence[Tensor], head: Head, pixels: int,
    generator: torch.Generator, told: Told = lambda stage, done, total: None,
) -> tuple[list[Target], Tensor]:  # fmt: skip
    """Every pass of the bank over each view: the moments, and the probabilities at some pixels (T, V, P * K)."""
    passes = Passes(network, bank, FAST)
    targets, seen = [], []
    for number, view in enumerate(views, start=1):
        size = view.shape[-2] * view.shape[-1]
        taken = torch.randint(size, (pixels,), generator=generator).to(network.device)
        moments, kept = DrawMoments(head, ("square",)), []
        for weight, logits in zip(bank.weights.tolist(), passes(view), strict=True):
            p = probabilities(logits, head)
            moments.update(p, weight)
            kept.append(p.flatten(2)[0][:, taken].T.flatten().cpu())  # P * K
        targets.append(Target(view, moments.mean, moments.variance))
        seen.append(torch.stack(kept))
        told("passing the bank", number, len(views))
    return targets, torch.stack(seen, dim=1)


def sample(
    network: BatchNormNetwork, bank: Bank, views: Sequence[Tensor], head: Head, draws: int,
    generator: torch.Generator, told: Told = lambda stage, done, total: None,
) -> list[Target]:  # fmt: skip
    """As `observe`, under other random draws for each view; on average the variance is that of the whole bank."""
    if draws >= len(bank) and views:
        return observe(network, bank, views, head, 1, generator, told)[0]
    targets = []
    for number, view in enumerate(views, start=1):
        picked = torch.multinomial(bank.weights, draws, replacement=True, generator=generator)
        part = replace(
            bank, weights=torch.full((draws,), 1.0 / draws),
            mean={name: value[picked] for name, value in bank.mean.items()},
            var={name: value[picked] for name, value in bank.var.items()},
        )  # fmt: skip
        moments = DrawMoments(head, ("square",))
        for logits in Passes(network, part, FAST)(view):
            moments.update(probabilities(logits, head))
        targets.append(Target(view, moments.mean, moments.variance * (draws / (draws - 1))))
        told("passing some of its draws", number, len(views))
    return targets


def features(seen: Tensor) -> Tensor:  # T V P*K -> T F
    """Of each draw, p and (p - mean)^2: their weighted means are the moments that the choice is to match.

    The first moments count a third of the second, each in units of its own spread over the draws.
    """
    seen = seen.flatten(1)
    first = seen - seen.mean(dim=0)
    second = first**2 - (first**2).mean(dim=0)
    sizes = [part.square().sum(dim=1).mean().sqrt().clamp(min=1e-12) for part in (first, second)]
    return torch.cat([first / sizes[0] / 3, second / sizes[1]], dim=1)
