"""What only validation images can tell: temperatures, thresholds of doubt, and the accuracy of the mask.

Two rounds: temperatures are fitted first, then every method is scored under them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import OutOfMemory, SegmentError, WrongUse
from segment.estimation.estimator import EstimatePlan, Estimator
from segment.estimation.memory_budget import Memory, memory_budget
from segment.images.find import Source
from segment.images.prepare import normalise
from segment.jobs.evaluation.compared_methods import FITTED, Contenders, key
from segment.jobs.evaluation.labels import Labelled, read_labelled
from segment.jobs.evaluation.scoring import SCORING, Scoring
from segment.jobs.progress import Progress
from segment.methods.temperature import TemperatureFit
from segment.networks.load import Network
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Validation:
    """Per method and bank (see `contenders.key`) what was chosen on validation images; empty where there were none.

    temperatures: key -> what divides the logits; accuracies: key -> of the mask, one or one a label
    thresholds: key -> measure -> above them a patch of each size is uncertain; images: how many; failed: id -> why
    """

    temperatures: Mapping[str, float]
    accuracies: Mapping[str, float | tuple[float, ...]]
    thresholds: Mapping[str, Mapping[str, tuple[float, ...]]]
    images: int
    failed: Mapping[str, str]

    @staticmethod
    def none() -> Validation:
        return Validation({}, {}, {}, 0, {})

    @staticmethod
    def of(told: Mapping[str, Any]) -> Validation:
        """What `as_dict` gave, read back from JSON."""
        accuracies = {name: tuple(a) if isinstance(a, list) else a for name, a in told["accuracies"].items()}
        thresholds = {
            name: {measure: tuple(values) for measure, values in chosen.items()}
            for name, chosen in told["thresholds"].items()
        }
        return Validation(**{**told, "accuracies": accuracies, "thresholds": thresholds})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def validate(
    network: Network, sources: Sequence[Source], methods: Contenders, plan: ScorePlan, progress: Progress, *,
    memory: Memory = None,
) -> Validation:  # fmt: skip
    """Temperatures, then thresholds and accuracies of every method. Errors: WrongUse where no image can be used."""
    fitted = temperatures(network, sources, methods, plan, progress, memory=memory)
    read_outs = methods.read_outs(fitted)
    boards = {name: Scoreboard(_blind(plan, read_out.measures)) for name, read_out in read_outs.items()}
    scoring = Scoring(network, read_outs, boards, memory)
    scoring.run(sources, progress=progress, stage="validating")
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
    )


def temperatures(
    network: Network, sources: Sequence[Source], methods: Contenders, plan: ScorePlan, progress: Progress, *,
    memory: Memory = None,
) -> dict[str, float]:  # fmt: skip
    """By `contenders.key`, of each method that has one; 1 where no image can be used."""
    fitted = {key(name, index): method for name in FITTED for index, method in enumerate(methods.methods.get(name, ()))}
    if not fitted:
        return {}
    budget = memory_budget(memory, network.device)
    planned = Estimator(network, methods.read_outs({}), EstimatePlan(budget=budget, beside=SCORING))
    fits = {name: TemperatureFit(network.card.head) for name in fitted}
    for number, item in enumerate(read_labelled(sources, network), start=1):
        if not item.problem:
            height, width = item.image.shape[:2]
            if planned.side_for(height, width) is not None:
                raise OutOfMemory(
                    f"An image of {height} x {width} pixels does not go through whole, and a temperature is fitted on "
                    "whole images: leave its methods out."
                )
            try:
                images = normalise(item.image, network.card.input)[None]
                for name, fit in fits.items():
                    fit.update(fitted[name], images, item.label, _known(item, plan))
            except (SegmentError, RuntimeError, ValueError) as problem:  # the scoring round names it
                log.info("%s: %s", item.source.id, problem)
        progress("fitting temperatures", number, len(sources))
    found = {name: fit.best() for name, fit in fits.items()}
    log.info("Temperatures: %s", found)
    return found


def _known(item: Labelled, plan: ScorePlan) -> NDArray[np.bool_]:
    classes = 2 if plan.head == "multilabel" else len(plan.classes)
    known = (item.label >= 0) & (item.label < classes) & ~np.isin(item.label, plan.unseen)
    return known if plan.void is None else known & (item.label != plan.void)


def _blind(plan: ScorePlan, measures: tuple[str, ...]) -> ScorePlan:
    return ScorePlan(
        classes=plan.classes, head=plan.head, measures=measures, void=plan.void, unseen=plan.unseen, replicates=2
    )


def _accuracy(board: Scoreboard) -> float | tuple[float, ...]:
    counts = board.confusion()
    tables = counts if counts.ndim == 3 else counts[None]
    found = tuple(float(np.trace(table) / table.sum()) if table.sum() else 0.0 for table in tables)
    return found if counts.ndim == 3 else found[0]
