"""All scores of one method over a data set: update per image, merge shards, compute `scores.json`'s entry.

Fixed memory apart from one row of numbers an image; any order and any cut into shards gives the same bits.
Must not know of files, networks or how a prediction was made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.scores import arrays, intervals, summary
from segment.scores.board import Board, Entry, Estimated, curves, estimates, mean_of
from segment.scores.functional import calibration, confusion, detection, image_level, patches
from segment.scores.functional.binning import SCALE, Floats, Ints, mean_defined, quotient
from segment.scores.plan import ScorePlan
from segment.scores.tally import Tally, count


class Scoreboard:
    """Streaming scores of one method.

    >>> board = Scoreboard(ScorePlan(classes=("road", "sky"), measures=("variance",)))
    >>> p = np.array([[[0.75, 0.5]], [[0.25, 0.5]]], dtype=np.float32)  # K H W
    >>> board.update("a", p, {"variance": np.array([[0.01, 0.2]])}, np.array([[0, 1]]), np.array([[0, 0]]))
    >>> [board.compute()["scores"][name]["value"] for name in ("accuracy", "brier", "error_auroc.variance")]
    [0.5, 0.3125, 1.0]
    """

    def __init__(self, plan: ScorePlan) -> None:
        self.plan = plan
        self.reset()

    def reset(self) -> None:
        """Back to no images."""
        self._boards = [Board(self.plan.problem(i), self.plan.replicates) for i in range(self.plan.problems)]
        self._rows: dict[str, Floats] = {}

    def update(
        self,
        identity: str,
        probability: arrays.ArrayLike,  # K H W
        maps: Mapping[str, arrays.ArrayLike],  # H W each; multilabel: also K H W
        label: arrays.ArrayLike,  # H W ids; multilabel: K H W of 0, 1 or void
        prediction: arrays.ArrayLike | None = None,  # as label; the most probable class, or p >= .5, if not given
    ) -> None:
        """Count one image, once. A refused image has changed nothing."""
        if identity in self._rows:
            raise WrongUse(f"Image {identity!r} was counted before; an image may enter a scoreboard once.")
        images = arrays.checked(identity, self.plan, probability, maps, label, prediction)
        tallies = [count(image, board.problem) for image, board in zip(images, self._boards, strict=True)]
        masks = np.stack([image.prediction for image in images])
        shown = {name: np.mean([image.maps[name] for image in images], axis=0) for name in self.plan.measures}
        row = self._row(tallies, masks, shown)
        weights = intervals.poisson_weights(identity, self.plan.replicates)
        for board, tally in zip(self._boards, tallies, strict=True):
            board.add(tally, weights)
        self._rows[identity] = row

    def merge(self, other: Scoreboard) -> None:
        """Add another shard: the same bits as one pass over both."""
        if other.plan != self.plan:
            mine, theirs = asdict(self.plan), asdict(other.plan)
            differ = ", ".join(f"{key} {mine[key]!r} and {theirs[key]!r}" for key in mine if mine[key] != theirs[key])
            raise WrongUse(f"Two scoreboards of different plans cannot be merged: {differ}.")
        if twice := self._rows.keys() & other._rows.keys():
            raise WrongUse(f"Image {min(twice)!r} is in both scoreboards; an image may be counted once.")
        for board, added in zip(self._boards, other._boards, strict=True):
            board.merge(added)
        self._rows |= other._rows

    @property
    def images(self) -> int:
        return len(self._rows)

    @property
    def pixels(self) -> int:
        """Pixels with a known label (of the label with most of them, for multilabel)."""
        return max(int(board.counts["confusion"].sum()) for board in self._boards)

    def confusion(self) -> Ints:  # K K; multilabel: K 2 2
        """Pixels by label (rows) and prediction (columns)."""
        found = np.stack([board.counts["confusion"] for board in self._boards])
        return found if self.plan.head == "multilabel" else found[0]

    def thresholds(self) -> dict[str, tuple[float, ...]]:
        """Per measure and patch size the threshold with as many uncertain patches as inaccurate ones.

        Call it on validation images, counted without thresholds.
        """
        found = {}
        for name in self.plan.measures:
            summed = np.sum([board.counts[f"patch_means/{name}"] for board in self._boards], axis=0)
            found[name] = tuple(patches.matching_threshold(of_size) for of_size in summed)
        return found

    def compute(self) -> Entry:
        """`scores.json`'s entry of a method: scores, per_class, curves and thresholds; nothing in it is nan."""
        estimated = self.estimates()
        entries = {name: one.entry(summary.limits(name), self.images) for name, one in estimated.items()}
        return {"scores": entries | self._image_ranks(), "per_class": self._per_class(), "curves": self._curves(),
                "thresholds": self._thresholds()}  # fmt: skip

    def estimates(self) -> dict[str, Estimated]:
        """Every score with its replicates; a multi-label head's is the mean over the labels that define it."""
        labels = [estimates(board) for board in self._boards]
        return mean_of(labels) if len(labels) > 1 else labels[0]

    def per_image(self) -> list[Entry]:
        """One row an image, ordered by id; what is not defined there is None."""
        columns = self.columns
        rows = []
        for identity in sorted(self._rows):
            values = [None if math.isnan(v) else float(v) for v in self._rows[identity]]
            rows.append({"id": identity} | dict(zip(columns, values, strict=True)))
        return rows

    @property
    def columns(self) -> list[str]:
        """The columns of a row after the id; area is the share of pixels above the measure's threshold."""
        whole = ["pixels", "accuracy", "miou", "dice", "nll", "brier", *(f"iou.{name}" for name in self.plan.classes)]
        kinds = ("error_auroc", *image_level.AGGREGATIONS)
        return whole + [f"{kind}.{name}" for name in self.plan.measures for kind in kinds]

    def _row(self, tallies: list[Tally], masks: Ints, maps: Mapping[str, NDArray[np.float32]]) -> Floats:
        parts = [_mask_row(tally, self.plan.head) for tally in tallies]
        whole = mean_defined(np.stack([part[:6] for part in parts], axis=-1))
        whole[0] = max(part[0] for part in parts)
        numbers = [whole, *(part[6:] for part in parts)]
        inside = image_level.interior(masks)
        for name, values in maps.items():
            auroc = mean_defined(np.stack([detection.auroc(_filled(t[f"ranking/{name}"])) for t in tallies], axis=-1))
            threshold = (self.plan.thresholds or {}).get(name, (None,))[0]  # of single pixels
            numbers += [np.atleast_1d(auroc), image_level.aggregate(values, inside, threshold)]
        return np.concatenate(numbers)

    def _image_ranks(self) -> Entry:
        order = sorted(self._rows)
        column = {name: np.array([self._rows[i][at] for i in order]) for at, name in enumerate(self.columns)}
        found: Entry = {}
        for name, kind in product(self.plan.measures, image_level.AGGREGATIONS):
            for quality in ("dice", "miou"):
                rho, images = image_level.spearman(column[f"{kind}.{name}"], -column[quality])
                found[f"{quality}_rank_{kind}.{name}"] = _rank_entry(rho, images, kind)
        return found

    def _thresholds(self) -> Entry:
        given = self.plan.thresholds or {}
        return {name: dict(zip((f"pavpu_{size}" for size in patches.SIZES), values, strict=True))
                for name, values in given.items()}  # fmt: skip

    def _per_class(self) -> Entry:
        found: Entry = {}
        for (board, k), name in zip(self._places(), self.plan.classes, strict=True):
            counts = confusion.class_counts(board.counts["confusion"])
            error = calibration.calibration_error(board.counts["class_reliability"][k])
            values = {"iou": confusion.iou(counts)[k], "dice": confusion.dice(counts)[k], "ece": error}
            found[name] = {key: None if np.isnan(v) else float(v) for key, v in values.items()}
            found[name]["pixels"] = int(counts[1, k])
            if found[name]["iou"] is None:
                found[name]["why"] = "in neither label nor prediction"
        return found

    def _curves(self) -> Entry:
        found: Entry = {}
        for board, label in zip(self._boards, self.plan.classes, strict=False):  # one board, or one a label
            end = f".{label}" if self.plan.head == "multilabel" else ""
            found |= {name + end: curve for name, curve in curves(board, self.images).items()}
        for (board, k), name in zip(self._places(), self.plan.classes, strict=True):
            x, y = calibration.reliability_curve(board.counts["class_reliability"][k])
            filled = ~np.isnan(y)
            found[f"reliability_class.{name}"] = {"x": x[filled].tolist(), "y": y[filled].tolist()}
        return found

    def _places(self) -> list[tuple[Board, int]]:
        """Where each class is counted: as class k of the one board, or as class 1 of its own."""
        if self.plan.head == "multilabel":
            return [(board, 1) for board in self._boards]
        return [(self._boards[0], k) for k in range(len(self.plan.classes))]

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything, as plain arrays by name, for a file or another process; `Scoreboard.of` reads it."""
        order = sorted(self._rows)
        found: dict[str, NDArray[Any]] = {"plan": np.array(json.dumps(asdict(self.plan)))}
        found["ids"] = np.array(order, dtype=np.str_)
        found["rows"] = np.array([self._rows[i] for i in order], dtype=np.float64).reshape(-1, len(self.columns))
        for i, board in enumerate(self._boards):
            found |= {f"{i}/counts/{name}": value.copy() for name, value in board.counts.items()}
            found |= {f"{i}/replicates/{name}": value.copy() for name, value in board.replicates.items()}
        return found

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]]) -> Scoreboard:
        """The scoreboard that gave this state."""
        settings = json.loads(str(state["plan"]))
        plan: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in settings.items()}
        if plan["thresholds"] is not None:
            plan["thresholds"] = {name: tuple(values) for name, values in plan["thresholds"].items()}
        board = cls(ScorePlan(**plan))
        for i, one in enumerate(board._boards):
            for part, held in (("counts", one.counts), ("replicates", one.replicates)):
                for name in held:
                    held[name] = np.array(state[f"{i}/{part}/{name}"], dtype=np.int64)
        board._rows = {str(name): row.copy() for name, row in zip(state["ids"], state["rows"], strict=True)}
        return board


def _mask_row(tally: Tally, head: str) -> Floats:
    """Pixels, accuracy, mean IoU, mean Dice, NLL, Brier, then the IoU of each class (of the label itself)."""
    counts = confusion.class_counts(tally["confusion"])
    pixels = counts[1].sum()
    proper = quotient(tally["sums"] / SCALE, pixels)
    whole = [pixels, confusion.accuracy(counts), confusion.mean_iou(counts), confusion.mean_dice(counts)]
    of_class = confusion.iou(counts)
    return np.concatenate(
        [np.array(whole, dtype=np.float64), proper, of_class[1:] if head == "multilabel" else of_class]
    )


def _filled(ranking: Ints) -> Ints:  # B 2 or 3 -> b 2
    """Right and wrong pixels of the bins that hold any: of one image, a tenth."""
    errors = ranking[:, :2]
    return errors[np.flatnonzero(errors[:, 0] + errors[:, 1])]


def _rank_entry(rho: float, images: int, kind: str) -> Entry:
    if math.isnan(rho):
        missing = kind == "area" and images == 0
        reason = "no threshold was given for this measure" if missing else "too few images, or all of them alike"
        return {"value": None, "low": None, "high": None, "why": reason}
    if (found := intervals.spearman_interval(rho, images)) is None:
        return {"value": rho, "low": None, "high": None, "why": "an interval needs four images or more"}
    return {"value": rho, "low": found[0], "high": found[1]}


def paired_differences(first: Scoreboard, second: Scoreboard) -> dict[str, Entry]:
    """Second minus first for every score that both have, with the 95 % interval of the difference.

    Both have counted the same images, so that each replicate weighs them alike: what makes an image hard cancels.
    """
    if first._rows.keys() != second._rows.keys() or first.plan.replicates != second.plan.replicates:
        raise WrongUse(
            f"A paired difference needs the same images and replicates; {first.images} and {second.images} images were "
            f"counted, {len(first._rows.keys() & second._rows.keys())} of them in both."
        )
    one, two = first.estimates(), second.estimates()
    unbounded = (-math.inf, math.inf)
    return {name: two[name].minus(one[name]).entry(unbounded, first.images) for name in one if name in two}
