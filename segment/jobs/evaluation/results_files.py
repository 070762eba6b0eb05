"""An evaluation's scores to its files: scores, comparisons, rows, how images are ranked.

Must not know how an image was scored.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from segment.estimation.batching import DECIDED
from segment.files.reading import read_json
from segment.files.runs.image_counts import IMAGE_COUNTS, write_image_counts
from segment.files.runs.places import RECORD
from segment.files.runs.run import Run
from segment.files.text_tables import csv_text
from segment.files.triages import TRIAGED, TRIAGED_TABLE
from segment.files.writing import write_json, write_text
from segment.jobs.evaluation.annotators import annotator_scores
from segment.jobs.evaluation.compared_methods import ComparedMethods, MethodPlan, key
from segment.jobs.evaluation.image_ranking import rank_images
from segment.jobs.evaluation.scoring import Scoring
from segment.ranking.columns import ranks_none
from segment.report.method_comparison import MethodBoards, compare, gains, scores
from segment.report.results import Evaluation, Validation
from segment.report.run_files.run_folder import GROUP, GROUPS
from segment.runners.runner import Runner
from segment.stores.requests import is_there

SCORES, PER_IMAGE, RANKING = "scores.json", "per_image.csv", "ranking.json"
COMPARISONS, CONFUSION, ANNOTATORS = "comparisons.json", "confusion.json", "annotators.json"
FINISHED = (SCORES, PER_IMAGE, RANKING, COMPARISONS, CONFUSION, ANNOTATORS, IMAGE_COUNTS, TRIAGED, TRIAGED_TABLE)
"""What is there of a finished evaluation only: until then other commands would take it for the scores of its images."""


def write_results(
    run: Run,
    scoring: Scoring,
    methods: ComparedMethods,
    validated: Validation,
    start: float,
    warnings: Sequence[str],
    fails_below: float | None = None,
) -> Evaluation:
    """Every file of a finished evaluation but its manifest.

    Args:
        run: Where they go.
        scoring: What was counted.
        methods: Whose scores these are.
        validated: What was chosen on validation images.
        start: When the evaluation began, by time.perf_counter.
        warnings: What makes the scores misleading.
        fails_below: The Dice below which a mask has failed; None: the lower quartile of the validation images'.

    Returns:
        The evaluation, as the page and the terminal show it.

    """
    images = len(scoring.done)
    by_method = {}
    for name, of_banks in methods.methods.items():
        keys = [key(name, index) for index in range(len(of_banks))]
        spent = sum(scoring.seconds[bank_key] for bank_key in keys) / len(keys) / images
        by_method[name] = MethodBoards(tuple(scoring.boards[bank_key] for bank_key in keys), of_banks[0].draws, spent)
    content = {"warnings": list(warnings), **scores(by_method)}
    compared = compare(by_method) if len(by_method) > 1 else []
    write_json(run.folder / SCORES, content)
    gained = gains(by_method)
    comparisons = {
        "scores": [comparison.as_dict() for comparison in compared],
        "gains": [gain.as_dict() for gain in gained],
    }
    write_json(run.folder / COMPARISONS, comparisons)
    tables = {name: board.confusion().tolist() for name, board in scoring.boards.items()}
    write_json(run.folder / CONFUSION, {"rows": "label", "columns": "prediction", "methods": tables})
    rows = {name: board.per_image() for name, board in scoring.boards.items()}
    ranking = rank_images(rows, validated, fails_below, scoring.groups)
    write_json(run.folder / RANKING, ranking)
    write_text(run.folder / PER_IMAGE, per_image(rows))
    if scoring.groups is None:
        run.discard(GROUPS)
    else:
        of_images = [{"id": id, GROUP: scoring.groups[id]} for id in sorted(scoring.done)]
        write_text(run.folder / GROUPS, csv_text(("id", GROUP), of_images))
    annotators = annotator_scores(scoring.boards, scoring.further, scoring.pixels) if scoring.further else {}
    if annotators:
        write_json(run.folder / ANNOTATORS, annotators)
    write_image_counts(run.folder / IMAGE_COUNTS, scoring.counts)
    run.note(
        timings={
            "seconds": round(time.perf_counter() - start, 3),
            "images": images,
            "workers": scoring.workers,
            **{name: round(spent, 3) for name, spent in scoring.waiting.items()},
            "passes_seconds": round(scoring.passes_seconds, 3),
            "scoring_seconds": {name: round(spent, 3) for name, spent in scoring.scoring.items()},
        }
    )
    return Evaluation(
        folder=run.place,
        scores=content,
        comparisons=compared,
        gains=gained,
        validation=validated,
        failed={source.id: scoring.failed[source.id] for source in run.sources if source.id in scoring.failed},
        notes=methods.notes,
        record=run.record,
        warnings=tuple(warnings),
        ranking=ranking,
        uncertain=most_uncertain(rows),
        annotators=annotators,
    )


def most_uncertain(rows_of: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """The three images with the largest mean predictive entropy under MCBN, else under the first method, and that.

    Empty where it is equal in all of them.
    """
    rows = rows_of.get("mcbn") or next(iter(rows_of.values()))
    column = "mean.predictive_entropy"
    means = {str(row["id"]): float(row[column]) for row in rows if row.get(column) is not None}
    if ranks_none(column, list(means.values())):
        return {}
    return dict(heapq.nlargest(3, means.items(), key=lambda item: item[1]))


def per_image(rows_of: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """CSV, a line for each image and method; a column that a method lacks, or a value not defined, is empty."""
    rows = [{"method": name, **row} for name, of_method in rows_of.items() for row in of_method]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return csv_text(columns, rows)


def as_begun(plan: MethodPlan, folder: Path) -> MethodPlan:
    """The plan with the precision that a run there was begun in, where it says auto: an audit elsewhere may differ."""
    if plan.precision != "auto" or not is_there(folder / RECORD):
        return plan
    record = read_json(folder / RECORD, dict[str, Any], advice="Choose another folder.")
    return replace(plan, precision=record.get("plan", {}).get("precision", plan.precision))


def decided_before(run: Run) -> dict[str, int]:
    """How many images go in a pass, as an earlier process of the run decided; see `BatchedEstimator.decided`."""
    return {key: value for key, value in run.record.get("plan", {}).items() if key in DECIDED}


def note_decided(run: Run, scoring: Scoring) -> None:
    """Keep in run.json how many images go in a pass, for a process that goes on."""
    if not (decided := scoring.batched.decided).items() <= run.record["plan"].items():
        run.note(plan=run.record["plan"] | decided)


def passes_record(methods: ComparedMethods, runner: Runner) -> dict[str, Any]:
    """How the passes are made, for `plan` of run.json."""
    return {
        "precision": methods.precision,
        "precision_why": methods.why,
        "threads": runner.threads(torch.get_num_threads()),
        "device": str(methods.network.device),
        "notes": dict(methods.notes),
    }
