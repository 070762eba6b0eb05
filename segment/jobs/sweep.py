"""Scores over M, T, layers, the transform of the statistics images, alpha and shift: `segment sweep`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import nn

from segment.draws.identity import network_of_bank
from segment.errors import FastPathDiffers, WrongUse
from segment.files.banks.bank_file import load_bank
from segment.files.banks.cache import marks_in
from segment.files.reading import as_json_values
from segment.files.runs.manifest import Entry
from segment.files.runs.run import Run
from segment.files.versions import versions
from segment.files.writing import write_json, write_text
from segment.guarantees.groups import BY_GROUPS, groups_of_sources, numbered_warnings, setting_of, under_ids
from segment.images.find import Source, in_text
from segment.images.outside_runs import images_outside_runs, refuse_output_in_images
from segment.images.specs import Channels
from segment.images.transforms.corrupt import corrupted
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.results_files import SCORES, decided_before, note_decided
from segment.jobs.evaluation.scoring import REDONE, Scoring
from segment.jobs.evaluation.temperatures import at_an_end_words, left_out_words
from segment.jobs.labelled.images import Labels, refuse_unmasked
from segment.jobs.labelled.labels import contents_of
from segment.jobs.labelled.leakage import absent_classes, few_hold, seen_before
from segment.jobs.progress import Progress, silent
from segment.jobs.sweeping.conditions import (
    condition_file,
    earlier_conditions,
    read_condition,
    state_file,
    unequal_images,
    write_condition,
)
from segment.jobs.sweeping.grid import Banks, check_grid
from segment.jobs.sweeping.inputs import IMAGES, input_hashes, joined
from segment.jobs.sweeping.states import SweepPlan, SweepPoint, Swept
from segment.jobs.sweeping.tables import sweep_csv
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.passes.fused.onednn import computes_bfloat16
from segment.report.method_comparison import MethodBoards, differences, scores
from segment.report.results import CLEAN, DETERMINISTIC, OVER, Condition, Row, Sweep
from segment.runners.process import memory_for
from segment.runners.runner import LOCAL, Runner
from segment.scores.scoreboard import Scoreboard

log = logging.getLogger(__name__)

TEMPERATURES = "temperatures.json"


def sweep(
    network: Network | nn.Module | str | Path,
    data: Labels,
    train: str | Path,
    folder: str | Path,
    plan: SweepPlan,
    *,
    validation: Labels | None = None,
    memory: int | str | None = None,
    resume: bool = False,
    progress: Progress = silent,
    runner: Runner = LOCAL,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
) -> Sweep:
    """Score every setting on labelled images, T by prefixes of one run, and banks kept for the next sweep.

    network: what `load_network` gave, a URI, a card, or any torch module with BN
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free; banks are recorded and
    temperatures fitted within it too
    runner: where banks are recorded and images scored
    train: images that statistics come from; of files with several those that `data` takes of its files
    validation: clean images that temperatures are fitted on
    mean, std, channels: as `MCBN` takes them
    Errors: as `fit_bank` and `evaluate_into`.
    """
    network = network_of(network, mean=mean, std=std, channels=channels)
    fitting = [name for name in plan.methods.methods if combination(name).fitted]
    if validation is None and fitting:
        raise WrongUse(f"Method {min(fitting)!r} is fitted: give --validation-images, not the test images.")
    if plan.left_out:
        words = "; ".join(
            f"{name} has no row at T = {', '.join(map(str, left))}" for name, left in plan.left_out.items()
        )
        log.warning("Passes are dealt out to %d views in turn: %s.", len(plan.methods.views), words)
    refuse_unmasked(data, validation)
    refuse_output_in_images(data.images, folder)
    check_grid(network, train, plan.grid, data.listing)
    sources = data.sources(network)
    groups = groups_of_sources(sources, plan.groups)
    held_out = validation.sources(network) if validation else ()
    network.log_preprocessing()
    given_banks = {Path(path).stem: load_bank(Path(path)) for path in plan.banks}
    settings = _settings(network, data, train, plan, validation) | input_hashes(train, held_out, given_banks)
    if groups is not None:
        settings["groups_table_sha256"] = joined(sorted(groups.items()))
    contents = [contents_of(source) for source in sources] if resume else []
    same = {IMAGES: (None, joined(contents))}
    with Run.create(Path(folder), settings, sources, resume=resume, whole=True, same=same, networks=(network,)) as run:
        sources, folder = run.sources, run.folder
        groups = under_ids(groups, sources)
        for bank in given_banks.values():
            network_of_bank(network, bank)  # refused now, not after the others were recorded
        conditions = [(CLEAN, 0), *((name, severity) for name in plan.shifts for severity in plan.severities)]
        now = dict(zip((source.id for source in sources), contents, strict=resume))
        earlier = earlier_conditions(run, conditions, now)  # refuses other images before run.json names them
        run.note(plan=_plan(run, network, plan), versions=versions(), classes=list(network.class_names))
        banks = Banks(
            network,
            train,
            folder / "banks",
            max(plan.grid.draws),
            progress,
            listing=data.listing,
            memory=memory,
            runner=runner,
        )
        if not resume:
            run.discard(TEMPERATURES)  # of a sweep that ended before it had a manifest
        swept = Swept(network, banks, given_banks, plan, held_out, folder / TEMPERATURES, progress, memory)
        marks = {mark for bank in given_banks.values() for mark in marks_in(bank.provenance)}
        warnings = seen_before(network, sources, held_out, marks, images_outside_runs(train, warn=False))
        scored: list[Condition] = []
        for condition, severity in conditions:
            content = earlier.get((condition, severity))
            if content is not None and content.failed and not state_file(folder, condition, severity).exists():
                log.warning("No sums of %s %d were kept: all images are scored again.", condition, severity)
            if content is None or content.failed:
                path = condition_file(folder, condition, severity)
                write_condition(path, _condition(swept, run, condition, severity, progress, runner, groups))
                run.deliver()
                content = read_condition(path)
            scored.append(content)
        rows = [row for content in scored for row in content.rows]
        failed = {id: why for content in scored for id, why in content.failed.items()}
        if groups is None:
            warnings += numbered_warnings([source.id for source in sources], BY_GROUPS)
        warnings += [line for content in scored for line in content.warnings] + unequal_images(scored)
        warnings += left_out_words(swept.left_out, len(held_out)) + at_an_end_words(swept.calibrations)
        _finish(run, sources, rows, failed, warnings)
        return Sweep(run.place, rows, failed, tuple(warnings))


def _plan(run: Run, network: Network, plan: SweepPlan) -> dict[str, Any]:
    """What decides the precision of `auto`, which is resolved for each bank: rows of two would not compare."""
    begun = dict(run.record.get("plan", {}))
    if plan.methods.precision != "auto":
        return begun
    bfloat16 = "with" if computes_bfloat16(network.device) else "without"
    device = f"{network.device.type} {bfloat16} bfloat16"
    if begun.get("device", device) != device:
        raise WrongUse(
            f"The sweep in {str(run.folder)!r} was begun on {begun['device']}, and this is {device}: --precision auto "
            "may take another one here. Go on there, or choose another folder."
        )
    return begun | {"device": device}


def _settings(
    network: Network, data: Labels, train: str | Path, plan: SweepPlan, validation: Labels | None
) -> dict[str, Any]:
    plan_values = as_json_values(asdict(replace(plan, groups=None)))
    if plan.batch == 1:
        del plan_values["batch"]  # as in folders of sweeps without this setting
    del plan_values["groups"]
    return {
        "model": network.name,
        "network": network.fingerprint,
        "card": network.card.settings(),
        **data.settings(),
        "train": in_text(train),
        "validation": None if validation is None else validation.settings(),
        **({"calibrations": "of each T"} if any(combination(name).fitted for name in plan.methods.methods) else {}),
        **({"left_out": {name: list(draws) for name, draws in plan.left_out.items()}} if plan.left_out else {}),
        **plan_values,
        **setting_of(plan.groups),
    }


def _condition(
    swept: Swept,
    run: Run,
    condition: str,
    severity: int,
    progress: Progress,
    runner: Runner,
    groups: Mapping[str, str] | None,
) -> Condition:
    """Everything on the test images as they are, or as one corruption leaves them; goes on from its state."""
    clean = condition == CLEAN
    scored = swept.scored()
    sources, state = run.sources, state_file(run.folder, condition, severity)
    change = None if clean else corrupted(condition, severity)
    stage = "clean images" if clean else f"{condition} {severity}"
    swept.made.clear()
    while True:  # until no fast path differs, which each of the methods' passes may find once
        try:
            read_outs = swept.read_outs(condition, severity)
            named = {str(place): read_out for place, read_out in read_outs.items()}
            boards = {name: Scoreboard(replace(scored, measures=read_out.measures)) for name, read_out in named.items()}
            decided = decided_before(run)
            batch, area = decided.get("images", swept.plan.batch), decided.get("images_measured_at", 0)
            budget = memory_for(runner, swept.memory, swept.network.device)
            scoring = Scoring(swept.network, named, boards, memory=budget, batch=batch, batch_area=area, groups=groups)
            if state.exists():
                scoring.load(state)
            save = partial(_save, run, scoring, state)
            scoring.run(sources, change=change, save=save, progress=progress, stage=stage, runner=runner)
            break
        except FastPathDiffers as error:
            log.warning(REDONE, error)
            run.discard(state.name, swept.temperatures.name)
    if not scoring.done:
        raise WrongUse(f"None of the {len(sources)} images can be scored: {next(iter(scoring.failed.values()))}")
    rows = _rows(scoring, list(read_outs), condition, severity, partial(progress, f"intervals of {stage}"))
    images = {source.id for source in sources}
    failed = {id: why for id, why in scoring.failed.items() if id in images}
    if not failed:
        run.discard(state.name)  # its numbers are in the condition's file now
    warnings = absent_classes(next(iter(scoring.boards.values())), scoring.pixels) if clean else []
    warnings += few_hold(scoring.boards) if clean else []
    return Condition(rows, failed, warnings, {id: list(of) for id, of in scoring.contents.items()})


def _save(run: Run, scoring: Scoring, state: Path) -> None:
    note_decided(run, scoring)
    scoring.save(state)
    if scoring.done:
        run.mark()
    run.deliver()


def _rows(
    scoring: Scoring, places: Sequence[SweepPoint], condition: str, severity: int, progress: Callable[[int, int], None]
) -> list[Row]:
    """One row for each combination of the axes, whose seeds are its banks."""
    images = len(scoring.done)
    groups: dict[SweepPoint, list[str]] = {}
    for place in places:
        groups.setdefault(replace(place, seed=0), []).append(str(place))
    by_group = {}
    for group, keys in groups.items():
        spent = sum(scoring.seconds[key] for key in keys) / len(keys) / images
        boards = tuple(scoring.boards[key] for key in keys)
        by_group[str(group)] = MethodBoards(boards, group.draws, spent)
    content = scores(by_group, progress)
    plain = next((str(group) for group in groups if group.method == DETERMINISTIC), None)
    over = {} if plain is None else differences(by_group, plain)
    counts = {key: value for key, value in content.items() if key != "methods"}
    return [
        Row(
            condition=condition,
            severity=severity,
            method=group.method,
            setting=group.setting,
            draws=group.draws,
            result=counts | method | ({OVER: over[str(group)]} if str(group) in over else {}),
        )
        for group, method in zip(groups, content["methods"].values(), strict=True)
    ]


def _finish(
    run: Run, sources: Sequence[Source], rows: Sequence[Row], failed: Mapping[str, str], warnings: Sequence[str]
) -> None:
    clean = [row for row in rows if row.condition == CLEAN]
    if not clean:
        raise WrongUse(
            f"No setting is scored on clean images in {str(run.folder)!r}: remove its condition_clean_0.json."
        )
    counts = {key: clean[0].result[key] for key in ("images", "pixels", "groups") if key in clean[0].result}
    keep = ("passes_per_image", "seconds", "scores", "per_class", "curves")
    methods = {row.name: {key: row.result[key] for key in (*keep, OVER) if key in row.result} for row in clean}
    shifted: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.condition != CLEAN:
            shifted.setdefault(f"{row.condition}_{row.severity}", {})[row.name] = {
                key: row.result[key] for key in keep[:3]
            }
    counts |= {"warnings": list(warnings)} if warnings else {}
    write_json(run.folder / SCORES, counts | {"methods": methods} | ({"shifts": shifted} if shifted else {}))
    write_text(run.folder / "sweep.csv", sweep_csv(rows))
    lines = run.entries()
    for source in sources:
        error = failed.get(source.id)
        status: Literal["failed", "done"] = "failed" if error else "done"
        if lines.get(source.id, {}).get("status") != status:
            run.add(Entry(id=source.id, source=str(source.path), status=status, error=error))
