"""An evaluation of validation images to a triage: `segment triage`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segment.errors import WrongUse, near
from segment.files.runs.computation import kept_probe
from segment.files.runs.image_counts import read_image_counts
from segment.guarantees.calibrate import ValidationImages, calibrate_sets, calibrate_unit, reference_of
from segment.guarantees.counts import ImageCounts
from segment.guarantees.groups import NUMBERED, frames, sequence_text
from segment.guarantees.triage import Decision, Triage, TriagePlan, Unit, percent
from segment.images.find import in_text
from segment.jobs.evaluation.combinations import TUNED, combination
from segment.jobs.labelled.labels import label_options
from segment.jobs.triage.source import LABELS, PROBE, settings_of_method
from segment.report.run_files.run_folder import RunFolder

FINISH = "Finish `segment evaluate`."
SHA_DIGITS = 16
"""Digits of the SHA-256 of an image that calibrated a triage, which tell whether a run has it again."""


@dataclass(frozen=True, kw_only=True)
class EvaluationFolder:
    """What a triage takes from an evaluation's folder.

    counts: by method and bank
    """

    run: RunFolder
    counts: Mapping[str, ImageCounts]

    @classmethod
    def read(cls, folder: Path) -> EvaluationFolder:
        """Errors: WrongUse where the folder holds no finished evaluation."""
        run = RunFolder.read(folder)
        read = cls(run=run, counts=read_image_counts(run.folder))
        if run.scores is None:
            raise WrongUse(f"{in_text(folder)!r} is no whole evaluation: it has no scores.json. {FINISH}")
        try:
            for method in read.counts:  # a part that is missing is refused here, whichever method is asked for
                read.images_of(method, None)
                read.source(method)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise WrongUse(
                f"{in_text(folder)!r} is no whole evaluation: {type(error).__name__}: {error}. {FINISH}"
            ) from error
        return read

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the evaluation warned of."""
        return tuple((self.run.scores or {}).get("warnings", ()))

    def images_of(self, method: str, groups: Mapping[str, str] | None) -> ValidationImages:
        """The images of one method."""
        counts, rows = self.counts[method], self.run.rows[method]
        means = {
            name: {i: float(mean) for i in counts.ids if (mean := rows[i][f"mean.{name}"])}
            for name in counts.plan.measures
        }
        dice = {i: float(rows[i]["dice"]) if rows[i]["dice"] else None for i in counts.ids}
        return ValidationImages(counts, means, dice, groups)

    def source(self, method: str) -> dict[str, Any]:
        """What the counts of a method were made with."""
        settings, plan = self.run.settings, self.run.plan
        banks, number = settings["banks"], int(method.partition("#")[2] or 1)
        tuned = settings.get("tuned") if method == TUNED else None
        bank = banks[number - 1] if len(banks) >= number else None
        scored = (self.run.scores or {})["methods"][method.partition("#")[0]]
        return {
            "method": method.partition("#")[0],
            "model": settings["model"],
            "network": settings["network"],
            "bank": bank if tuned is None else tuned["bank"],
            **({} if tuned is None else {"tuned": tuned}),
            "draws": scored["passes_per_image"],
            "precision": plan["precision"],
            **settings_of_method(method.partition("#")[0], settings),
            "calibration": self.run.record.get("calibrations", {}).get(method),
            "classes": list(self.counts[method].plan.classes),
            "images": settings["images"],
            LABELS: label_options(settings),
            **({} if (probe := kept_probe(self.run.record)) is None else {PROBE: probe}),
            "sha256": sorted(sha[:SHA_DIGITS] for sha in self.run.sha256.values()),
        }


def calibrate_triage(
    folder: str | Path,
    plan: TriagePlan | None = None,
    *,
    method: str | None = None,
    groups: str | None = None,
    table: str | Path | None = None,
) -> Triage:
    """Thresholds with a guarantee, from the counts of an evaluation of labelled validation images.

    Args:
        folder: what `segment evaluate` wrote for images that trained nothing
        plan: what is asked; None: an expected loss of at most 2 % of the pixels
        method: whose uncertainty ranks; None: tuned where it was scored, else mcbn, else the first
        groups: "folder", "sequence" (an id without its number), or a column of `table`; None: those that the evaluation
            was over, and without any images are independent
        table: a CSV with a column `id` and that of the groups

    Returns:
        the triage, of the asked unit and of whole images

    Raises:
        WrongUse: for a folder without counts, an unknown name, too few images, or where nothing may be accepted.

    """
    plan = plan or TriagePlan()
    scores = EvaluationFolder.read(Path(folder))
    chosen = method or next((name for name in (TUNED, "mcbn") if name in scores.counts), next(iter(scores.counts)))
    if chosen not in scores.counts:
        raise WrongUse(
            f"The evaluation has no method {chosen!r}.{near(chosen, scores.counts)} It has {', '.join(scores.counts)}."
        )
    source, name = scores.source(chosen), chosen.partition("#")[0]
    if name != TUNED and combination(name).fitted and source["calibration"] is None:
        raise WrongUse(
            f"{str(folder)!r} does not say which temperature {name} had: give it again to `segment evaluate --resume`, "
            "which adds that."
        )
    ids = scores.counts[chosen].ids
    of_ids = scores.run.asked_groups(ids, groups, table)
    own = scores.run.settings.get("groups")
    if own is not None and of_ids is None:
        raise WrongUse(f"{str(folder)!r} was scored over groups ({own}), and its groups.csv is gone. Give --groups.")
    groups = groups or own
    by_table = table is not None or (groups == own and "groups_table" in scores.run.settings)
    images = scores.images_of(chosen, of_ids)
    units: tuple[Unit, ...] = (plan.unit,) if plan.unit == "image" else (plan.unit, "image")
    decisions: dict[str, Decision] = {unit: calibrate_unit(images, plan, unit) for unit in units}
    decision = decisions[plan.unit]
    if decision.threshold is None:
        raise WrongUse(f"Nothing may be accepted by {decision.measure}: {decision.why}. Allow a larger --max-error.")
    # tests over images are the evaluation's: a triage has none
    warnings = [line for line in scores.warnings if not line.startswith(NUMBERED)]
    if groups is None and (names := frames(ids)):
        warnings.append(frames_warning(names))
    if decision.accepted == 1:
        warnings.append(accepts_all(decision, plan))
    return Triage(
        plan=plan,
        decisions=decisions,
        reference=reference_of(images, groups or "", table=by_table),
        source=source,
        sets=None if plan.coverage is None else calibrate_sets(images, plan),
        warnings=tuple(warnings),
    )


def frames_warning(names: Sequence[str]) -> str:
    some = ", ".join(map(sequence_text, names[:3])) + (" and more" if len(names) > 3 else "")
    sequences = "a sequence" if len(names) == 1 else f"{len(names)} sequences"
    return (
        f"The ids of the validation images look like frames of {sequences} ({some}). Frames of one sequence are not "
        "independent, so the guarantee holds for other frames of the same at best; give --groups sequence, or a column "
        "of a CSV."
    )


def accepts_all(decision: Decision, plan: TriagePlan) -> str:
    """That a threshold sends nothing to a person, as of small defects, which are few pixels of an image."""
    other = ", or for the loss that matters: --protect CLASS, or --unit image --loss dice"
    mean = "" if plan.guarantee == "images" else f": the mean loss is {percent(decision.loss)}"
    return (
        f"Accepting every {decision.unit} of the validation images already meets the limit of "
        f"{percent(plan.max_error)}{mean}. Of images like them few or none are left for review. Ask for less by "
        f"--max-error{other if plan.loss == 'error' and plan.protect is None else ''}."
    )
