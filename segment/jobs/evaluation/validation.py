"""What is estimated on validation images: temperatures, thresholds of uncertainty, and the accuracy of the mask.

Two rounds: temperatures are fitted first, then every method is scored under them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from segment.errors import OutOfMemory, SegmentError, WrongUse
from segment.estimation.estimator import Estimator
from segment.estimation.memory_budget import Memory, memory_budget
from segment.estimation.overlap import WORKERS
from segment.estimation.plan import EstimatePlan
from segment.estimation.together import Batch
from segment.images.find import Source
from segment.jobs.evaluation.combinations import combination
from segment.jobs.evaluation.compared_methods import ComparedMethods, key
from segment.jobs.evaluation.labels import read_labelled
from segment.jobs.evaluation.leakage import refuse_seen
from segment.jobs.evaluation.scoring import SCORING, Scoring
from segment.jobs.progress import Progress
from segment.methods.method import Method
from segment.methods.temperature import TemperatureFit, update
from segment.methods.vector_scaling import VectorScalingFit
from segment.networks.load import Network
from segment.report.results import Validation
from segment.runners.runner import LOCAL, Runner
from segment.scores.arrays import known_pixels
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard
from segment.uncertainty.scaling import Calibration

log = logging.getLogger(__name__)


def validate(
    network: Network,
    sources: Sequence[Source],
    methods: ComparedMethods,
    plan: ScorePlan,
    progress: Progress,
    *,
    memory: Memory = None,
    workers: int = WORKERS,
    batch: Batch = 1,
    runner: Runner = LOCAL,
) -> Validation:
    """Temperatures, then thresholds and accuracies of every method. Errors: WrongUse where no image can be used."""
    fitted = temperatures(network, sources, methods, plan, progress, memory=memory, workers=workers)
    read_outs = methods.read_outs(fitted)
    boards = {name: Scoreboard(_blind(plan, read_out.measures)) for name, read_out in read_outs.items()}
    scoring = Scoring(network, read_outs, boards, memory, workers=workers, batch=batch)
    scoring.run(sources, progress=progress, stage="validating", runner=runner)
    if not scoring.done:
        first = next(iter(scoring.failed.values()), "no image")
        raise WrongUse(f"None of the {len(sources)} validation images can be used. {first}")
    if not next(iter(boards.values())).pixels:
        raise WrongUse(
            f"No pixel of the {len(scoring.done)} validation images has a known label: all of them are void."
        )
    return Validation(
        fitted,
        {name: _accuracy(board) for name, board in scoring.boards.items()},
        {name: board.thresholds() for name, board in scoring.boards.items()},
        len(scoring.done),
        scoring.failed,
        {name: board.per_image() for name, board in scoring.boards.items()},
    )


def temperatures(
    network: Network,
    sources: Sequence[Source],
    methods: ComparedMethods,
    plan: ScorePlan,
    progress: Progress,
    *,
    memory: Memory = None,
    workers: int = WORKERS,
) -> dict[str, Calibration]:
    """By `compared_methods.key`, of each method that is fitted; 1 where no image can be used."""
    fits: dict[str, TemperatureFit | VectorScalingFit] = {}
    of_method: dict[int, tuple[Method, list[str]]] = {}  # fits of the same passes
    for name, of_banks in methods.methods.items():
        scaling = "" if name in methods.fixed else combination(name).scaling
        for index, method in enumerate(of_banks if scaling else ()):
            head, fit_key = network.card.head, key(name, index)
            fits[fit_key] = TemperatureFit(head) if scaling == "temperature" else VectorScalingFit(head, len(sources))
            of_method.setdefault(id(method), (method, []))[1].append(fit_key)
    if not fits:
        return {}
    refuse_seen(network, sources, methods.seen, "a temperature or a scaling")
    budget = memory_budget(memory, network.device)
    planned = Estimator(network, methods.read_outs({}), EstimatePlan(budget=budget, beside=SCORING))
    for number, item in enumerate(read_labelled(sources, network, workers=workers), start=1):
        if not item.error:
            height, width = item.size
            if planned.side_for(height, width) is not None:
                raise OutOfMemory(
                    f"An image of {height} x {width} pixels does not go through whole, and a temperature is fitted on "
                    "whole images: leave its methods out."
                )
            try:
                images = item.normalised(network)[None]
                for method, names in of_method.values():
                    own = method.of(item.source.id)  # its random masks, as when it is scored
                    update([fits[name] for name in names], own, images, item.label, known_pixels(plan, item.label))
            except (SegmentError, RuntimeError, ValueError) as error:  # the scoring round names it
                log.info("%s: %s", item.source.id, error)
        progress("fitting temperatures", number, len(sources))
    best = {name: fit.best() for name, fit in fits.items()}
    log.info("Temperatures: %s", best)
    return best


def _blind(plan: ScorePlan, measures: tuple[str, ...]) -> ScorePlan:
    return ScorePlan(
        classes=plan.classes, head=plan.head, measures=measures, void=plan.void, unseen=plan.unseen, replicates=2
    )


def _accuracy(board: Scoreboard) -> float | tuple[float, ...]:
    counts = board.confusion()
    tables = counts if counts.ndim == 3 else counts[None]
    accuracies = tuple(float(np.trace(table) / table.sum()) if table.sum() else 0.0 for table in tables)
    return accuracies if counts.ndim == 3 else accuracies[0]
