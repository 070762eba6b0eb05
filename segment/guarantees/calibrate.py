"""Counts of validation images to thresholds with a guarantee: which measure, which threshold, and a refusal in words.

The unit of every guarantee is the image, or the group that images belong to; pixels of an image are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse, near
from segment.guarantees import control, sets
from segment.guarantees.counts import ImageCounts
from segment.guarantees.losses import Losses, image_losses, losses_of_images, losses_of_pixels, numbered
from segment.guarantees.sentences import nothing_for_most, nothing_on_average, too_few
from segment.guarantees.triage import Decision, Reference, Sets, TriagePlan, Unit, percent
from segment.scores.functional.binning import Floats, Ints

PRESET = ("one_minus_max", "predictive_entropy")
"""The measure where too few images are there to choose one."""
HALF = 4
"""A half is enough to choose on where the other half is this many times the fewest images that a guarantee takes."""
START = 0.1
"""Share of the pixels that the first threshold of a second sequence accepts."""
SHIFT_MEASURE = "mutual_information"


@dataclass(frozen=True)
class ValidationImages:
    """The images of an evaluation.

    counts: of one method. means: measure -> id -> its mean over the image, none of an image without data. dice: id ->
    of the mask, None where it is not defined. groups: id -> group (a video, a patient); None: every image is its own
    """

    counts: ImageCounts
    means: Mapping[str, Mapping[str, float]]
    dice: Mapping[str, float | None]
    groups: Mapping[str, str] | None = None

    def of(self, ids: Collection[str]) -> ValidationImages:
        """Some of the images."""
        means = {name: {i: of_image[i] for i in ids if i in of_image} for name, of_image in self.means.items()}
        groups = None if self.groups is None else {i: self.groups[i] for i in ids}
        return ValidationImages(self.counts.of_images(ids), means, {i: self.dice[i] for i in ids}, groups)

    @property
    def kind(self) -> str:
        """What the guarantee counts."""
        return "images" if self.groups is None else "groups"


def calibrate_unit(images: ValidationImages, plan: TriagePlan, unit: Unit) -> Decision:
    """The decision of one unit. Errors: WrongUse for an unknown class or measure, or too few images."""
    measures = images.counts.plan.measures
    losses_of = losses_by_measure(images, plan, unit)
    if plan.measure is not None and plan.measure not in measures:
        raise WrongUse(f"No measure {plan.measure!r} was scored.{near(plan.measure, measures)} {_known(measures)}")
    ids = losses_of(measures[0]).ids
    groups = numbered(ids, images.groups)
    count = int(groups.max(initial=-1)) + 1
    if count < plan.needed:
        raise WrongUse(too_few(count, plan, images.kind, images=len(ids)))
    used: NDArray[np.bool_] = np.ones(len(ids), dtype=bool)
    if plan.measure is not None:
        measure, why = plan.measure, "asked for"
    else:
        measure, why, used = _chosen(losses_of, measures, plan, groups, count, images.kind)
    losses = losses_of(measure).of(used)
    return _decided(losses, plan, numbered(losses.ids, images.groups), unit, measure, why, images.kind)


def _known(measures: tuple[str, ...]) -> str:
    return f"Scored: {', '.join(measures)}."


def losses_by_measure(images: ValidationImages, plan: TriagePlan, unit: Unit) -> Callable[[str], Losses]:
    counts = images.counts
    protected = None
    if plan.protect is not None:
        classes = counts.plan.classes
        if plan.protect not in classes:
            raise WrongUse(
                f"No class is called {plan.protect!r}.{near(plan.protect, classes)} Known: {', '.join(classes)}."
            )
        protected = classes.index(plan.protect)
    if unit != "image":
        return lambda measure: losses_of_pixels(counts, unit, measure, protected)
    if plan.loss == "dice":
        of_image = {i: None if dice is None else 1 - dice for i, dice in images.dice.items()}
    else:
        of_image = image_losses(counts, protected)
    of_accepted = plan.loss == "error" and protected is None
    return lambda measure: losses_of_images(counts, images.means[measure], of_image, of_accepted=of_accepted)


def _chosen(
    losses: Callable[[str], Losses], measures: tuple[str, ...], plan: TriagePlan, groups: Ints, count: int, kind: str
) -> tuple[str, str, NDArray[np.bool_]]:
    """The measure, the reason for it, and which images are left to calibrate its threshold."""
    everyone = np.ones(len(groups), dtype=bool)
    if len(measures) == 1:
        return measures[0], "the only one scored", everyone
    if count // 2 < HALF * plan.needed:
        preset = next((name for name in PRESET if name in measures), measures[0])
        why = f"set in advance: {count} {kind} are too few to choose on half of them (--measure names another)"
        return preset, why, everyone
    half = _half(count, plan.seed)
    choosing = half[groups]
    of_choosing = np.unique(groups[choosing], return_inverse=True)[1]
    accepted = {name: _reached(losses(name).of(choosing), plan, of_choosing) for name in measures}
    best = max(accepted, key=lambda name: accepted[name])
    why = f"chosen on {int(half.sum())} other {kind}, of which it accepts most ({percent(accepted[best])})"
    return best, why, ~choosing


def _half(count: int, seed: int) -> NDArray[np.bool_]:
    """Which images or groups choose; the others calibrate what was chosen."""
    return np.random.default_rng(seed).permutation(count) < count // 2


def _reached(losses: Losses, plan: TriagePlan, groups: Ints) -> float:
    """What is accepted at the loosest threshold that keeps the limit on these very images or groups."""
    if plan.guarantee == "images":
        holds = losses.bad(plan.max_error, groups).mean(axis=0) <= control.complement(plan.share)
    else:
        holds = losses.mean_losses(groups).mean(axis=0) <= plan.max_error
    places = np.flatnonzero(np.cumprod(holds))
    return float(losses.mean_accepted(groups)[:, places[-1]].mean()) if places.size else 0.0


def loosest_level(losses: Losses, plan: TriagePlan, groups: Ints) -> int | None:
    """The loosest threshold that the plan's guarantee allows, by its place; never above all values that were seen."""
    if plan.guarantee == "images":
        start, used = _start(losses, plan, groups)
        bad = losses.bad(plan.max_error, groups)[used]
        level = control.level_for_most(bad, plan.share, plan.confidence, start=start)
    elif plan.guarantee == "mean":
        level = control.level_of_mean(losses.mean_losses(groups), plan.max_error, plan.confidence, seed=plan.seed)
    else:
        level = control.level_in_expectation(losses.mean_losses(groups), plan.max_error)
    whole = losses.accepted.sum(axis=0)
    highest = int(np.flatnonzero(whole < whole[-1])[-1]) + 1 if (whole < whole[-1]).any() else 0
    level = None if level is None else min(level, highest)
    return None if level is None or whole[level] == 0 else level


def _start(losses: Losses, plan: TriagePlan, groups: Ints) -> tuple[int, NDArray[np.bool_]]:
    """The level at which a tenth of the groups have START of their pixels accepted, and the groups that are left.

    The strictest level, and all groups, where the others could not carry what their sequence is given of the error.
    """
    count = int(groups.max(initial=-1)) + 1
    tenth = np.random.default_rng(plan.seed).permutation(count) < count // 10
    confidence = control.confidence_of(control.FROM_START, plan.confidence)
    if not tenth.any() or count - int(tenth.sum()) < control.needed_for_most(plan.share, confidence):
        return 0, np.ones(count, dtype=bool)
    accepted = losses.mean_accepted(groups)[tenth].mean(axis=0)
    return int(np.argmax(accepted >= START)), ~tenth


def _decided(losses: Losses, plan: TriagePlan, groups: Ints, unit: Unit, measure: str, why: str, kind: str) -> Decision:
    level = loosest_level(losses, plan, groups)
    count = int(groups.max()) + 1
    return Decision(
        unit=unit,
        measure=measure,
        images=len(losses.ids),
        groups=count,
        threshold=None if level is None else float(losses.thresholds[level]),
        why=why if level is not None else _nothing(losses, plan, groups, unit, kind),
        loss=0.0 if level is None else float(losses.mean_losses(groups)[:, level].mean()),
        accepted=0.0 if level is None else float(losses.mean_accepted(groups)[:, level].mean()),
    )


def _nothing(losses: Losses, plan: TriagePlan, groups: Ints, unit: Unit, kind: str) -> str:
    """Why no threshold will do."""
    if plan.guarantee == "images":
        start, used = _start(losses, plan, groups)
        bad = losses.bad(plan.max_error, groups)[used].sum(axis=0)[start:]
        confidence = control.confidence_of(control.FROM_START, plan.confidence) if start else plan.confidence
        most = control.most_bad(int(used.sum()), plan.share, confidence) or 0
        stopped = int(bad[np.argmax(bad > most)])
        return nothing_for_most(plan, unit, kind, bad=stopped, most=most, count=int(used.sum()), from_others=start > 0)
    first = int(np.flatnonzero(losses.accepted.sum(axis=0))[0])
    return nothing_on_average(plan, kind, float(losses.mean_losses(groups)[:, first].mean()), int(groups.max()) + 1)


def calibrate_sets(images: ValidationImages, plan: TriagePlan) -> Sets:
    """Prediction sets that miss the true class of at most 1 - coverage of an image's pixels, in expectation.

    Errors: WrongUse for a multi-label head, or too few images.
    """
    assert plan.coverage is not None
    counts = images.counts
    if counts.plan.head == "multilabel":
        raise WrongUse("A pixel of a multi-label head has a yes or no a label, not one class: leave --coverage out.")
    miss = control.complement(plan.coverage)
    of_image = [counts.true_classes(i) for i in counts.ids]
    known = [n for n, table in enumerate(of_image) if table.sum()]
    groups = numbered([counts.ids[n] for n in known], images.groups)
    count, needed = int(groups.max(initial=-1)) + 1, control.needed_in_expectation(miss)
    if count < needed:
        raise WrongUse(
            f"{count} {images.kind} cannot carry a coverage of {plan.coverage:g}: it takes {needed} at least."
        )
    penalty = sets.Penalty()
    if plan.sets == "raps":
        penalty = sets.Penalty(weight=plan.penalty)
        if count // 2 >= HALF * needed:  # a rank chosen on the images that calibrate would void the guarantee
            choosing = _half(count, plan.seed)[groups]
            ranks = np.mean([of_image[n].sum(axis=1) / of_image[n].sum() for n in np.array(known)[choosing]], axis=0)
            penalty = replace(penalty, free=int(np.searchsorted(ranks.cumsum(), plan.coverage)) + 1)
            known = [n for n, other in zip(known, choosing, strict=True) if not other]
            groups = numbered([counts.ids[n] for n in known], images.groups)
            count = int(groups.max()) + 1
    scores, place = np.unique(sets.score_bins(penalty), return_inverse=True)
    missed = np.zeros((count, scores.size))
    for group, n in zip(groups, known, strict=True):
        mass = np.bincount(place.ravel(), weights=of_image[n].ravel(), minlength=scores.size)
        missed[group] += 1 - mass.cumsum() / mass.sum()
    missed = (missed / np.bincount(groups)[:, None])[:, ::-1].clip(min=0)  # from the largest sets to the smallest
    level = control.level_in_expectation(missed, miss)
    assert level is not None, "the largest set misses nothing"
    return Sets(
        kind=plan.sets,
        coverage=plan.coverage,
        threshold=float(scores[::-1][level]),
        weight=penalty.weight,
        free=penalty.free,
        images=len(known),
        groups=count,
        found=float(1 - missed[:, level].mean()),
    )


def reference_of(images: ValidationImages, name: str, *, table: bool = False) -> Reference:
    """The mean of a measure over each image with data, or group: mutual information where there are several draws.

    name, table: how the images are grouped, as in `Reference`, for the run that is compared
    """
    measures = images.counts.plan.measures
    measure = SHIFT_MEASURE if SHIFT_MEASURE in measures else measures[0]
    ids = [i for i in images.counts.ids if i in images.means[measure]]
    values: Floats = np.array([images.means[measure][i] for i in ids])
    groups = numbered(ids, images.groups)
    means = np.bincount(groups, weights=values) / np.bincount(groups)
    return Reference(measure=measure, values=tuple(float(value) for value in means), groups=name, table=table)
