"""A triage on labelled images: what was accepted, what was wrong in that, and whether the promise held."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binomtest

from segment.guarantees.calibrate import ValidationImages, losses_by_measure
from segment.guarantees.control import complement
from segment.guarantees.losses import Losses, numbered
from segment.guarantees.sentences import too_much
from segment.guarantees.sets import score_bins
from segment.guarantees.triage import Decision, Sets, TriagePlan, percent
from segment.scores.functional.binning import Floats
from segment.scores.intervals import middle_95, poisson_weights
from segment.significance.paired import LEAST


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One decision on labelled images; every share within 0..1.

    images, groups: that have what the loss is of. accepted: share of labelled pixels, or of the images; loss: of the
    images. Both are means over groups; loss_interval: 95 %, over them (None: too few). error: wrong pixels among all
    that is accepted, whatever the loss is (of whole images, the mean share of them); None where nothing is accepted
    bad: groups above the limit, with the exact 95 % interval of their share: by their loss, or where the guarantee is
    for most images and the loss is of wrong pixels, by what is wrong among all that they have accepted
    """

    unit: str
    measure: str
    threshold: float | None
    limit: float
    images: int
    groups: int
    accepted: float
    loss: float
    loss_interval: tuple[float, float] | None
    error: float | None
    bad: int
    bad_interval: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Prediction sets on labelled images: the mean share of an image's pixels whose true class is in its set.

    interval: 95 %, over images or groups; None: too few
    """

    asked: float
    images: int
    groups: int
    found: float
    interval: tuple[float, float] | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        spread = f" ({percent(self.interval[0])} to {percent(self.interval[1])})" if self.interval else ""
        return (
            f"The sets hold the true class of {percent(self.found)}{spread} of the pixels of known classes, where "
            f"{percent(self.asked)} is promised."
        )


def coverage_of(images: ValidationImages, sets: Sets) -> Coverage | None:
    """What prediction sets cover; None where no image has a known pixel. A bin counts where all of it is covered."""
    inside = score_bins(sets.penalty) <= sets.threshold
    shares = {}
    for identity in images.counts.ids:
        table = images.counts.true_classes(identity)
        if table.any():
            shares[identity] = table[inside].sum() / table.sum()
    if not shares:
        return None
    groups = numbered(list(shares), images.groups)
    of_group = np.bincount(groups, weights=np.array(list(shares.values()))) / np.bincount(groups)
    return Coverage(
        asked=sets.coverage,
        images=len(shares),
        groups=len(of_group),
        found=float(of_group.mean()),
        interval=_interval(of_group),
    )


@dataclass(frozen=True)
class ImageOutcome:
    """One image: the share of its pixels that is accepted, the share of these that is wrong, and whether it passes.

    accepted: None where it has nothing that the loss is of; error: None also where nothing is accepted
    """

    id: str
    accepted: float | None
    error: float | None
    decision: str


def outcome_of(images: ValidationImages, plan: TriagePlan, decision: Decision) -> Outcome:
    """What a decision does on images; those without what the loss is of are left out."""
    losses = _at_threshold(images, plan, decision)
    groups = numbered(losses.ids, images.groups)
    count = int(groups.max(initial=-1)) + 1
    loss = losses.mean_losses(groups)[:, 0] if count else np.zeros(0)
    above = losses.bad(plan.max_error, groups)[:, 0] if plan.guarantee == "images" else loss > plan.max_error + 1e-12
    bad = int(above.sum()) if count else 0
    wrong = _wrong(images, plan, decision, losses)
    kept = float(wrong.kept.sum())
    interval = binomtest(bad, count).proportion_ci(0.95, method="exact") if count else None
    return Outcome(
        unit=decision.unit,
        measure=decision.measure,
        threshold=decision.threshold,
        limit=plan.max_error,
        images=len(losses.ids),
        groups=count,
        accepted=float(losses.mean_accepted(groups)[:, 0].mean()) if count else 0.0,
        loss=float(loss.mean()) if count else 0.0,
        loss_interval=_interval(loss),
        error=float(wrong.lost.sum()) / kept if kept else None,
        bad=bad,
        bad_interval=None if interval is None else (float(interval.low), float(interval.high)),
    )


def _at_threshold(images: ValidationImages, plan: TriagePlan, decision: Decision) -> Losses:
    """The losses at the decision's threshold alone: one column."""
    losses = losses_by_measure(images, plan, decision.unit)(decision.measure)
    if decision.threshold is None:
        nothing = np.zeros((len(losses.ids), 1))
        return Losses(losses.ids, np.zeros(1), nothing, losses.total, nothing, nothing)
    # thresholds of images are the values that calibrated them: the last of these images' that is not above it
    place = int(np.searchsorted(losses.thresholds, decision.threshold, side="right")) - 1
    if place < 0:
        nothing = np.zeros((len(losses.ids), 1))
        return Losses(losses.ids, np.zeros(1), nothing, losses.total, nothing, nothing)
    column = slice(place, place + 1)
    return Losses(
        losses.ids,
        losses.thresholds[column],
        losses.lost[:, column],
        losses.total,
        losses.kept[:, column],
        losses.accepted[:, column],
    )


def _wrong(images: ValidationImages, plan: TriagePlan, decision: Decision, losses: Losses) -> Losses:
    """The wrong pixels among what is accepted, also where the loss is another: missed pixels of a class, or Dice."""
    plain = replace(plan, protect=None, loss="error")
    return losses if plan == plain else _at_threshold(images, plain, decision)


def _interval(loss: Floats) -> tuple[float, float] | None:
    if len(loss) < LEAST:  # the bootstrap of a few numbers has too narrow an interval
        return None
    weights = np.stack([poisson_weights(f"group {number}") for number in range(len(loss))])  # G R
    used = weights.sum(axis=0) > 0
    low, high = middle_95((loss @ weights[:, used]) / weights[:, used].sum(axis=0))
    return low, high


def images_outcomes(images: ValidationImages, plan: TriagePlan, decisions: dict[str, Decision]) -> list[ImageOutcome]:
    """Every image with what is accepted of it, in the order of the ids, by the asked unit and the images' decision."""
    asked = _at_threshold(images, plan, decisions[plan.unit])
    wrong = _wrong(images, plan, decisions[plan.unit], asked)
    passing = decisions["image"]
    row_of, wrong_row = ({id: row for row, id in enumerate(losses.ids)} for losses in (asked, wrong))
    rows = []
    for identity in images.counts.ids:
        row, accepted, error = row_of.get(identity), None, None
        if row is not None:
            accepted, of = float(asked.accepted[row, 0]), wrong_row.get(identity)
            kept = 0.0 if of is None else float(wrong.kept[of, 0])
            error = float(wrong.lost[of, 0]) / kept if kept else None
        verdict = "accept" if passing.accepts(images.means[passing.measure].get(identity, np.nan)) else "review"
        rows.append(ImageOutcome(identity, accepted, error, verdict))
    return rows


def verdict_of(outcome: Outcome, plan: TriagePlan) -> str:
    """Whether the promise held on these images, in a sentence; chance is judged by the 95 % interval over them."""
    if not outcome.groups:
        return "No image has what the loss is of, so nothing can be said."
    if plan.guarantee == "images":
        limit, value, interval = complement(plan.share), outcome.bad / outcome.groups, outcome.bad_interval
        kind = "images" if outcome.groups == outcome.images else "groups"
        seen = f"{outcome.bad} of {outcome.groups} ({percent(value)}) have {too_much(plan, outcome.unit, kind)}"
    else:
        limit, value, interval = plan.max_error, outcome.loss, outcome.loss_interval
        seen = f"the mean loss is {percent(value)}"
    promised = f"{seen}, where at most {percent(limit)} is promised"
    if value <= limit:
        return f"Kept: {promised}."
    if interval is None:
        return f"Above the limit: {promised}. Below {LEAST} images or groups nobody can say whether that is chance."
    if interval[0] <= limit:
        return f"Above the limit, but within chance: {promised}."
    unlucky = (
        "the promise is an average over validation sets, and this one was an unlucky draw"
        if plan.guarantee == "expectation"
        else "the confidence left this open"
    )
    return (
        f"Above the limit beyond chance: {promised}. These images are not like those that calibrated it, or {unlucky}."
    )
