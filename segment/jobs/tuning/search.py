"""Arms of a search for a setting: their passes over validation images, counted, and halved rung by rung.

Must not know which setting is chosen in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segment.draws.bank import Bank
from segment.errors import FastPathDiffers, OutOfMemory, ran_out_of_memory
from segment.estimation.background import pixel_limit
from segment.estimation.estimate import ReadOut
from segment.estimation.estimator import Estimator
from segment.estimation.failures import IMAGE_ERRORS, reason_of
from segment.estimation.memory_budget import (
    BYTES_BESIDE_PASSES,
    KERNEL_FACTOR,
    Memory,
    bytes_text,
    memory_budget,
    release_freed_pages,
)
from segment.estimation.plan import EstimatePlan
from segment.images.find import Source
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import MethodPlan, build_methods
from segment.jobs.evaluation.scoring import SCORING
from segment.jobs.evaluation.temperatures import MISSED
from segment.jobs.labelled.labels import Labelled, read_labelled, score_plan
from segment.jobs.progress import Progress
from segment.methods.augmentation import View
from segment.methods.method import Method
from segment.networks.load import Network
from segment.scores.arrays import checked_known
from segment.tuning.choice import halving_loss
from segment.tuning.halving import rungs
from segment.tuning.samples import PIXELS, MethodSamples, in_common

log = logging.getLogger(__name__)

PLANNED = ("predictive_entropy",)
"""A measure, for plans of passes whose outputs are read pixel by pixel."""

VOID = "none of its pixels has a known label: all of them are void"
FLOAT = 4
"""Bytes of a logit."""


@dataclass(frozen=True)
class SearchPlan:
    """How passes are made: the most of a map, the views, the precision; void: the label id that does not count.

    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free
    """

    passes: int
    views: tuple[View, ...]
    precision: str
    void: int | None
    memory: Memory = None


@dataclass(frozen=True)
class Arm:
    """A way to make passes: a bank under plain images or views."""

    name: str
    method: str
    bank: Bank | None
    augmented: bool


class Search:
    """Makes the samples of arms, and counts their passes.

    failed: id -> why an image cannot be used. needed: bytes of the largest pass for which there was no memory, or 0
    """

    def __init__(self, network: Network, sources: Sequence[Source], plan: SearchPlan, progress: Progress) -> None:
        self.network, self.sources, self.plan, self.progress = network, sources, plan, progress
        self.scored = score_plan(network, plan.void)
        self.passes = 0
        self.failed: dict[str, str] = {}
        self.needed = 0.0

    def method(self, arm: Arm, draws: int | None) -> Method:
        """The passes of an arm, of the first draws of its bank."""
        bank = arm.bank if draws is None or arm.bank is None else arm.bank.first(min(draws, len(arm.bank)))
        plan = MethodPlan(methods=(arm.method,), precision=self.plan.precision, views=self.plan.views)
        (method, *_) = build_methods(self.network, [bank] if bank is not None else [], plan).methods[arm.method]
        return method

    def samples(self, arm: Arm, sources: Sequence[Source], draws: int | None, *, keep: bool) -> MethodSamples:
        """The arm on some images, with some draws (None: all)."""
        method = self.method(arm, draws)
        while True:  # until no fast path differs, which each of the method's passes may find once
            try:
                return self._samples(arm, method, sources, keep=keep)
            except FastPathDiffers as error:
                log.warning("%s is tried again on all images: %s", arm.name, error)

    def _samples(self, arm: Arm, method: Method, sources: Sequence[Source], *, keep: bool) -> MethodSamples:
        views = len(self.plan.views) if arm.augmented else 1
        prefixes = _prefixes(method.draws, views) if keep and _of_first_draws(arm) else (method.draws,)
        made = MethodSamples(self.network.card.head, prefixes)
        usable = [source for source in sources if source.id not in self.failed]
        plan = self._estimate_plan(len(usable) * method.draws if keep else 0)
        planned = Estimator(self.network, {arm.name: ReadOut(method=method, measures=PLANNED)}, plan)
        waiting_pixels = pixel_limit(plan.budget, BYTES_BESIDE_PASSES + SCORING)
        images = read_labelled(usable, self.network, self.scored.void, waiting_pixels=waiting_pixels)
        for number, item in enumerate(images, start=1):
            if item.error:
                self._fail(item.source.id, item.error)
            else:
                planned, why = self._add(made, item, method, planned, keep=keep)
                if why:
                    made.failed[item.source.id] = why
                self.passes += method.draws
            self.progress(f"trying {arm.name}", number, len(usable))
        return made

    def _estimate_plan(self, kept: int) -> EstimatePlan:
        """The memory that passes may take now. kept: passes of an image whose logits are going to be kept."""
        release_freed_pages()  # those of the passes before, which would count as held
        budget = memory_budget(self.plan.memory, self.network.device)
        if self.network.device.type == "cpu":  # they are kept there, also where passes are made on a GPU
            budget = budget.without(min(budget.free, kept * self.network.classes * PIXELS * FLOAT))
        return EstimatePlan(tile="off", budget=budget, beside=SCORING)

    def _add(
        self, made: MethodSamples, item: Labelled, method: Method, planned: Estimator, *, keep: bool
    ) -> tuple[Estimator, str]:
        """Add an image's passes, with fewer draws in a pass where memory is short; or why that cannot be done.

        Returns:
            What plans the next image's passes; why, or "".

        """
        height, width = item.size
        while True:
            try:
                if not _goes_whole(planned, height, width):
                    if method.halve():  # what a pass takes is measured anew
                        planned = Estimator(planned.network, planned.read_outs, planned.plan)
                        continue
                    needed = height * width * KERNEL_FACTOR * planned.pixel
                    self.needed = max(self.needed, needed)
                    return planned, (
                        f"{height} x {width} image: a pass over the whole of it takes about {bytes_text(needed)}, for "
                        "which there is no memory, and settings are compared on whole images."
                    )
                known = checked_known(item.source.id, self.scored, item.label)
                image = item.normalised(self.network)[None]
                if not made.add(item.source.id, method, image, item.label, known, keep=keep):
                    return planned, f"{height} x {width} image: {MISSED if known.any() else VOID}."
            except IMAGE_ERRORS as error:
                if ran_out_of_memory(error) and method.halve():
                    continue
                return planned, f"{height} x {width} image: {reason_of(error)}"
            return planned, ""

    def _fail(self, identity: str, why: str) -> None:
        log.warning("%s: no setting is compared on it. %s", identity, why)
        self.failed[identity] = why

    def compared(self, arms: Mapping[str, MethodSamples]) -> dict[str, MethodSamples]:
        """The samples of arms on the images that all have; the others are failed. Without an arm that lacks half."""
        common = in_common(arms)
        for name, samples in common.items():
            for id, why in samples.failed.items():
                if id not in self.failed:
                    self._fail(id, f"{name}: {why}")
        return common

    def halve(self, arms: Sequence[Arm], reserved: int) -> tuple[Arm | None, list[dict[str, Any]]]:
        """The arm that is left, and those that fell out, `nll` None where too many images failed under one.

        All arms of a rung make as many passes, but for those whose banks have fewer draws, and for distilled banks,
        whose draws belong together.
        """
        left, dropped = list(arms), []
        usable = [source for source in self.sources if source.id not in self.failed]
        fewest = len(self.plan.views) if any(arm.augmented for arm in left) else 1
        steps = rungs(len(left), len(usable), self.plan.passes, reserved, fewest)
        for number, rung in enumerate(steps[:-1]):
            stride = max(1, len(usable) // rung.images)
            some = usable[stride // 2 :: stride][: rung.images]
            made = {}
            for arm in left:
                made[arm.name] = self.samples(arm, some, None if distilled(arm) else rung.draws, keep=False)
            common = self.compared(made)
            losses = {
                name: halving_loss(samples, samples.prefixes[-1]) for name, samples in common.items() if samples.images
            }
            places = {name: {"images": len(some), "draws": samples.prefixes[-1]} for name, samples in made.items()}
            if common:
                dropped += [unfit(name, made[name], places[name]) for name in made if name not in common]
            ordered = sorted((arm for arm in left if arm.name in losses), key=lambda arm: losses[arm.name])
            following = steps[number + 1].arms
            for arm in ordered[following:]:
                dropped.append({"arm": arm.name, **places[arm.name], "nll": losses[arm.name]})
            left = ordered[:following] or left[:following]
        return (left[0] if left else None), dropped


def _goes_whole(planned: Estimator, height: int, width: int) -> bool:
    """Whether an image of that size goes through within the budget in one piece."""
    try:
        planned.side_for(height, width)
    except OutOfMemory:  # what it advises is for those who may choose tiles
        return False
    return True


def unfit(name: str, samples: MethodSamples, place: Mapping[str, int]) -> dict[str, Any]:
    """An arm that falls out because images failed under it, as `halve` gives it; place: its images and draws."""
    why = f"{len(samples.failed)} images failed. {next(iter(samples.failed.values()), '')}"
    log.warning("%s falls out of the search: %s", name, why)
    return {"arm": name, **place, "nll": None, "why": why}


def distilled(arm: Arm) -> bool:
    return arm.bank is not None and arm.bank.distilled


def _of_first_draws(arm: Arm) -> bool:
    """Whether the first passes weigh as those of a bank of the first draws alone, so that they are scored too.

    Views have one total weight, whatever the draws that they share out: with unequal draws first ones weigh otherwise.
    """
    if arm.bank is None or arm.bank.distilled or not combination(arm.method).banked:
        return False
    return not arm.augmented or bool((arm.bank.weights == arm.bank.weights[0]).all())


def _prefixes(draws: int, views: int) -> tuple[int, ...]:
    """1, 2, 4, ... passes of each view, and all.

    >>> _prefixes(12, 1), _prefixes(16, 2)
    ((1, 2, 4, 8, 12), (2, 4, 8, 16))
    """
    powers = [views * 2**power for power in range(draws.bit_length()) if views * 2**power < draws]
    return (*powers, draws)
