"""A triage on an evaluation's labelled images: what was kept, what was wrong in it, and whether images are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import WrongUse, near
from segment.files.text_tables import csv_text
from segment.files.triages import TRIAGED, TRIAGED_TABLE
from segment.files.writing import write_json, write_text
from segment.guarantees.groups import group_of
from segment.guarantees.outcome import ImageOutcome, coverage_of, images_outcomes, outcome_of, verdict_of
from segment.guarantees.sentences import promise
from segment.guarantees.shift import ShiftTest, shift_test
from segment.guarantees.triage import Triage, percent
from segment.images.find import Source
from segment.jobs.evaluation.combinations import TUNED
from segment.jobs.triage.calibration import SHA_DIGITS, EvaluationFolder
from segment.jobs.triage.source import PROBE, other_labels, refuse_other_probe, refuse_other_source, settings_of_method
from segment.significance.paired import FEW


def refuse_other_evaluation(
    triage: Triage,
    *,
    methods: Mapping[str, int],
    measures: Mapping[str, Sequence[str]],
    network: str,
    banks: Sequence[str],
    precision: str,
    classes: Sequence[str],
    settings: Mapping[str, Any],
    tuned: Mapping[str, Any] | None = None,
) -> None:
    """Refuse an evaluation that the triage cannot be checked on, before its first pass.

    methods: name -> passes an image. measures: of each method. settings: of the evaluation
    tuned: the tuned setting, as `Tuned.settings`
    Errors: WrongUse for another method, measure, network, bank, draws or precision.
    """
    method = triage.source["method"]
    if method not in methods:
        option = "give its folder by --tuned" if method == TUNED else "add it to --methods"
        raise WrongUse(f"The triage is of method {method!r}: {option}.{near(method, methods)}")
    for measure in triage.measures:
        if measure not in measures[method]:
            raise WrongUse(f"The triage needs the measure {measure!r}: add it to --measures.")
    bank = triage.source["bank"]
    run: dict[str, Any] = {"network": network, "bank": bank if bank in banks else (banks[0] if banks else None)}
    if method == TUNED and tuned is not None:
        run |= {"bank": tuned["bank"], "tuned": dict(tuned)}
    run |= {"draws": methods[method], "precision": precision, "classes": list(classes)}
    run |= settings_of_method(method, settings)
    run["calibration"] = triage.source.get("calibration")  # compared by `check_triage`: it is fitted by then
    refuse_other_source(triage, run)


def check_triage(folder: str | Path, triage: Triage, groups: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the triage accepts of an evaluation's images, written to triaged.json and triaged.csv in its folder.

    Args:
        folder: what `segment evaluate` wrote for labelled images that did not calibrate the triage
        triage: as `segment.calibrate_triage` gives it, or `segment.load_triage`
        groups: id -> group, where the triage's groups are a column of a table; None: not known

    Returns:
        what triaged.json holds: per unit the shares accepted and wrong with intervals, the shift test, and `text`

    Raises:
        WrongUse: where the folder holds no evaluation by the triage's method, network, bank, draws and precision.

    """
    scores = EvaluationFolder.read(Path(folder))
    name = _method_of(scores, triage)
    ids = scores.counts[name].ids
    if triage.reference.by_id:
        groups = {i: group_of(triage.reference.groups, i) for i in ids}
    elif groups is not None and not groups.keys() >= set(ids):
        groups = None
    images = scores.images_of(name, groups)
    outcomes = {unit: outcome_of(images, triage.plan, decision) for unit, decision in triage.decisions.items()}
    shift = shift_test_of(images.means[triage.reference.measure], triage, groups)
    text = [*filter(None, [other_labels(triage, scores.run.settings)])]
    text += [f"{unit}: {verdict_of(outcome, triage.plan)}" for unit, outcome in outcomes.items()]
    covered = None if triage.sets is None else coverage_of(images, triage.sets)
    if covered is not None:
        text.append(covered.sentence())
    if triage.reference.groups and groups is None:
        known = _unknown(triage.reference.groups)
        text.append(f"T{known[1:]}, so that each counts as its own: the promise is not about that.")
    text.append(shift_sentence(shift, triage))
    again = {sha[:SHA_DIGITS] for sha in scores.run.sha256.values()} & set(triage.source["sha256"])
    if again:
        text.append(seen_sentence(len(again), len(ids)))
    content = {
        "method": name,
        "promise": promise_or_void(triage, shifted=shift.shifted),
        "units": {unit: outcome.as_dict() for unit, outcome in outcomes.items()},
        **({} if covered is None else {"sets": covered.as_dict()}),
        "shift": shift_dict(shift, triage),
        "text": text,
    }
    write_json(scores.run.folder / TRIAGED, content)
    write_text(scores.run.folder / TRIAGED_TABLE, _table(images_outcomes(images, triage.plan, dict(triage.decisions))))
    return content


def promise_or_void(triage: Triage, *, shifted: bool) -> str:
    """The promise, or that it is void. shifted: whether a shift test of the images found them to be others."""
    kind = "groups" if triage.reference.groups else "images"
    return "void: the images are shifted" if shifted else promise(triage.plan, triage.plan.unit, kind)


def _method_of(scores: EvaluationFolder, triage: Triage) -> str:
    """The method of the triage under its bank."""
    method = triage.source["method"]
    names = [name for name in scores.counts if name.partition("#")[0] == method]
    if not names:
        raise WrongUse(f"The evaluation has no method {method!r}, which the triage is of: add it to --methods.")
    sources = {name: scores.source(name) for name in names}
    same = [name for name, source in sources.items() if source["bank"] == triage.source["bank"]]
    chosen = (same or names)[0]
    refuse_other_source(triage, sources[chosen])
    refuse_other_probe(triage, sources[chosen].get(PROBE))
    for measure in triage.measures:
        if measure not in scores.counts[chosen].plan.measures:
            raise WrongUse(f"The triage needs the measure {measure!r}: add it to --measures.")
    return chosen


def listed_groups(sources: Sequence[Source], triage: Triage) -> dict[str, str] | None:
    """Id to group by the list that names the images; None where it lacks the triage's column for any of them."""
    groups = {source.id: source.more.get(triage.reference.groups, "") for source in sources}
    return groups if triage.reference.groups and all(groups.values()) else None


def shift_test_of(means: Mapping[str, float], triage: Triage, groups: Mapping[str, str] | None = None) -> ShiftTest:
    """The rank test of images against those that calibrated the triage, by groups where they are known.

    means: id -> the mean of the reference's measure over the image. groups: id -> group; by the ids where these say it
    """
    name = triage.reference.groups
    if triage.reference.by_id:
        groups = {identity: group_of(name, identity) for identity in means}
    by_group: dict[str, list[float]] = {}
    for identity, mean in means.items():
        by_group.setdefault(groups[identity] if groups else identity, []).append(mean)
    values = np.array([np.mean(of_group) for of_group in by_group.values()])
    test = shift_test(np.array(triage.reference.values), values)
    if name and not groups:  # single images are not to be compared with the means of groups
        return replace(test, p=None, auroc=None, why=_unknown(name))
    return test


def _unknown(name: str) -> str:
    return f"the {name} of these images is not known"


def shift_dict(shift: ShiftTest, triage: Triage) -> dict[str, Any]:
    return {
        "measure": triage.reference.measure,
        "images": shift.images,
        "validation": len(triage.reference.values),
        "p": shift.p,
        "level": shift.level,
        "auroc": shift.auroc,
        "shifted": shift.shifted,
        **({"why": shift.why} if shift.why else {}),
    }


def shift_sentence(shift: ShiftTest, triage: Triage) -> str:
    """The shift test in a sentence."""
    measure, kind = triage.reference.measure, "groups" if triage.reference.groups else "images"
    if shift.p is None:
        return f"Whether these images are like the validation images cannot be tested: {shift.why}."
    numbers = numbers_of(shift, triage)
    if shift.shifted:
        return f"SHIFTED: the guarantee is void. {measure} differs from the validation images' ({numbers})."
    few = "so few images show only a large one" if min(shift.images, len(triage.reference.values)) < FEW else ""
    ending = shift.why or few.replace("images", kind)
    return f"No shift shown at level {shift.level:g} in {measure} ({numbers}){f'; {ending}' if ending else ''}."


def numbers_of(shift: ShiftTest, triage: Triage) -> str:
    """The numbers of a shift test that could be made."""
    kind = "groups" if triage.reference.groups else "images"
    against = f"{shift.images} {kind} against {len(triage.reference.values)}"
    return f"{against}, AUROC {shift.auroc or 0.0:.3f}, p = {shift.p or 0.0:.2g}"


def seen_sentence(again: int, images: int) -> str:
    return (
        f"{again} of {images} images are those that calibrated the triage: what is kept of them says nothing of new "
        "images."
    )


def _table(rows: Sequence[ImageOutcome]) -> str:
    columns = ("id", "accepted", "error_in_accepted", "decision")
    return csv_text(columns, ((row.id, row.accepted, row.error, row.decision) for row in rows))


def outcome_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """The rows of a table: unit, measure, accepted, mean loss, wrong in what is accepted, images above the limit."""
    rows = []
    for unit, of in content["units"].items():
        interval = of["loss_interval"]
        spread = f" ({percent(interval[0])} .. {percent(interval[1])})" if interval else ""
        error = "" if of["error"] is None else percent(of["error"])
        above = f"{of['bad']} of {of['groups']}"
        rows.append([unit, of["measure"], percent(of["accepted"]), percent(of["loss"]) + spread, error, above])
    return rows
