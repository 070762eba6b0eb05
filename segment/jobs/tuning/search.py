"""Arms of a search for a setting: their passes over validation images, counted, and halved rung by rung.

Must not know which setting is chosen in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segment.draws.bank import Bank
from segment.errors import FastPathDiffers, error_message
from segment.estimation.together import IMAGE_ERRORS
from segment.images.find import Source
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import MethodPlan, build_methods
from segment.jobs.evaluation.labels import Labelled, read_labelled
from segment.jobs.progress import Progress
from segment.methods.augmentation import View
from segment.methods.method import Method
from segment.networks.load import Network
from segment.scores.arrays import checked_known
from segment.scores.plan import ScorePlan
from segment.tracing.pass_memory import ran_out_of_memory
from segment.tuning.choice import halving_loss
from segment.tuning.halving import rungs
from segment.tuning.samples import Samples, in_common

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchPlan:
    """How passes are made: the most of a map, the views, the precision; void: the label id that does not count."""

    passes: int
    views: tuple[View, ...]
    precision: str
    void: int | None


@dataclass(frozen=True)
class Arm:
    """A way to make passes: a bank under plain images or views."""

    name: str
    method: str
    bank: Bank | None
    augmented: bool


class Search:
    """Makes the samples of arms, and counts their passes. failed: id -> why an image cannot be used."""

    def __init__(self, network: Network, sources: Sequence[Source], plan: SearchPlan, progress: Progress) -> None:
        self.network, self.sources, self.plan, self.progress = network, sources, plan, progress
        card = network.card
        void = card.void if plan.void is None else plan.void
        self.scored = ScorePlan(classes=network.class_names, head=card.head, void=void, unseen=card.unseen)
        self.passes = 0
        self.failed: dict[str, str] = {}

    def method(self, arm: Arm, draws: int | None) -> Method:
        """Its passes, of the first draws of its bank."""
        bank = arm.bank if draws is None or arm.bank is None else arm.bank.first(min(draws, len(arm.bank)))
        plan = MethodPlan(methods=(arm.method,), precision=self.plan.precision, views=self.plan.views)
        (method, *_) = build_methods(self.network, [bank] if bank is not None else [], plan).methods[arm.method]
        return method

    def samples(self, arm: Arm, sources: Sequence[Source], draws: int | None, *, keep: bool) -> Samples:
        """The arm on some images, with some draws (None: all)."""
        method = self.method(arm, draws)
        while True:  # until no fast path differs, which each of the method's passes may find once
            try:
                return self._samples(arm, method, sources, keep=keep)
            except FastPathDiffers as error:
                log.warning("%s is tried again on all images: %s", arm.name, error)

    def _samples(self, arm: Arm, method: Method, sources: Sequence[Source], *, keep: bool) -> Samples:
        banked = keep and combination(arm.method).banked and not distilled(arm)
        prefixes = _prefixes(method.draws, len(self.plan.views) if arm.augmented else 1) if banked else (method.draws,)
        made = Samples(self.network.card.head, prefixes)
        usable = [source for source in sources if source.id not in self.failed]
        for number, item in enumerate(read_labelled(usable, self.network), start=1):
            if item.error:
                self._fail(item.source.id, item.error)
            else:
                why = self._add(made, item, method, keep=keep)
                if why:
                    made.failed[item.source.id] = why
                self.passes += method.draws
            self.progress(f"trying {arm.name}", number, len(usable))
        return made

    def _add(self, made: Samples, item: Labelled, method: Method, *, keep: bool) -> str:
        """Add an image's passes, with fewer draws in a pass where memory runs out; or why that cannot be done."""
        while True:
            try:
                known = checked_known(item.source.id, self.scored, item.label)
                image = item.normalised(self.network)[None]
                made.add(item.source.id, method, image, item.label, known, keep=keep)
            except IMAGE_ERRORS as error:
                if ran_out_of_memory(error) and method.halve():
                    continue
                height, width = item.size
                return f"{height} x {width} image: {error_message(error)}"
            return ""

    def _fail(self, identity: str, why: str) -> None:
        log.warning("%s: no setting is compared on it. %s", identity, why)
        self.failed[identity] = why

    def compared(self, arms: Mapping[str, Samples]) -> dict[str, Samples]:
        """The samples of arms on the images that all have; the others are failed. Without an arm that lacks half."""
        common = in_common(arms)
        for name, samples in common.items():
            for id, why in samples.failed.items():
                if id not in self.failed:
                    self._fail(id, f"{name}: {why}")
        return common

    def halve(self, arms: Sequence[Arm], reserved: int) -> tuple[Arm | None, list[dict[str, Any]]]:
        """The arm that is left, and those that fell out, `nll` None where too many images failed under one."""
        left, dropped = list(arms), []
        usable = [source for source in self.sources if source.id not in self.failed]
        steps = rungs(len(left), len(usable), self.plan.passes, reserved)
        for number, rung in enumerate(steps[:-1]):
            stride = max(1, len(usable) // rung.images)
            some = usable[stride // 2 :: stride][: rung.images]
            made = {}
            for arm in left:
                draws = None if distilled(arm) else max(rung.draws, len(self.plan.views) if arm.augmented else 1)
                made[arm.name] = self.samples(arm, some, draws, keep=False)
            common = self.compared(made)
            losses = {
                name: halving_loss(samples, samples.prefixes[-1]) for name, samples in common.items() if samples.images
            }
            place = {"images": len(some), "draws": rung.draws}
            if common:
                dropped += [unfit(name, made[name], place) for name in made if name not in common]
            ordered = sorted((arm for arm in left if arm.name in losses), key=lambda arm: losses[arm.name])
            following = steps[number + 1].arms
            for arm in ordered[following:]:
                dropped.append({"arm": arm.name, **place, "nll": losses[arm.name]})
            left = ordered[:following] or left[:following]
        return (left[0] if left else None), dropped


def unfit(name: str, samples: Samples, place: Mapping[str, int]) -> dict[str, Any]:
    """An arm that falls out because images failed under it, as `halve` gives it; place: its images and draws."""
    why = f"{len(samples.failed)} images failed. {next(iter(samples.failed.values()), '')}"
    log.warning("%s falls out of the search: %s", name, why)
    return {"arm": name, **place, "nll": None, "why": why}


def distilled(arm: Arm) -> bool:
    return arm.bank is not None and arm.bank.distilled


def _prefixes(draws: int, views: int) -> tuple[int, ...]:
    """1, 2, 4, ... passes of each view, and all.

    >>> _prefixes(12, 1), _prefixes(16, 2)
    ((1, 2, 4, 8, 12), (2, 4, 8, 16))
    """
    powers = [views * 2**power for power in range(draws.bit_length()) if views * 2**power < draws]
    return (*powers, draws)
