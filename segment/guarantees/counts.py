"""What is kept of every image: its right and wrong pixels at every level of each measure, sparse and mergeable.

A threshold chosen on these counts is applied to the same counts exactly. Must not know files, networks or methods.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.guarantees import sets
from segment.guarantees.levels import LEVELS, level_of
from segment.guarantees.segments import mean_over, segments_of
from segment.scores import arrays
from segment.scores.functional.binning import Ints
from segment.scores.plan import ScorePlan
from segment.scores.tally import CheckedImage

UNITS = ("pixel", "segment")
RIGHT, WRONG, MISSED = 0, 1, 2
"""Columns at each level: right and wrong pixels, then for each class its pixels that were predicted otherwise."""

Sparse = tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]
"""Places that are not 0, and their counts; 16 bits where they fit."""


class ImageCounts:
    """The counts of every image of one method, by id; any order and any division into shards gives the same.

    Wrong is a pixel whose prediction differs from its label; of an unseen object, always; with several labels, where
    any of them is wrong. Void pixels are not counted.
    """

    def __init__(self, plan: ScorePlan) -> None:
        self.plan = plan
        self._sparse: dict[str, dict[str, Sparse]] = {}
        self._labelled: dict[str, Ints] = {}

    def update(
        self,
        identity: str,
        probability: arrays.ArrayLike,  # K H W
        maps: Mapping[str, arrays.ArrayLike],  # H W each; multilabel: also K H W
        label: arrays.ArrayLike,  # H W ids; multilabel: K H W
        prediction: arrays.ArrayLike | None = None,
    ) -> None:
        """Count one image, as `Scoreboard.update` takes it. Errors: as there."""
        if identity in self._sparse:
            raise WrongUse(f"Image {identity!r} was counted before; an image may be counted once.")
        tasks = arrays.checked(identity, self.plan, probability, maps, label, prediction)
        pixels = _Pixels(tasks, multilabel=self.plan.head == "multilabel")
        counts: dict[str, Sparse] = {}
        segments = segments_of(pixels.prediction, arrays.counted(label))
        for name in self.plan.measures:
            values = np.asarray(np.mean([task.maps[name] for task in tasks], axis=0), dtype=np.float32)
            counts[f"pixel/{name}"] = pixels.counted(values)
            counts[f"segment/{name}"] = pixels.counted(mean_over(segments, values))
        if self.plan.head != "multilabel":
            known = tasks[0].known
            counts["sets"] = _sparse(sets.true_class_counts(tasks[0].probability[:, known], tasks[0].label[known]))
        self._sparse[identity] = counts
        self._labelled[identity] = pixels.labelled

    def merge(self, other: ImageCounts) -> None:
        """Add another shard. Errors: WrongUse for another plan or an image that is in both."""
        if other.plan != self.plan:
            raise WrongUse("Counts of different plans cannot be merged.")
        if repeated := self._sparse.keys() & other._sparse.keys():
            raise WrongUse(f"Image {min(repeated)!r} is in both; an image may be counted once.")
        self._sparse |= other._sparse
        self._labelled |= other._labelled

    def of_images(self, ids: Collection[str]) -> ImageCounts:
        """The counts of some of the images."""
        part = ImageCounts(self.plan)
        part._sparse = {i: self._sparse[i] for i in ids}
        part._labelled = {i: self._labelled[i] for i in ids}
        return part

    @property
    def ids(self) -> list[str]:
        return sorted(self._sparse)

    @property
    def labelled(self) -> Ints:  # -> N 1+K
        """Labelled pixels of each image, and those of each class, in the order of the ids."""
        return np.array([self._labelled[i] for i in self.ids]).reshape(-1, 1 + len(self.plan.classes))

    def at_levels(self, unit: str, measure: str, columns: tuple[int, ...]) -> Ints:  # -> len(columns) N LEVELS
        """Pixels of the columns at each level, in the order of the ids."""
        width = MISSED + len(self.plan.classes)
        dense = np.zeros((len(columns), len(self._sparse), LEVELS), dtype=np.int64)
        for row, identity in enumerate(self.ids):
            places, counts = self._sparse[identity][f"{unit}/{measure}"]
            for index, column in enumerate(columns):
                of_column = places % width == column
                dense[index, row, places[of_column] // width] = counts[of_column]
        return dense

    def true_classes(self, identity: str) -> Ints:  # -> RANKS BINS
        """Pixels of an image by rank and bin of their true class, as `sets.true_class_counts`."""
        dense = np.zeros(sets.RANKS * sets.BINS, dtype=np.int64)
        places, counts = self._sparse[identity]["sets"]
        dense[places] = counts
        return dense.reshape(sets.RANKS, sets.BINS)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays by name, for a file; `ImageCounts.of` restores it."""
        ids = self.ids
        state: dict[str, NDArray[Any]] = {"ids": np.array(ids, dtype=np.str_), "labelled": self.labelled}
        for name in self._names():
            kept = [self._sparse[i][name] for i in ids]
            state[f"{name}/lengths"] = np.array([len(places) for places, _ in kept], dtype=np.int64)
            for of, part in enumerate(("places", "counts")):
                state[f"{name}/{part}"] = np.concatenate([np.zeros(0, np.uint16), *(sparse[of] for sparse in kept)])
        return state

    @classmethod
    def of(cls, plan: ScorePlan, state: Mapping[str, NDArray[Any]]) -> ImageCounts:
        """The counts with this state. Errors: KeyError or ValueError where it is of another plan."""
        counts = cls(plan)
        ids = [str(i) for i in state["ids"]]
        counts._labelled = dict(zip(ids, state["labelled"].astype(np.int64), strict=True))
        counts._sparse = {i: {} for i in ids}
        for name in counts._names():
            ends = state[f"{name}/lengths"].cumsum()[:-1]
            places, numbers = (np.split(state[f"{name}/{part}"], ends) for part in ("places", "counts"))
            for i, sparse in zip(ids, zip(places, numbers, strict=True), strict=bool(ids)):
                counts._sparse[i][name] = sparse
        return counts

    def _names(self) -> list[str]:
        names = [f"{unit}/{measure}" for measure in self.plan.measures for unit in UNITS]
        return names if self.plan.head == "multilabel" else [*names, "sets"]


class _Pixels:
    """Which pixels of an image are labelled, wrong, and of which class."""

    def __init__(self, tasks: list[CheckedImage], *, multilabel: bool) -> None:
        wrong_of = [task.unseen | (task.known & (task.label != task.prediction)) for task in tasks]
        valid = np.any([task.known | task.unseen for task in tasks], axis=0)
        self.prediction = np.stack([task.prediction for task in tasks]) if multilabel else tasks[0].prediction
        self._at = np.flatnonzero(valid)
        self._wrong = np.any(wrong_of, axis=0).ravel()[self._at]
        if multilabel:
            of_class = [task.known & (task.label == 1) for task in tasks]
        else:
            of_class = [tasks[0].known & (tasks[0].label == k) for k in range(len(tasks[0].probability))]
            wrong_of = wrong_of * len(of_class)
        self._missed = [
            np.flatnonzero((inside & wrong).ravel()) for inside, wrong in zip(of_class, wrong_of, strict=True)
        ]
        self.labelled = np.array([self._at.size, *(int(inside.sum()) for inside in of_class)], dtype=np.int64)

    def counted(self, values: NDArray[np.float32]) -> Sparse:
        """The counts of a measure: places are level times columns plus column."""
        level, width = level_of(values).ravel(), MISSED + len(self._missed)
        dense = np.zeros((LEVELS, width), dtype=np.int64)
        by_error = np.bincount(level[self._at] * np.int64(2) + self._wrong, minlength=2 * LEVELS).reshape(LEVELS, 2)
        dense[:, RIGHT], dense[:, WRONG] = by_error[:, 0], by_error[:, 1]
        for k, places in enumerate(self._missed):
            if places.size:
                dense[:, MISSED + k] = np.bincount(level[places], minlength=LEVELS)
        return _sparse(dense)


def _sparse(dense: Ints) -> Sparse:
    flat = dense.ravel()
    places = np.flatnonzero(flat)
    return _smallest(places), _smallest(flat[places])


def _smallest(values: NDArray[np.integer]) -> NDArray[np.unsignedinteger]:
    kind = np.uint16 if values.max(initial=0) < 2**16 else np.uint32
    return values.astype(kind)
