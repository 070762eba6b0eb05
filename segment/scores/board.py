"""One problem's counts over all images, of every replicate, and the scores that they estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segment.scores import intervals, summary
from segment.scores.functional.binning import Floats, Ints, mean_defined
from segment.scores.tally import Problem, Tally, exact, rough, shapes

Entry = dict[str, Any]
TOO_FEW = "an interval needs two images or more"


class Board:
    """The counts of one problem over all images, and the same for every replicate."""

    def __init__(self, problem: Problem, replicates: int) -> None:
        self.problem = problem
        self.counts: Tally = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes(problem).items()}
        nothing = rough(self.counts)
        self.replicates: Tally = {n: np.zeros((c.size, replicates), dtype=np.int64) for n, c in nothing.items()}

    def add(self, counts: Tally, weights: Ints) -> None:
        for name, added in counts.items():
            self.counts[name] += added
        for name, added in rough(counts).items():
            intervals.add_weighted(self.replicates[name], added, weights)

    def merge(self, other: Board) -> None:
        for mine, theirs in ((self.counts, other.counts), (self.replicates, other.replicates)):
            for name in mine:
                mine[name] += theirs[name]

    def tallies(self) -> tuple[Tally, Tally, Tally]:
        """Of all images (fine bins), of all images in the replicates' bins, of the replicates; each R ... ."""
        coarse = rough(self.counts)
        replicates = {n: np.ascontiguousarray(r.T).reshape(-1, *coarse[n].shape) for n, r in self.replicates.items()}
        whole = {n: c[None] for n, c in exact(self.counts).items()}
        return whole, {n: c[None] for n, c in coarse.items()}, replicates


@dataclass(frozen=True)
class Estimated:
    """One score: of all images, in the replicates' coarser bins, and of each replicate; `why` where it is not defined.

    exact_to: how far the order that its fine bins lost may take it; None for a score that needs no bins
    """

    value: float
    rough: float
    replicates: Floats
    why: str
    exact_to: float | None = None

    def minus(self, other: Estimated) -> Estimated:
        pairs = (self.value - other.value, self.rough - other.rough, self.replicates - other.replicates)
        return Estimated(*pairs, self.why or other.why)

    def entry(self, limits: tuple[float, float], images: int) -> Entry:
        if math.isnan(self.value):
            return {"value": None, "low": None, "high": None, "why": self.why}
        found = intervals.interval(self.value, self.rough, self.replicates) if images > 1 else None
        if found is None:
            reason = TOO_FEW if images < 2 else "too few replicates define the score"
            return {"value": self.value, "low": None, "high": None, "why": reason}
        low, high = (min(max(end, limits[0]), limits[1]) for end in found)
        bound = {} if self.exact_to is None else {"exact_to": self.exact_to}
        return {"value": self.value, "low": low, "high": high, **bound}


def estimates(board: Board) -> dict[str, Estimated]:
    """Every score of one problem, by its name."""
    tallies = board.tallies()
    whole, coarse, replicates = (summary.scores(tally, board.problem) for tally in tallies)
    bounds = summary.exact_to(tallies[0], board.problem)
    found = {}
    for name in whole:
        value = float(whole[name][0])
        reason = summary.why(name, tallies[0], board.problem) if math.isnan(value) else ""
        found[name] = Estimated(value, float(coarse[name][0]), replicates[name], reason, bounds.get(name))
    return found


def mean_of(labels: Sequence[dict[str, Estimated]]) -> dict[str, Estimated]:
    """A multi-label head's scores: the mean over the labels that define them, replicate by replicate."""
    found = {}
    for name in labels[0]:
        ones = [of_label[name] for of_label in labels]
        value, coarse = (mean_defined(np.array(v)) for v in zip(*((one.value, one.rough) for one in ones), strict=True))
        replicates = mean_defined(np.stack([one.replicates for one in ones], axis=-1))
        reason = ones[0].why if math.isnan(float(value)) else ""
        bounds = [one.exact_to for one in ones if one.exact_to is not None and not math.isnan(one.exact_to)]
        bound = sum(bounds) / len(bounds) if bounds else None
        found[name] = Estimated(float(value), float(coarse), replicates, reason, bound)
    return found


def curves(board: Board, images: int) -> dict[str, Entry]:
    """Every curve of one problem: x, y, and the 95 % interval of each y; bins without pixels are left out."""
    whole, coarse, replicates = (summary.curves(tally, board.problem) for tally in board.tallies())
    found = {}
    for name, (x, y) in whole.items():
        points = [i for i in range(x.shape[1]) if not math.isnan(y[0, i])]
        ends = []
        for i in points:
            spread = intervals.interval(y[0, i], coarse[name][1][0, i], replicates[name][1][:, i])
            ends.append(tuple(np.clip(spread, 0, 1).tolist()) if spread and images > 1 else (None, None))
        found[name] = {"x": x[0, points].tolist(), "y": y[0, points].tolist()}
        found[name] |= {"low": [low for low, _ in ends], "high": [high for _, high in ends]}
    return found
