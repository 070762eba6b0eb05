"""A triage in sentences: what may be accepted, what is promised of it, when that is void, and why nothing may be."""

from __future__ import annotations

import numpy as np

from segment.guarantees import control
from segment.guarantees.triage import Decision, Sets, Triage, TriagePlan, percent

PLACES = {"pixel": "Pixels with", "segment": "Segments with a mean", "image": "Images with a mean"}


def sentences(triage: Triage) -> list[str]:
    """One line for each decision, one for the sets, one for when all of it is void."""
    kind = "groups" if triage.reference.groups else "images"
    lines = [_of_decision(decision, triage.plan, kind) for decision in triage.decisions.values()]
    whys: dict[str, list[str]] = {}
    for decision in triage.decisions.values():
        if decision.threshold is not None:
            whys.setdefault(decision.why, []).append(f"{decision.unit}s")
    units = [f" of {' and '.join(of)}" if len(whys) > 1 else "" for of in whys.values()]
    lines += [f"The measure{of} was {why}." for of, why in zip(units, whys, strict=True)]
    if triage.sets is not None:
        lines.append(_of_sets(triage.sets, kind))
    source = triage.source
    lines.append(
        f"All of this is for {kind} like those that calibrated it, under {source['method']} with {source['draws']} "
        f"draws in {source['precision']}: `segment predict --triage` tests that by their {triage.reference.measure}, "
        "and where the test fails the guarantee is void."
    )
    return lines


def _of_decision(decision: Decision, plan: TriagePlan, kind: str) -> str:
    if decision.threshold is None:
        return f"No {decision.unit} may be accepted: {decision.why}."
    what = f"{PLACES[decision.unit]} {decision.measure} below {shown_threshold(decision)} may be accepted"
    return (
        f"{what}: {promise(plan, decision.unit, kind)}. On the {decision.groups} {kind} that calibrated it, "
        f"{shown_accepted(decision)} were accepted at a mean loss of {shown_loss(decision)}"
        f"{', as means over the groups' if kind == 'groups' else ''}."
    )


def shown_threshold(decision: Decision) -> str:
    """With the same digits in a table and in a sentence, as the shares below."""
    return "none" if decision.threshold is None else f"{decision.threshold:.5g}"


def shown_accepted(decision: Decision) -> str:
    return f"{decision.accepted:.1%}".replace("%", " %")


def shown_loss(decision: Decision) -> str:
    return f"{decision.loss:.2%}".replace("%", " %")


def lost(plan: TriagePlan, unit: str) -> str:
    """What the loss is a share of, in words."""
    if plan.loss == "dice":
        return "1 - Dice of an image, 0 where it is not accepted,"
    if plan.protect is not None:
        return f"the share of an image's {plan.protect} pixels that is accepted as another class"
    whole = ", 0 where the image is not accepted," if unit == "image" else ""
    return f"the share of an image's labelled pixels that is accepted and wrong{whole}"


def promise(plan: TriagePlan, unit: str, kind: str) -> str:
    """What is promised of new images, in words."""
    limit, most = percent(plan.max_error), f"in {percent(plan.share)} of {kind} at least"
    loss, whose = lost(plan, unit), "an image"
    if kind == "groups":  # each counts once, however many images it has
        loss, whose = f"the mean over the images of a group of {loss}", "the images of a group together"
    if plan.guarantee == "expectation":
        return f"in expectation over validation sets and new {kind}, {loss} is at most {limit}"
    if plan.guarantee == "mean":
        return f"with confidence {plan.confidence:g}, {loss} is at most {limit} on average over all {kind}"
    if plan.protect is not None or plan.loss == "dice":
        return f"with confidence {plan.confidence:g}, {loss} is at most {limit} {most}"
    if kind == "groups" and unit == "image":
        wrong = "the mean over the accepted images of a group of the share of their pixels that is wrong"
        return f"with confidence {plan.confidence:g}, {wrong} is at most {limit} {most}"
    return f"with confidence {plan.confidence:g}, at most {limit} of what is accepted of {whose} is wrong {most}"


def too_much(plan: TriagePlan, unit: str, kind: str) -> str:
    """What an image or group has that is above the limit, where the guarantee is for most of them."""
    limit = percent(plan.max_error)
    if plan.loss == "dice":
        text, over = f"a 1 - Dice above {limit}", "images"
    elif plan.protect is not None:
        text, over = f"more than {limit} of their {plan.protect} pixels accepted as another class", "images"
    else:
        text, over = f"more than {limit} wrong among what is accepted of them", "accepted images"
        if unit != "image":
            return text  # of a group together
    return text if kind == "images" else f"{text}, as the mean over their {over}"


def _of_sets(sets: Sets, kind: str) -> str:
    whose, count = "an image's pixels of known classes", sets.images
    if kind == "groups":
        whose, count = "an image's pixels of known classes, as the mean over the images of a group,", sets.groups
    return (
        f"Prediction sets ({sets.kind}, threshold {sets.threshold:.6g}) hold the true class of "
        f"{percent(sets.coverage)} of {whose} in expectation; on the {count} {kind} that calibrated them, of "
        f"{percent(sets.found)}."
    )


def too_few(count: int, plan: TriagePlan, kind: str, *, images: int) -> str:
    """Why so few images or groups carry no guarantee, and how many could."""
    have = f"{count} {kind[:-1] if count == 1 else kind}" + (f" ({images} images)" if images != count else "")
    reach = (
        ""
        if count < 1 or plan.guarantee != "expectation"
        else f" With so many, the least --max-error is {_up(1 / (count + 1))}."
    )
    asked = {
        "expectation": f"an expected loss of at most {plan.max_error:g}",
        "images": f"{plan.share:.0%} of {kind} at confidence {plan.confidence:g}",
        "mean": f"a mean of at most {plan.max_error:g} at confidence {plan.confidence:g}",
    }[plan.guarantee]
    lacking = f" {_of_loss(plan)}" if plan.protect is not None or plan.loss == "dice" else ""
    more = ""
    if plan.guarantee == "mean":
        likely = control.images_for_mean(plan.max_error / 2, plan.max_error, plan.confidence)
        more = f" At a mean of half the limit it takes about {likely}." if likely and likely > plan.needed else ""
    return (
        f"{have}{lacking} cannot carry {asked}: it takes {plan.needed} {kind} at least, even without a single error."
        f"{reach}{more} Evaluate more labelled validation images, or ask for another --guarantee."
    )


def _of_loss(plan: TriagePlan) -> str:
    return f"with pixels of {plan.protect!r}" if plan.protect is not None else "with a Dice"


def _up(value: float) -> str:
    """Three digits, rounded up, so that the number named works."""
    return f"{np.ceil(value * 1000 - 1e-9) / 1000:g}"


def nothing_for_most(
    plan: TriagePlan, unit: str, kind: str, *, bad: int, most: int, count: int, from_others: bool
) -> str:
    """Why no threshold keeps the limit in most images: of `count`, `bad` are bad where at most `most` may be.

    from_others: whether the threshold was found on other images, of which it accepts a tenth
    """
    others = f"the {'images' if unit == 'image' else 'pixels'} of other {kind}"
    if unit == "image" and kind == "images":
        others = "other images"
    threshold = f"a threshold that accepts at least a tenth of {others}" if from_others else "the strictest"
    bad_ones = f"{bad} of {count} {kind} with {too_much(plan, unit, kind)}"
    return f"even {threshold} leaves {bad_ones}, where at most {most} may have"


def nothing_on_average(plan: TriagePlan, kind: str, mean: float, count: int) -> str:
    """Why no threshold keeps the mean loss below the limit: `mean` is that of the strictest that accepts anything."""
    if plan.guarantee == "mean":
        takes = control.images_for_mean(mean, plan.max_error, plan.confidence)
        more = "no number of them would do" if takes is None else f"about {takes} {kind} like these would do"
        return (
            f"{count} {kind} do not bound a mean of {plan.max_error:g} at confidence {plan.confidence:g}: at the "
            f"strictest threshold that accepts anything their mean is {mean:.4f}; {more}"
        )
    allowed = plan.max_error - (1 - plan.max_error) / count
    return (
        f"even the strictest threshold that accepts anything has a mean loss of {mean:.4f} on {count} {kind}, where at "
        f"most {allowed:.4f} is allowed"
    )
