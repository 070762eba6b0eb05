"""A network, banks and labelled images to scores of every method: `segment evaluate`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import FastPathDiffers, ImageUnreadable, WrongUse
from segment.estimation.background import WORKERS, checked_workers
from segment.estimation.batching import Batch, checked_batch
from segment.estimation.memory_budget import Memory
from segment.files.runs.manifest import Entry
from segment.files.runs.run import Run
from segment.files.versions import versions
from segment.guarantees.counts import ImageCounts
from segment.guarantees.groups import BY_GROUPS, Groups, groups_of_sources, numbered_warnings, setting_of, under_ids
from segment.guarantees.triage import Triage
from segment.images.find import Source
from segment.images.outside_runs import refuse_output_in_images
from segment.images.transforms.corrupt import corrupted, corruption
from segment.jobs.evaluation.combinations import TUNED
from segment.jobs.evaluation.compared_methods import ComparedMethods, MethodPlan, build_methods
from segment.jobs.evaluation.results_files import (
    FINISHED,
    as_begun,
    decided_before,
    note_decided,
    passes_record,
    write_results,
)
from segment.jobs.evaluation.scoring import REDONE, Scoring
from segment.jobs.evaluation.temperatures import at_an_end_words, left_out_words
from segment.jobs.evaluation.validation import VALIDATION, validation_of_run
from segment.jobs.labelled.images import HELD, Labels, refuse_unmasked
from segment.jobs.labelled.labels import score_plan
from segment.jobs.labelled.leakage import absent_classes, few_hold, seen_before
from segment.jobs.progress import Progress, silent
from segment.jobs.triage.checking import check_triage, listed_groups, refuse_other_evaluation
from segment.jobs.triage.source import refuse_edited_network
from segment.jobs.tuning.tuned import Tuned, with_tuned
from segment.networks.load import Network
from segment.report.results import Evaluation, Validation
from segment.report.run_files.scored_files import STATE
from segment.runners.process import memory_for
from segment.runners.runner import LOCAL, Runner
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard
from segment.uncertainty.scaling import as_json

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EvaluatePlan:
    """What is scored, and which methods.

    void: the label id that no score counts; unseen: ids of things of no trained class; None, (): as the card says
    shift: a corruption of the test images and its severity, as ("fog", 3); validation images stay as they are
    fails_below: the Dice below which a mask has failed; None: the lower quartile of the validation images' Dice
    workers: threads that decode images beside the network, and one that scores; 0: all in line
    batch: images of one size in a pass; "auto": as many as are measured to be fastest at the first image's size
    groups: what intervals and tests are over, as `segment.guarantees.groups.Groups` says; None: over images
    """

    methods: MethodPlan = field(default_factory=MethodPlan)
    void: int | None = None
    unseen: tuple[int, ...] = ()
    shift: tuple[str, int] | None = None
    fails_below: float | None = None
    workers: int = WORKERS
    batch: Batch = 1
    groups: Groups = None

    def __post_init__(self) -> None:
        checked_workers(self.workers)
        checked_batch(self.batch)
        if self.shift is not None:
            corruption(*self.shift)
        if self.fails_below is not None and not 0 < self.fails_below < 1:
            raise WrongUse(f"--fails-below {self.fails_below:g}: a Dice above 0 and below 1.")


def evaluate_into(
    network: Network,
    data: Labels,
    folder: str | Path,
    *,
    banks: Sequence[Bank] = (),
    plan: EvaluatePlan | None = None,
    members: Sequence[Network] = (),
    validation: Labels | None = None,
    triage: Triage | None = None,
    tuned: Tuned | None = None,
    memory: Memory = None,
    resume: bool = False,
    progress: Progress = silent,
    runner: Runner = LOCAL,
) -> Evaluation:
    """Score every method on labelled images, reading each once; an image that fails is named, the others count.

    members: further networks of an ensemble. validation: images that are not the test images, for temperatures,
    thresholds and the constant uncertainty; without it the scores that need them are null and say why
    triage: also what it accepts of the images, and what is wrong in that
    tuned: a setting of `segment tune`, scored as the method `tuned`, named or not; its bank is taken where no other is
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free; an image that does not fit is tiled
    runner: where the images are scored: here, or in processes that may be on other machines
    Errors: as `build_methods`; OutOfMemory with the number needed; WrongUse for a folder that holds a run;
    ImageUnreadable where no image can be scored.
    """
    plan = plan or EvaluatePlan()
    refuse_unmasked(data, validation)
    refuse_output_in_images(data.images, folder)
    if tuned is None and TUNED in plan.methods.methods:
        raise WrongUse(f"Method {TUNED!r} is the setting that `segment tune` chose: give its folder by --tuned.")
    if tuned is not None:
        tuned.check(network)
        banks = banks or (tuned.bank,)
    how = as_begun(plan.methods, Path(folder)) if resume else plan.methods
    methods = build_methods(network, banks, how, members=members, validated=validation is not None)
    methods = methods if tuned is None else with_tuned(methods, tuned, banks)
    if any(len(of_banks) > 1 for of_banks in methods.methods.values()):
        _refuse_unlike(banks, plan.methods.draws)
    settings = _settings(network, data, banks, plan, methods, members, validation, tuned)
    if triage is not None:
        refuse_other_evaluation(
            triage,
            methods={name: of_banks[0].draws for name, of_banks in methods.methods.items()},
            measures={name: read_out.measures for name, read_out in methods.read_outs({}).items()},
            network=network.fingerprint,
            banks=[bank_fingerprint(bank) for bank in banks],
            precision=methods.precision,
            classes=network.class_names,
            settings=settings,
            tuned=None if tuned is None else tuned.settings(),
        )
        refuse_edited_network(triage, network)
    memory = memory_for(runner, memory, network.device)
    sources, held_out = data.sources(network), validation.sources(network) if validation else ()
    scored, others = score_plan(network, plan.void, plan.unseen), len(data.annotators)
    groups = groups_of_sources(sources, plan.groups)
    network.log_preprocessing()
    same = {"draws": (None, len(banks[0]))} if banks else {}
    probe, networks = next((bank.probe for bank in banks), None), (network, *members)
    with Run.create(Path(folder), settings, sources, resume=resume, same=same, networks=networks, probe=probe) as run:
        sources = run.sources
        groups = under_ids(groups, sources)
        decided = decided_before(run)
        begin = partial(_scoring, network, methods, scored, memory, plan, others, decided, groups)
        run.note(plan=passes_record(methods, runner) | decided, versions=versions(), classes=list(scored.classes))
        start = time.perf_counter()
        while True:  # until no fast path differs, which each of the methods' passes may find once
            try:
                validated = validation_of_run(
                    run,
                    network,
                    held_out,
                    methods,
                    scored,
                    progress,
                    memory=memory,
                    workers=plan.workers,
                    batch=plan.batch,
                    runner=runner,
                )
                scoring = begin(validated)
                if resume and (run.folder / STATE).exists():
                    scoring.load(run.folder / STATE)
                    if scoring.changed(sources):  # no image can be taken out of a sum
                        log.warning(
                            "Scored images have changed, are gone, or are of another group: all are scored again."
                        )
                        scoring = begin(validated)
                run.discard(*FINISHED)  # written again from the state, also where no image is left to score
                run.note(calibrations={name: as_json(value) for name, value in validated.temperatures.items()})
                change = None if plan.shift is None else corrupted(*plan.shift)
                save = partial(_save, run, scoring, sources)
                scoring.run(sources, change=change, save=save, progress=progress, runner=runner)
                break
            except FastPathDiffers as error:
                log.warning(REDONE, error)
                run.discard(VALIDATION, STATE)
        if not scoring.done:
            name, why = next(iter(scoring.failed.items()))
            raise ImageUnreadable(f"None of the {len(sources)} images can be scored. {name}: {why}")
        scored_sources = [source for source in sources if source.id in scoring.done]
        warnings = seen_before(network, scored_sources, held_out, methods.seen)
        warnings += [] if tuned is None else tuned.chosen_on(scored_sources)
        if groups is None and not settings.get(HELD):  # images in Python are numbered here
            warnings += numbered_warnings(list(scoring.done), BY_GROUPS)
        warnings += left_out_words(validated.left_out, validated.given) + at_an_end_words(validated.temperatures)
        warnings += absent_classes(next(iter(scoring.boards.values())), scoring.pixels) + few_hold(scoring.boards)
        evaluation = write_results(run, scoring, methods, validated, start, warnings, plan.fails_below)
        triaged = None
        if triage is not None:
            known = groups if setting_of(plan.groups).get("groups") == triage.reference.groups else None
            triaged = check_triage(run.folder, triage, known or listed_groups(sources, triage))
    return replace(evaluation, triaged=triaged)


def _refuse_unlike(banks: Sequence[Bank], draws: int | None) -> None:
    """Refuse banks whose scores have no mean and spread. Errors: WrongUse."""
    if len({bank_fingerprint(bank) for bank in banks}) < len(banks):
        raise WrongUse("Two of the banks hold the same draws, and would show no spread over banks: leave one out.")
    lengths = sorted({len(bank) for bank in banks})
    if draws is None and len(lengths) > 1:
        raise WrongUse(
            f"The banks have {' and '.join(map(str, lengths))} draws, and a score is the mean over the banks: give "
            f"--draws {lengths[0]}, or banks of one length."
        )


def _scoring(
    network: Network,
    methods: ComparedMethods,
    scored: ScorePlan,
    memory: Memory,
    plan: EvaluatePlan,
    annotators: int,
    decided: Mapping[str, Any],
    groups: Mapping[str, str] | None,
    validated: Validation,
) -> Scoring:
    """Nothing scored yet. decided: what an earlier process decided."""
    read_outs = methods.read_outs(validated.temperatures)
    boards = {
        name: Scoreboard(
            replace(
                scored,
                measures=read_out.measures,
                thresholds=validated.thresholds.get(name),
                validation_accuracy=validated.accuracies.get(name),
            )
        )
        for name, read_out in read_outs.items()
    }
    counts = {name: ImageCounts(board.plan) for name, board in boards.items()}
    batch, area = decided.get("images", plan.batch), decided.get("images_measured_at", 0)
    return Scoring(
        network,
        read_outs,
        boards,
        memory=memory,
        counts=counts,
        workers=plan.workers,
        annotators=annotators,
        batch=batch,
        batch_area=area,
        groups=groups,
    )


def _settings(
    network: Network,
    data: Labels,
    banks: Sequence[Bank],
    plan: EvaluatePlan,
    methods: ComparedMethods,
    members: Sequence[Network],
    validation: Labels | None,
    tuned: Tuned | None,
) -> dict[str, Any]:
    method_plan = plan.methods
    return {
        "model": network.name,
        "card": network.card.settings(),
        "network": network.fingerprint,
        **data.settings(),
        "banks": [bank_fingerprint(bank) for bank in banks],
        "methods": list(methods.names),
        "draws": method_plan.draws,
        "precision": method_plan.precision,
        "measures": list(method_plan.measures),
        "views": [[view.flip, view.scale] for view in method_plan.views],
        "insert_dropout": method_plan.insert_dropout,
        "seed": method_plan.seed,
        "void": plan.void,
        "unseen": list(plan.unseen),
        "validation": None if validation is None else validation.settings(),
        **({} if plan.shift is None else {"shift": list(plan.shift)}),
        **({} if plan.batch == 1 else {"batch": plan.batch}),
        **setting_of(plan.groups),
        **({} if tuned is None else {"tuned": tuned.settings()}),
        **({"ensemble": [member.fingerprint for member in members]} if members else {}),
    }


def _save(run: Run, scoring: Scoring, sources: Sequence[Source]) -> None:
    """The state, and after it the manifest's lines: a line stands only for what the state holds."""
    if scoring.torn:
        return
    scoring.save(run.folder / STATE)
    run.deliver()
    note_decided(run, scoring)
    done, lines = scoring.done, run.entries()
    for source in sources:
        line = lines.get(source.id, {})
        status = line.get("status")
        sha256 = scoring.contents[source.id][0] if source.id in done else ""
        if source.id in done and (status != "done" or line["sha256"] != sha256):
            run.add(Entry(id=source.id, source=str(source.path), sha256=sha256, draws=scoring.passes))
        elif source.id in scoring.failed and status != "failed":
            run.add(Entry(id=source.id, source=str(source.path), status="failed", error=scoring.failed[source.id]))
