"""One task's counts over all images and in every bootstrap replicate, and the scores computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from segment.scores import intervals, summary
from segment.scores.functional.binning import Floats, Ints, mean_defined
from segment.scores.tally import Counted, Tally, Task, exact, rough, shapes

Entry = dict[str, Any]
TOO_FEW = "an interval needs two images or more"


class Board:
    """The scoreboard of one task: its counts over all images, and the same counts in every replicate."""

    def __init__(self, task: Task, replicates: int) -> None:
        self.task = task
        self.counts: Tally = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes(task).items()}
        coarse = rough(self.counts)
        self.replicates: Tally = {n: np.zeros((c.size, replicates), dtype=np.int64) for n, c in coarse.items()}

    def add(self, counted: Counted, weights: Ints) -> None:
        for name, added in counted.whole.items():
            self.counts[name] += added
        for name, span in counted.fine.items():
            span.add_to(self.counts[name])
        for name, added in counted.rough().items():
            intervals.add_weighted(self.replicates[name], added, weights)

    def merge(self, other: Board) -> None:
        for mine, theirs in ((self.counts, other.counts), (self.replicates, other.replicates)):
            for name in mine:
                mine[name] += theirs[name]

    def tallies(self) -> tuple[Tally, Tally, Tally]:
        """Counts of all images in fine and in the replicates' bins, and of the replicates; each R ... ."""
        coarse = rough(self.counts)
        replicates = {n: np.ascontiguousarray(r.T).reshape(-1, *coarse[n].shape) for n, r in self.replicates.items()}
        whole = {n: c[None] for n, c in exact(self.counts).items()}
        return whole, {n: c[None] for n, c in coarse.items()}, replicates


@dataclass(frozen=True)
class Score:
    """One score with its bootstrap replicates.

    value: over all images; nan where the score is not defined
    rough: the same from the replicates' coarser bins
    replicates: the score in each replicate
    why: the reason where it is not defined
    exact_to: bound of the error that binning causes; None for a score that needs no bins
    """

    value: float
    rough: float
    replicates: Floats
    why: str
    exact_to: float | None = None

    def minus(self, other: Score) -> Score:
        """The difference to another score, replicate by replicate."""
        pairs = (self.value - other.value, self.rough - other.rough, self.replicates - other.replicates)
        return Score(*pairs, self.why or other.why)

    def p_value(self, images: int) -> float | None:
        """Two-sided p of a difference over so many images being 0, by a t test with the replicates' standard deviation.

        That has the divisor n, which is made n - 1 for the test. None where it is not defined; 1 where value and
        replicates are all 0, as for a method and itself. Where they are all alike, that of a sign test.
        """
        known = (self.replicates - self.rough)[~np.isnan(self.replicates)]
        if images < 2 or math.isnan(self.value) or 2 * known.size < self.replicates.size or known.size < 2:
            return None
        deviation = float(known.std(ddof=1))
        if deviation == 0:
            return 1.0 if self.value == 0 else 2.0 ** (1 - images)
        t = abs(self.value) / (deviation * math.sqrt(images / (images - 1)))
        return float(2 * special.stdtr(images - 1, -t))

    def entry(self, limits: tuple[float, float], images: int) -> Entry:
        """The entry of `scores.json`: value and 95 % interval within the limits, or the reason for their absence."""
        if math.isnan(self.value):
            return {"value": None, "low": None, "high": None, "why": self.why}
        interval = intervals.interval(self.value, self.rough, self.replicates) if images > 1 else None
        if interval is None:
            reason = TOO_FEW if images < 2 else "too few replicates define the score"
            return {"value": self.value, "low": None, "high": None, "why": reason}
        low, high = (min(max(end, limits[0]), limits[1]) for end in interval)
        bound = {} if self.exact_to is None else {"exact_to": self.exact_to}
        return {"value": self.value, "low": low, "high": high, **bound}


def estimates(board: Board) -> dict[str, Score]:
    """Every score of one task, by name."""
    tallies = board.tallies()
    whole, coarse, replicates = (summary.scores(tally, board.task) for tally in tallies)
    bounds = summary.exact_to(tallies[0], board.task)
    scores = {}
    for name in whole:
        value = float(whole[name][0])
        reason = summary.why(name, tallies[0], board.task) if math.isnan(value) else ""
        scores[name] = Score(value, float(coarse[name][0]), replicates[name], reason, bounds.get(name))
    return scores


def mean_of(labels: Sequence[dict[str, Score]]) -> dict[str, Score]:
    """A multi-label head's scores: the mean over the labels that define them, replicate by replicate."""
    means = {}
    for name in labels[0]:
        scores = [of_label[name] for of_label in labels]
        value = mean_defined(np.array([score.value for score in scores]))
        coarse = mean_defined(np.array([score.rough for score in scores]))
        replicates = mean_defined(np.stack([score.replicates for score in scores], axis=-1))
        reason = scores[0].why if math.isnan(float(value)) else ""
        bounds = [score.exact_to for score in scores if score.exact_to is not None and not math.isnan(score.exact_to)]
        bound = sum(bounds) / len(bounds) if bounds else None
        means[name] = Score(float(value), float(coarse), replicates, reason, bound)
    return means


def curves(board: Board, images: int) -> dict[str, Entry]:
    """Every curve of one task: x, y, and the 95 % interval of each y, without the bins that hold no pixels."""
    whole, coarse, replicates = (summary.curves(tally, board.task) for tally in board.tallies())
    entries = {}
    for name, (x, y) in whole.items():
        points = [i for i in range(x.shape[1]) if not math.isnan(y[0, i])]
        intervals_of_y = []
        for i in points:
            ends = intervals.interval(y[0, i], coarse[name][1][0, i], replicates[name][1][:, i])
            intervals_of_y.append(tuple(np.clip(ends, 0, 1).tolist()) if ends and images > 1 else (None, None))
        entries[name] = {"x": x[0, points].tolist(), "y": y[0, points].tolist()}
        entries[name] |= {"low": [low for low, _ in intervals_of_y], "high": [high for _, high in intervals_of_y]}
    return entries
