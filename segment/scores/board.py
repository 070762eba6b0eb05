"""One task's counts over all images and in every bootstrap replicate, and the scores computed from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import special

from segment.scores import intervals, summary
from segment.scores.functional.binning import Floats, Ints, mean_defined
from segment.scores.tally import CountedImage, Tally, Task, exact, rough, shapes

Entry = dict[str, Any]
Over = Literal["images", "groups"]
"""What intervals and tests are over: images, or groups of them, each of which is drawn as a whole."""
KINDS = ("right", "wrong", "known", "unseen")
"""Pixels of which a score may need some: an image that holds none adds nothing to it."""


class Board:
    """The scoreboard of one task: its counts over all images, and the same counts in every replicate."""

    def __init__(self, task: Task, replicates: int) -> None:
        self.task = task
        self.counts: Tally = {name: np.zeros(shape, dtype=np.int64) for name, shape in shapes(task).items()}
        coarse = rough(self.counts)
        self.replicates: Tally = {n: np.zeros((c.size, replicates), dtype=np.int64) for n, c in coarse.items()}
        self.units: dict[str, int] = {}
        """What each image, or group of them, holds: a bit for each of KINDS, then one for each class of its label."""

    def add(self, counted: CountedImage, unit: str, weights: Ints) -> None:
        """unit: the image, or its group, whose weights these are."""
        for name, added in counted.whole.items():
            self.counts[name] += added
        for name, span in counted.fine.items():
            span.add_to(self.counts[name])
        for name, added in counted.rough().items():
            intervals.add_weighted(self.replicates[name], added, weights)
        held = [*_pixels(counted, self.task), *counted.whole["confusion"].sum(axis=1)]
        bits = sum(1 << place for place, pixels in enumerate(held) if pixels)
        self.units[unit] = self.units.get(unit, 0) | bits

    def merge(self, other: Board) -> None:
        for mine, theirs in ((self.counts, other.counts), (self.replicates, other.replicates)):
            for name in mine:
                mine[name] += theirs[name]
        for unit, bits in other.units.items():
            self.units[unit] = self.units.get(unit, 0) | bits

    def state(self) -> dict[str, Ints]:
        """All of it by name; `load` restores it."""
        parts = {"counts": self.counts, "replicates": self.replicates}
        state = {f"{part}/{name}": values.copy() for part, tally in parts.items() for name, values in tally.items()}
        names = sorted(self.units)
        size = (len(KINDS) + self.task.classes + 7) // 8
        held = b"".join(self.units[name].to_bytes(size, "little") for name in names)
        bits = np.frombuffer(held, dtype=np.uint8).reshape(len(names), size)
        return state | {"units": np.array(names, "U"), "held": bits}

    def load(self, state: Mapping[str, Ints]) -> None:
        """Become the board whose state this is, of the same task."""
        self.counts, self.replicates = (
            {name: np.array(state[f"{part}/{name}"], dtype=np.int64) for name in tally}
            for part, tally in (("counts", self.counts), ("replicates", self.replicates))
        )
        held = (int.from_bytes(row.tobytes(), "little") for row in state["held"])
        self.units = dict(zip(map(str, state["units"]), held, strict=True))

    def holding(self) -> Ints:
        """Units that hold pixels of each of KINDS, then those whose label holds each class."""
        alike = Counter(self.units.values())  # far fewer than units
        places = range(len(KINDS) + self.task.classes)
        return np.array([sum(n for bits, n in alike.items() if bits >> place & 1) for place in places], dtype=np.int64)

    def units_for(self, name: str) -> int:
        """Units that hold what a score needs: a score of two kinds of pixels, the fewer of their units."""
        return _units_for(name, self.holding())

    def rarest_class(self) -> tuple[int, int] | None:
        """How many units hold the rarest class in their label, and which that is; None without any."""
        return min(((int(n), k) for k, n in enumerate(self.holding()[len(KINDS) :]) if n), default=None)

    def tallies(self) -> tuple[Tally, Tally, Tally]:
        """Counts of all images in fine and in the replicates' bins, and of the replicates; each R ... ."""
        coarse = rough(self.counts)
        replicates = {n: np.ascontiguousarray(r.T).reshape(-1, *coarse[n].shape) for n, r in self.replicates.items()}
        whole = {n: c[None] for n, c in exact(self.counts).items()}
        return whole, {n: c[None] for n, c in coarse.items()}, replicates


def _units_for(name: str, holding: Ints) -> int:
    return min(int(holding[KINDS.index(kind)]) for kind in summary.needs(name))


def _pixels(counted: CountedImage, task: Task) -> tuple[int, ...]:
    """How many pixels of each of KINDS an image holds."""
    confusion = counted.whole["confusion"]
    known, right = int(confusion.sum()), int(np.trace(confusion))
    ranked = task.unseen and next((span for name, span in counted.fine.items() if name.startswith("ranking/")), None)
    unseen = int(ranked.counts[:, 2].sum()) if ranked else 0
    return right, known - right, known, unseen


@dataclass(frozen=True)
class Score:
    """One score with its bootstrap replicates.

    value: over all images; nan where the score is not defined
    rough: the same from the replicates' coarser bins
    replicates: the score in each replicate
    why: the reason where it is not defined
    exact_to: bound of the error that binning causes; None for a score that needs no bins
    held_by: images, or groups of them, that hold what the score needs; None: all
    rarest: those that hold the rarest of the classes that the score is a mean over; None: it is none
    """

    value: float
    rough: float
    replicates: Floats
    why: str
    exact_to: float | None = None
    held_by: int | None = None
    rarest: int | None = None

    def units(self, every: int) -> int:
        """How many of `every` images or groups hold what the score needs: the others tell nothing of it."""
        return every if self.held_by is None else min(every, self.held_by)

    def independent(self, every: int) -> int:
        """How many of `every` units a test may count: no more than hold the rarest class of a mean over classes, or 2.

        That class has the largest part in the mean's variance, by its few units.
        """
        return self.units(every) if self.rarest is None else min(self.units(every), max(self.rarest, 2))

    def minus(self, other: Score) -> Score:
        """The difference to another score, replicate by replicate."""
        pairs = (self.value - other.value, self.rough - other.rough, self.replicates - other.replicates)
        held, rarest = _fewest((self.held_by, other.held_by)), _fewest((self.rarest, other.rarest))
        return Score(*pairs, self.why or other.why, held_by=held, rarest=rarest)

    def p_value(self, units: int) -> float | None:
        """Two-sided p of a mean difference of 0 over the units, by a t test with the replicates' standard deviation.

        That has the divisor n, which is made n - 1 for the test; n counts the units as `independent` does.
        None where it is not defined; 1 where value and replicates are all 0, as for a method and itself. Where they are
        all alike, that of a sign test.
        """
        units = self.independent(units)
        known = (self.replicates - self.rough)[~np.isnan(self.replicates)]
        if units < 2 or math.isnan(self.value) or 2 * known.size < self.replicates.size or known.size < 2:
            return None
        deviation = float(known.std(ddof=1))
        if deviation == 0:
            return 1.0 if self.value == 0 else 2.0 ** (1 - units)
        t = abs(self.value) / (deviation * math.sqrt(units / (units - 1)))
        return float(2 * special.stdtr(units - 1, -t))

    def entry(self, limits: tuple[float, float], units: int, over: Over = "images") -> Entry:
        """The entry of `scores.json`: value and 95 % interval within the limits, or the reason for their absence.

        With `images`, or `groups` where it is over groups, where only some of the units hold what the score needs.
        """
        if math.isnan(self.value):
            return {"value": None, "low": None, "high": None, "why": self.why}
        held = self.units(units)
        few: Entry = {over: held} if held < units else {}
        interval = intervals.interval(self.value, self.rough, self.replicates) if held > 1 else None
        if interval is None:
            too_few = f"an interval needs two {over}" + (" or more" if units < 2 else " that hold what the score is of")
            reason = "too few replicates define the score" if held > 1 else too_few
            return {"value": self.value, "low": None, "high": None, "why": reason, **few}
        low, high = (min(max(end, limits[0]), limits[1]) for end in interval)
        bound = {} if self.exact_to is None else {"exact_to": self.exact_to}
        return {"value": self.value, "low": low, "high": high, **bound, **few}


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
    rarest, holding = (board.rarest_class() or (None, None))[0], board.holding()
    return {
        name: replace(
            score, held_by=_units_for(name, holding), rarest=rarest if summary.averages_classes(name) else None
        )
        for name, score in scores.items()
    }


def _fewest(held: Sequence[int | None]) -> int | None:
    return min((units for units in held if units is not None), default=None)


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
        defined = [score for score in scores if not math.isnan(score.value)]
        held, rarest = _fewest([score.held_by for score in defined]), _fewest([score.rarest for score in defined])
        means[name] = Score(float(value), float(coarse), replicates, reason, bound, held, rarest)
    return means


def curves(board: Board) -> dict[str, Entry]:
    """Every curve of one task: x, y, and the 95 % interval of each y, without the bins that hold no pixels."""
    held = board.holding()[KINDS.index("known")]
    whole, coarse, replicates = (summary.curves(tally, board.task) for tally in board.tallies())
    entries = {}
    for name, (x, y) in whole.items():
        points = [i for i in range(x.shape[1]) if not math.isnan(y[0, i])]
        intervals_of_y = []
        for i in points:
            ends = intervals.interval(y[0, i], coarse[name][1][0, i], replicates[name][1][:, i])
            intervals_of_y.append(tuple(np.clip(ends, 0, 1).tolist()) if ends and held > 1 else (None, None))
        entries[name] = {"x": x[0, points].tolist(), "y": y[0, points].tolist()}
        entries[name] |= {"low": [low for low, _ in intervals_of_y], "high": [high for _, high in intervals_of_y]}
    return entries
