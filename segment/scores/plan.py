"""What is scored: classes, measures, void and unseen labels, thresholds; equal in every shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segment.axes import HEADS, Head
from segment.errors import WrongUse
from segment.scores.functional.patches import SIZES
from segment.scores.intervals import REPLICATES
from segment.scores.tally import Task

OUTSIDE = -(2**31)
"""The id of a pixel without data, or outside the region mask: left out everywhere, and of the means of an image."""


@dataclass(frozen=True, kw_only=True)
class ScorePlan:
    """What is scored, in the ids of the label files.

    classes: their names, in the order of the ids 0..K-1 (two for a sigmoid head; one a label for multilabel)
    head: what the probabilities mean
    measures: names of the maps that `update` brings
    void: the label id that is left out everywhere
    unseen: label ids of objects of no trained class: left out of mask, probability and error scores
    thresholds: per measure the value above which a patch of 1, 4 and 16 pixels a side is uncertain (PAvPU; the first
        also for `area`), from validation images
    validation_accuracy: of the mask on validation images, within [0, 1]; per label for multilabel, or one for all; None
    of a label that they say nothing of
    replicates: of the bootstrap, from 2 up
    """

    classes: tuple[str, ...]
    head: Head = "softmax"
    measures: tuple[str, ...] = ()
    void: int | None = None
    unseen: tuple[int, ...] = ()
    thresholds: Mapping[str, tuple[float, ...]] | None = None
    validation_accuracy: float | tuple[float | None, ...] | None = None
    replicates: int = REPLICATES

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise WrongUse(f"No head is called {self.head!r}. Known: {', '.join(HEADS)}.")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise WrongUse(f"Scores need at least one class and no name twice; given: {list(self.classes)}.")
        if self.head == "sigmoid" and len(self.classes) != 2:
            raise WrongUse(
                f"A sigmoid head has two classes; {len(self.classes)} names were given: {list(self.classes)}."
            )
        if self.void is not None and self.void in self.unseen:
            raise WrongUse(f"Label id {self.void} cannot be both void and unseen; take it out of one of the two.")
        if strange := set(self.thresholds or {}) - set(self.measures):
            raise WrongUse(f"A threshold was given for {sorted(strange)}, which is not among {list(self.measures)}.")
        if any(len(values) != len(SIZES) for values in (self.thresholds or {}).values()):
            raise WrongUse(f"A measure needs one threshold for each patch size {SIZES}; given: {self.thresholds}.")
        if self.replicates < 2:
            raise WrongUse(f"An interval from {self.replicates} replicates was asked for; it needs 2 or more.")
        accuracies = self.accuracies
        if len(accuracies) != self.tasks or any(a is not None and not 0 <= a <= 1 for a in accuracies):
            raise WrongUse(
                f"The validation accuracy must be within 0..1, one in all or one a label; it is {accuracies}."
            )

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ScorePlan:
        """The plan whose fields were written as JSON."""
        plan: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
        if plan["thresholds"] is not None:
            plan["thresholds"] = {name: tuple(values) for name, values in plan["thresholds"].items()}
        return cls(**plan)

    @property
    def tasks(self) -> int:
        return len(self.classes) if self.head == "multilabel" else 1

    @property
    def accuracies(self) -> tuple[float | None, ...]:
        given = self.validation_accuracy
        return given if isinstance(given, tuple) else (given,) * self.tasks

    def task(self, index: int) -> Task:
        """The K-class task, or for multilabel the two-class task of a label."""
        return Task(
            classes=2 if self.head == "multilabel" else len(self.classes),
            measures=self.measures,
            unseen=bool(self.unseen),
            thresholds=self.thresholds or {},
            validation_accuracy=self.accuracies[index],
        )
