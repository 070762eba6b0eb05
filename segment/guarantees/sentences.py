"""A triage in sentences: what may be accepted, what is promised of it, and when the promise is void."""

from __future__ import annotations

from segment.guarantees.triage import Decision, Sets, Triage, TriagePlan, percent

PLACES = {"pixel": "Pixels with", "segment": "Segments with a mean", "image": "Images with a mean"}


def sentences(triage: Triage) -> list[str]:
    """One line for each decision, one for the sets, one for when all of it is void."""
    kind = "groups" if triage.reference.groups else "images"
    lines = [_of_decision(decision, triage.plan, kind) for decision in triage.decisions.values()]
    if triage.sets is not None:
        lines.append(_of_sets(triage.sets))
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
    what = f"{PLACES[decision.unit]} {decision.measure} below {decision.threshold:.6g} may be accepted"
    return (
        f"{what}: {promise(plan, decision.unit, kind)}. On the {decision.groups} {kind} that calibrated it, "
        f"{percent(decision.accepted)} were accepted at a mean loss of {percent(decision.loss)}. "
        f"Measure: {decision.why}."
    )


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
    return f"with confidence {plan.confidence:g}, at most {limit} of what is accepted of {whose} is wrong {most}"


def _of_sets(sets: Sets) -> str:
    return (
        f"Prediction sets ({sets.kind}, threshold {sets.threshold:.6g}) hold the true class of "
        f"{percent(sets.coverage)} of an image's labelled pixels in expectation; on the {sets.images} images that "
        f"calibrated them, of {percent(sets.found)}."
    )
