"""What is estimated on validation images: temperatures, thresholds of uncertainty, and the accuracy of the mask.

Two rounds: temperatures are fitted first, then every method is scored under them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from segment.errors import WrongUse
from segment.estimation.batching import Batch
from segment.estimation.memory_budget import Memory
from segment.files.reading import file_bytes, json_values
from segment.files.runs.computation import PROBES
from segment.files.runs.run import Run
from segment.files.writing import write_json
from segment.images.find import Source
from segment.jobs.evaluation.compared_methods import ComparedMethods
from segment.jobs.evaluation.results_files import FINISHED
from segment.jobs.evaluation.scoring import Scoring
from segment.jobs.evaluation.temperatures import ALL_VOID, temperatures
from segment.jobs.labelled.labels import contents_of
from segment.jobs.progress import Progress
from segment.networks.load import Network
from segment.report.results import Validation
from segment.report.run_files.scored_files import STATE
from segment.runners.runner import Runner
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard

log = logging.getLogger(__name__)

VALIDATION = "validation.json"


def validation_of_run(
    run: Run,
    network: Network,
    sources: Sequence[Source],
    methods: ComparedMethods,
    plan: ScorePlan,
    progress: Progress,
    *,
    memory: Memory,
    workers: int,
    batch: Batch,
    runner: Runner,
) -> Validation:
    """Temperatures, then thresholds and accuracies of every method; read back where this very run has done so before.

    Else what was scored under others goes. Nothing without images. Errors: WrongUse where no image can be used.
    """
    if not sources:
        return Validation.none()
    path = run.folder / VALIDATION
    made_of = {
        "settings": run.record["settings"],
        PROBES: run.record[PROBES],
        "contents": [list(contents_of(source)) for source in sources],
    }
    if path.exists():
        try:
            stored = {PROBES: made_of[PROBES], **json_values(file_bytes(path))}  # earlier versions kept none
            if all(stored[key] == value for key, value in made_of.items()):
                return Validation.of(stored["validation"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.info("%s is not used: %s", path, error)
    if (run.folder / STATE).exists():
        log.warning("What was chosen on validation images was chosen on others: all images are scored again.")
    run.discard(VALIDATION, STATE, *FINISHED)
    fitted = temperatures(network, sources, methods, plan, progress, memory=memory, workers=workers)
    read_outs = methods.read_outs(fitted.calibrations)
    boards = {name: Scoreboard(_blind(plan, read_out.measures)) for name, read_out in read_outs.items()}
    scoring = Scoring(network, read_outs, boards, memory=memory, workers=workers, batch=batch)
    scoring.run(sources, progress=progress, stage="validating", runner=runner)
    if not scoring.done:
        first = next(iter(scoring.failed.values()), "no image")
        raise WrongUse(f"None of the {len(sources)} validation images can be used. {first}")
    if not next(iter(boards.values())).pixels:
        raise WrongUse(ALL_VOID.format(len(scoring.done)))
    validated = Validation(
        fitted.calibrations,
        {name: _accuracy(board) for name, board in scoring.boards.items()},
        {name: board.thresholds() for name, board in scoring.boards.items()},
        len(scoring.done),
        scoring.failed,
        {name: board.per_image() for name, board in scoring.boards.items()},
        fitted.left_out,
    )
    write_json(path, made_of | {"validation": validated.as_dict()})
    run.deliver()
    return validated


def _blind(plan: ScorePlan, measures: tuple[str, ...]) -> ScorePlan:
    return ScorePlan(
        classes=plan.classes, head=plan.head, measures=measures, void=plan.void, unseen=plan.unseen, replicates=2
    )


def _accuracy(board: Scoreboard) -> float | tuple[float | None, ...] | None:
    counts = board.confusion()
    tables = counts if counts.ndim == 3 else counts[None]
    accuracies = tuple(float(np.trace(table) / table.sum()) if table.sum() else None for table in tables)
    return accuracies if counts.ndim == 3 else accuracies[0]
