"""Scores over M, T, layers, the look of the statistics images, alpha and shift: `segment sweep`."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from segment.errors import WrongUse
from segment.files.runs import Entry, Run
from segment.files.writing import write_json, write_text
from segment.images.corrupting import SEVERITIES, corrupted, corruption
from segment.images.folders import Source
from segment.jobs.comparing import Standing, compact, scores
from segment.jobs.evaluate import SCORES, Labels
from segment.jobs.grid import Banks, Grid, Setting, blended, chosen_layers
from segment.jobs.progress import Progress, silent
from segment.jobs.scoring import Scoring, class_names
from segment.jobs.versions import versions
from segment.networks.catalogue import Network
from segment.networks.drawable import drawable
from segment.sampling.mcbn import resolve_precision
from segment.sampling.methods import Method, deterministic, mcbn, mean_statistics
from segment.sampling.passes import PassPlan
from segment.sampling.readings import Reading
from segment.sampling.views import unpadded
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard

log = logging.getLogger(__name__)

MEASURES = ("predictive_entropy", "mutual_information", "variance")
CLEAN = "clean"
SHOWN = ("nll", "brier", "miou", "accuracy", "ece", "error_auroc.predictive_entropy", "error_auroc.mutual_information",
         "error_auroc.variance", "ause.predictive_entropy", "ause.variance")  # fmt: skip
"""Columns of sweep.csv, each with its interval and its spread over banks."""
DETERMINISTIC = "deterministic"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What is varied, and what is scored.

    shifts: corruptions of the test images, each at every severity; the settings are then scored at the largest T
    adapt: also with banks whose statistics images go through the same corruption
    """

    grid: Grid
    shifts: tuple[str, ...] = ()
    severities: tuple[int, ...] = SEVERITIES
    adapt: bool = False
    precision: str = "fp32"
    void: int | None = None

    def __post_init__(self) -> None:
        for name in self.shifts:
            for severity in self.severities:
                corruption(name, severity)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a sweep: where it stands on every axis, and its scores as in `scores.json`."""

    condition: str
    severity: int
    method: str
    setting: Setting | None
    draws: int
    found: Mapping[str, Any]

    @property
    def name(self) -> str:
        return DETERMINISTIC if self.setting is None else f"{self.method}, {self.setting}, T={self.draws}"


@dataclass(frozen=True)
class Sweep:
    """What a sweep found; all of it is in its folder too."""

    folder: Path
    rows: Sequence[Row]
    failed: Mapping[str, str]


def sweep(
    network: Network, data: Labels, train: str, folder: str | Path, plan: SweepPlan, *, resume: bool = False,
    progress: Progress = silent,
) -> Sweep:  # fmt: skip
    """Score every setting on labelled images, T by prefixes of one run, and banks kept for the next sweep.

    train: images that statistics come from. Errors: as `fit_bank` and `evaluate`.
    """
    folder = Path(folder)
    sources = data.sources(network)
    run = Run.create(folder, _settings(network, data, train, plan), resume=resume)
    run.note(versions=versions())
    banks = Banks(network, train, folder / "banks", max(plan.grid.draws), progress)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for condition, severity in [(CLEAN, 0), *((name, s) for name in plan.shifts for s in plan.severities)]:
        kept = folder / f"condition_{condition}_{severity}.json"
        if not (resume and kept.exists()):
            found, problems = _condition(network, sources, banks, plan, condition, severity, folder, progress)
            write_json(kept, {"rows": [_told(row) for row in found], "failed": problems})
        told = json.loads(kept.read_text(encoding="utf-8"))
        rows += [_row(line) for line in told["rows"]]
        failed |= told["failed"]
    _finish(run, sources, rows, failed)
    return Sweep(folder, rows, failed)


def _settings(network: Network, data: Labels, train: str, plan: SweepPlan) -> dict[str, Any]:
    asked = json.loads(json.dumps(asdict(plan)))
    return {"model": network.name, "network": network.fingerprint, "images": str(data.images),
            "labels": str(data.labels), "train": train, **asked}  # fmt: skip


def _condition(
    network: Network, sources: Sequence[Source], banks: Banks, plan: SweepPlan, condition: str, severity: int,
    folder: Path, progress: Progress,
) -> tuple[list[Row], dict[str, str]]:  # fmt: skip
    """Every setting on the test images as they are, or as one corruption leaves them."""
    clean = condition == CLEAN
    settings = plan.grid.settings()
    if plan.adapt and not clean:
        settings += plan.grid.settings(adapted=True)
    worse = None if clean else corruption(condition, severity)
    places: dict[str, tuple[str, Setting | None, int]] = {}
    readings: dict[str, Reading] = {}

    def add(name: str, setting: Setting | None, method: Method, draws: int, seed: int) -> None:
        told = f"{name}, {setting}, T={draws}, seed={seed}"
        places[told] = (name, setting, draws)
        readings[told] = Reading(method=method, measures=MEASURES if draws > 1 else MEASURES[:1], draws=draws)

    whole = drawable(network)
    for setting in settings:
        for seed in plan.grid.seeds:
            bank = banks.bank(setting, seed, worse)
            drawn = chosen_layers(whole, setting.layers)
            precision, _ = resolve_precision(plan.precision, bank, whole.device)
            passes = PassPlan(precision=precision, channels_last=True, fuse=True)
            if not places:
                add(DETERMINISTIC, None, unpadded(deterministic(whole, bank, passes), network.card.input), 1, 0)
            used = blended(bank, drawn, setting.alpha)
            sampled = unpadded(mcbn(drawn, used, passes), network.card.input)
            for draws in plan.grid.draws if clean else plan.grid.draws[-1:]:
                add("mcbn", setting, sampled, draws, seed)
            mean = unpadded(mean_statistics(drawn, used, passes), network.card.input)
            add("mean_statistics", setting, mean, 1, seed)
    scored = ScorePlan(
        classes=class_names(network), head=network.card.head,
        void=network.card.void if plan.void is None else plan.void,
    )  # fmt: skip
    boards = {name: Scoreboard(_with(scored, reading.measures)) for name, reading in readings.items()}
    scoring = Scoring(network, readings, boards)
    state = folder / f"state_{condition}_{severity}.npz"
    if state.exists():
        scoring.load(state)
    change = None if clean else corrupted(condition, severity)
    stage = "clean images" if clean else f"{condition} {severity}"
    scoring.run(sources, change=change, save=lambda: scoring.save(state), progress=progress, stage=stage)
    if not scoring.done:
        raise WrongUse(f"None of the {len(sources)} images can be scored: {next(iter(scoring.failed.values()))}")
    rows = _rows(scoring, places, condition, severity)
    state.unlink(missing_ok=True)  # its numbers are in the condition's file now
    return rows, scoring.failed


def _with(plan: ScorePlan, measures: tuple[str, ...]) -> ScorePlan:
    return ScorePlan(classes=plan.classes, head=plan.head, void=plan.void, measures=measures)


def _rows(
    scoring: Scoring, places: Mapping[str, tuple[str, Setting | None, int]], condition: str, severity: int
) -> list[Row]:
    """One row a place on the axes; its seeds are banks of one standing."""
    images = len(scoring.done)
    groups: dict[tuple[str, Setting | None, int], list[str]] = {}
    for told, place in places.items():
        groups.setdefault(place, []).append(told)
    standings = {}
    for (name, setting, draws), keys in groups.items():
        spent = sum(scoring.seconds[one] for one in keys) / len(keys) / images
        boards = tuple(scoring.boards[one] for one in keys)
        standings[f"{name}, {setting}, T={draws}"] = Standing(boards, draws, spent)
    found = scores(standings)
    kept = {"images": found["images"], "pixels": found["pixels"]}
    return [
        Row(condition=condition, severity=severity, method=name, setting=setting, draws=draws, found=kept | method)
        for ((name, setting, draws), _), method in zip(groups.items(), found["methods"].values(), strict=True)
    ]


def _told(row: Row) -> dict[str, Any]:
    return asdict(row)


def _row(told: Mapping[str, Any]) -> Row:
    setting = None if told["setting"] is None else Setting(**told["setting"])
    return Row(**{**told, "setting": setting})


def _finish(run: Run, sources: Sequence[Source], rows: Sequence[Row], failed: Mapping[str, str]) -> None:
    clean = [row for row in rows if row.condition == CLEAN]
    found = {key: clean[0].found[key] for key in ("images", "pixels")}
    keep = ("passes_per_image", "seconds", "scores", "per_class", "curves")
    methods = {row.name: {key: row.found[key] for key in keep} for row in clean}
    shifted: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.condition != CLEAN:
            shifted.setdefault(f"{row.condition}_{row.severity}", {})[row.name] = {
                key: row.found[key] for key in keep[:3]
            }
    write_json(run.folder / SCORES, found | {"methods": methods} | ({"shifts": shifted} if shifted else {}))
    write_text(run.folder / "sweep.csv", table_of(rows))
    lines = run.entries()
    for source in sources:
        error = failed.get(source.id)
        status = "failed" if error else "done"
        if lines.get(source.id, {}).get("status") != status:
            run.add(Entry(id=source.id, source=str(source.path), status="failed" if error else "done", error=error))


def table_of(rows: Sequence[Row]) -> str:
    """CSV: one line a row, the axes first, then passes, seconds, and each score with its interval and bank_sd."""
    stream = io.StringIO()
    axes = ("condition", "severity", "method", "T", "M", "transform", "layers", "alpha", "adapted", "seconds")
    ends = ("value", "low", "high", "bank_sd")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*axes, *(name if end == "value" else f"{name}.{end}" for name in SHOWN for end in ends)])
    for row in rows:
        s = row.setting
        drawn = ("", "", "", "", "") if s is None else (s.batch, s.transform, s.layers, s.alpha, s.adapted)
        where = (row.condition, row.severity, row.method, row.draws, *drawn, row.found["seconds"])
        entries = [row.found["scores"].get(name, {}) for name in SHOWN]
        numbers = [entry.get(end) for entry in entries for end in ends]
        writer.writerow([*where, *("" if one is None else one for one in numbers)])
    return stream.getvalue()


COLUMNS = ("setting", "shift", "s/image", "NLL", "mIoU", "ECE", "error AUROC")


def shown_rows(rows: Sequence[Row], most: int = 30) -> list[list[str]]:
    """Rows under COLUMNS, condition by condition, best NLL first; error AUROC by predictive entropy."""
    found = []
    for condition in dict.fromkeys((row.condition, row.severity) for row in rows):
        same = [row for row in rows if (row.condition, row.severity) == condition]
        for row in sorted(same, key=lambda row: row.found["scores"]["nll"]["value"] or 0.0)[:most]:
            cells = [compact(row.found["scores"].get(score)) for score in
                     ("nll", "miou", "ece", "error_auroc.predictive_entropy")]  # fmt: skip
            shift = "" if row.condition == CLEAN else f"{row.condition} {row.severity}"
            found.append([row.name, shift, f"{row.found['seconds']:.2f}", *cells])
    return found
