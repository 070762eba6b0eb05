"""All scores of one method over a data set: update per image, merge shards, compute the entry of `scores.json`.

Fixed memory apart from a row of numbers an image; any order and any division into shards gives the same bits.
Must not know files, networks or how a prediction was made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.scores import arrays, intervals, summary
from segment.scores.board import Board, Entry, Over, Score, curves, estimates, mean_of
from segment.scores.functional import calibration, confusion, detection, expected, image_level, patches
from segment.scores.functional.binning import SCALE, Floats, Ints, mean_defined, quotient
from segment.scores.functional.expected import EXPECTED
from segment.scores.plan import ScorePlan
from segment.scores.tally import CountedImage, Tally, count
from segment.uncertainty.class_indices import index_type


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
        """Forget all images."""
        self._boards = [Board(self.plan.task(i), self.plan.replicates) for i in range(self.plan.tasks)]
        self._rows: dict[str, Floats] = {}
        self.groups: dict[str, str] = {}
        """The group of each image that was counted with one."""

    def update(
        self,
        identity: str,
        probability: arrays.ArrayLike,  # K H W
        maps: Mapping[str, arrays.ArrayLike],  # H W each; multilabel: also K H W
        label: arrays.ArrayLike,  # H W ids; multilabel: K H W of 0, 1 or void
        prediction: arrays.ArrayLike | None = None,  # as label; None: the most probable class, or p >= .5
        group: str | None = None,
    ) -> None:
        """Count one image, once; a refused image changes nothing.

        identity: the image's id. group: what it belongs to, a patient or a sequence, which the bootstrap then draws as
        a whole; None: each image is drawn by itself
        Errors: WrongUse for an id counted before, a missing map, or images with groups and without; PredictionFailed or
        ImageUnreadable for wrong arrays
        """
        if identity in self._rows:
            raise WrongUse(f"Image {identity!r} was counted before; an image may enter a scoreboard once.")
        self._refuse_mixture(grouped=group is not None)
        images = arrays.checked(identity, self.plan, probability, maps, label, prediction)
        tallies = [count(image, board.task) for image, board in zip(images, self._boards, strict=True)]
        masks = np.stack([image.prediction for image in images])
        shown = {name: _mean([image.maps[name] for image in images]) for name in self.plan.measures}
        inside = arrays.counted(label)
        of = slice(None) if inside is None else inside
        sums = [expected.class_sums(image.probability[:, of], image.prediction[of]) for image in images]
        row = self._row(tallies, sums, masks, shown, inside)
        unit = identity if group is None else str(group)
        weights = intervals.poisson_weights(unit, self.plan.replicates)
        for board, tally in zip(self._boards, tallies, strict=True):
            board.add(tally, unit, weights)
        self._rows[identity] = row
        if group is not None:
            self.groups[identity] = unit

    def merge(self, other: Scoreboard) -> None:
        """Add another shard; the result has the same bits as one run over both."""
        if other.plan != self.plan:
            mine, theirs = asdict(self.plan), asdict(other.plan)
            differ = ", ".join(f"{key} {mine[key]!r} and {theirs[key]!r}" for key in mine if mine[key] != theirs[key])
            raise WrongUse(f"Two scoreboards of different plans cannot be merged: {differ}.")
        if repeated := self._rows.keys() & other._rows.keys():
            raise WrongUse(f"Image {min(repeated)!r} is in both scoreboards; an image may be counted once.")
        if other.images:
            self._refuse_mixture(grouped=bool(other.groups))
        for board, added in zip(self._boards, other._boards, strict=True):
            board.merge(added)
        self._rows |= other._rows
        self.groups |= other.groups

    def _refuse_mixture(self, *, grouped: bool) -> None:
        if self._rows and grouped != bool(self.groups):
            raise WrongUse("A scoreboard has images with groups or without: give every image its group, or none.")

    @property
    def images(self) -> int:
        return len(self._rows)

    @property
    def over(self) -> Over:
        """What intervals and tests are over."""
        return "groups" if self.groups else "images"

    @property
    def units(self) -> int:
        """How many images, or groups of them, intervals and tests are over."""
        return len(self._boards[0].units)

    @property
    def pixels(self) -> int:
        """Pixels with a known label (of the label with most of them, for multilabel)."""
        return max(int(board.counts["confusion"].sum()) for board in self._boards)

    def units_for(self, score: str) -> int:
        """Images or groups that hold what a score needs (of the label with most of them, for multilabel)."""
        return max(board.units_for(score) for board in self._boards)

    def rarest_class(self) -> tuple[int, str] | None:
        """How many images or groups hold the rarest class in their label, and it in words; None without images."""
        candidates = ((*rarest, i) for i, board in enumerate(self._boards) if (rarest := board.rarest_class()))
        (units, k, label), lack = min(candidates, default=(0, 0, 0)), ""
        if self.plan.head == "multilabel":  # class 0 of a label is the lack of it
            k, lack = label, "no " * (not k)
        return (units, f"{lack}{self.plan.classes[k]!r}") if units else None

    def confusion(self) -> Ints:  # K K; multilabel: K 2 2
        """Pixels by label (rows) and prediction (columns)."""
        matrices = np.stack([board.counts["confusion"] for board in self._boards])
        return matrices if self.plan.head == "multilabel" else matrices[0]

    def thresholds(self) -> dict[str, tuple[float, ...]]:
        """Per measure and patch size, the threshold with as many uncertain patches as inaccurate ones.

        For a scoreboard of validation images whose plan has no thresholds.
        """
        thresholds = {}
        for name in self.plan.measures:
            summed = np.sum([board.counts[f"patch_means/{name}"] for board in self._boards], axis=0)
            thresholds[name] = tuple(patches.matching_threshold(of_size) for of_size in summed)
        return thresholds

    def compute(self, estimated: Mapping[str, Score] | None = None) -> Entry:
        """The entry of a method in `scores.json`: scores, per_class, curves and thresholds; None instead of nan.

        estimated: what `estimates` gave, where it was called since the last image
        """
        known = self.estimates() if estimated is None else estimated
        entries = {name: score.entry(summary.limits(name), self.units, self.over) for name, score in known.items()}
        return {
            "scores": entries | self.image_ranks(),
            "per_class": self.per_class(),
            "curves": self._curves(),
            "thresholds": self._thresholds(),
        }

    def estimates(self) -> dict[str, Score]:
        """Every score with its replicates; a multi-label head's is the mean over the labels that define it."""
        labels = [estimates(board) for board in self._boards]
        return mean_of(labels) if len(labels) > 1 else labels[0]

    def per_image(self) -> list[Entry]:
        """One row an image, ordered by id; None for a score that is not defined."""
        columns = self.columns
        rows = []
        for identity in sorted(self._rows):
            values = [None if math.isnan(v) else float(v) for v in self._rows[identity]]
            rows.append({"id": identity} | dict(zip(columns, values, strict=True)))
        return rows

    @property
    def columns(self) -> list[str]:
        """The columns of a row after the id; area is the share of pixels above the measure's threshold."""
        whole = ["pixels", "accuracy", "miou", "dice", "nll", "brier", *EXPECTED]
        of_class = [f"{kind}.{name}" for kind in ("iou", "soft_dice") for name in self.plan.classes]
        kinds = ("error_auroc", *image_level.AGGREGATIONS)
        return whole + of_class + [f"{kind}.{name}" for name in self.plan.measures for kind in kinds]

    def _row(
        self,
        tallies: list[CountedImage],
        sums: list[Floats],
        masks: Ints,
        maps: Mapping[str, NDArray[np.float32]],
        counted: NDArray[np.bool_] | None,
    ) -> Floats:
        parts = [_mask_row(tally.whole, self.plan.head) for tally in tallies]
        whole = mean_defined(np.stack([part[:6] for part in parts], axis=-1))
        whole[0] = max(part[0] for part in parts)
        hoped = expected.expected_numbers(sums, self.plan.head)
        numbers = [whole, hoped[: len(EXPECTED)], *(part[6:] for part in parts), hoped[len(EXPECTED) :]]
        inside = image_level.interior(masks.astype(index_type(len(self.plan.classes))))
        for name, values in maps.items():
            rankings = [tally.fine[f"ranking/{name}"].counts[:, :2] for tally in tallies]
            auroc = mean_defined(np.stack([detection.auroc(ranking) for ranking in rankings], axis=-1))
            threshold = (self.plan.thresholds or {}).get(name, (None,))[0]  # of single pixels
            numbers += [np.atleast_1d(auroc), image_level.aggregate(values, inside, threshold, counted)]
        return np.concatenate(numbers)

    def image_ranks(self) -> Entry:
        order = sorted(self._rows)
        column = {name: np.array([self._rows[i][at] for i in order]) for at, name in enumerate(self.columns)}
        entries: Entry = {}
        uncertain = {
            f"{kind}.{name}": column[f"{kind}.{name}"]
            for name, kind in product(self.plan.measures, image_level.AGGREGATIONS)
        }
        uncertain |= {name: -column[name] for name in EXPECTED}
        for name, values in uncertain.items():
            for quality in ("accuracy", "dice", "miou"):
                entries[f"{quality}_rank_{name}"] = self._rank_entry(name, values, -column[quality])
        return entries

    def _rank_entry(self, name: str, values: Floats, lack: Floats) -> Entry:
        rho, images = image_level.spearman(values, lack)
        if math.isnan(rho):
            missing = name.startswith("area.") and images == 0
            reason = "no threshold was given for this measure" if missing else "too few images, or all of them alike"
            return {"value": None, "low": None, "high": None, "why": reason}
        if self.groups:
            known = ~(np.isnan(values) | np.isnan(lack))
            groups = [self.groups[i] for i, there in zip(sorted(self._rows), known, strict=True) if there]
            ends = intervals.spearman_over_groups(values[known], lack[known], groups)
        else:
            ends = intervals.spearman_interval(rho, images)
        if ends is None:
            return {"value": rho, "low": None, "high": None, "why": intervals.NO_SPEARMAN.format(self.over)}
        return {"value": rho, "low": ends[0], "high": ends[1]}

    def _thresholds(self) -> Entry:
        given = self.plan.thresholds or {}
        names = [f"pavpu_{size}" for size in patches.SIZES]
        return {measure: dict(zip(names, values, strict=True)) for measure, values in given.items()}

    def per_class(self) -> Entry:
        entries: Entry = {}
        for (board, k), name in zip(self._places(), self.plan.classes, strict=True):
            counts = confusion.class_counts(board.counts["confusion"])
            error = calibration.calibration_error(board.counts["class_reliability"][k])
            values = {"iou": confusion.iou(counts)[k], "dice": confusion.dice(counts)[k], "ece": error}
            entries[name] = {key: None if np.isnan(v) else float(v) for key, v in values.items()}
            entries[name]["pixels"] = int(counts[1, k])
            if entries[name]["iou"] is None:
                entries[name]["why"] = "in neither label nor prediction"
        return entries

    def _curves(self) -> Entry:
        entries: Entry = {}
        for board, label in zip(self._boards, self.plan.classes, strict=False):  # one board, or one a label
            end = f".{label}" if self.plan.head == "multilabel" else ""
            entries |= {name + end: curve for name, curve in curves(board).items()}
            entries[f"reliability{end}"]["pixels"] = _bin_counts(board.counts["reliability"])
        for (board, k), name in zip(self._places(), self.plan.classes, strict=True):
            x, y = calibration.reliability_curve(board.counts["class_reliability"][k])
            filled = ~np.isnan(y)
            pixels = _bin_counts(board.counts["class_reliability"][k])
            entries[f"reliability_class.{name}"] = {"x": x[filled].tolist(), "y": y[filled].tolist(), "pixels": pixels}
        return entries

    def _places(self) -> list[tuple[Board, int]]:
        """The board and the index of each class: class k of the only board, or class 1 of its own board."""
        if self.plan.head == "multilabel":
            return [(board, 1) for board in self._boards]
        return [(self._boards[0], k) for k in range(len(self.plan.classes))]

    def state(self) -> dict[str, NDArray[Any]]:
        """The whole state as arrays by name, for a file or another process; `Scoreboard.of` restores it."""
        order = sorted(self._rows)
        state: dict[str, NDArray[Any]] = {"plan": np.array(json.dumps(asdict(self.plan))), "ids": np.array(order, "U")}
        state["groups"] = np.array([self.groups.get(i, "") for i in order] if self.groups else [], "U")
        state["rows"] = np.array([self._rows[i] for i in order], dtype=np.float64).reshape(-1, len(self.columns))
        for i, board in enumerate(self._boards):
            state |= {f"{i}/{name}": values for name, values in board.state().items()}
        return state

    @classmethod
    def of(cls, state: Mapping[str, NDArray[Any]]) -> Scoreboard:
        """The scoreboard with this state."""
        scoreboard = cls(ScorePlan.of(json.loads(str(state["plan"]))))
        if state["rows"].shape[1] != len(scoreboard.columns) or "0/units" not in state:
            raise WrongUse("The saved state is of another version of segment, which counted other things: begin anew.")
        scoreboard._rows = {str(name): row.copy() for name, row in zip(state["ids"], state["rows"], strict=True)}
        scoreboard.groups = dict(zip(map(str, state["ids"]), map(str, state["groups"]), strict=False))
        for i, board in enumerate(scoreboard._boards):
            board.load({name.partition("/")[2]: values for name, values in state.items() if name.startswith(f"{i}/")})
        return scoreboard


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


def _bin_counts(reliability: Ints) -> list[int]:  # 15 3 -> b
    """Pixels of each bin that is not empty."""
    return [int(count) for count in reliability[:, 0] if count]


def _mean(maps: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return maps[0] if len(maps) == 1 else np.mean(maps, axis=0)


def paired_differences(first: Scoreboard, second: Scoreboard) -> dict[str, Entry]:
    """Second minus first for every score that both have, with the 95 % interval of the difference.

    Both have counted the same images, and each replicate weights them equally, so that an image's difficulty cancels.

    Errors: WrongUse where the images or the numbers of replicates differ.
    """
    if first.groups != second.groups:
        raise WrongUse("A paired difference needs the same groups of images in both scoreboards.")
    if first._rows.keys() != second._rows.keys() or first.plan.replicates != second.plan.replicates:
        raise WrongUse(
            f"A paired difference needs the same images and replicates; {first.images} and {second.images} images were "
            f"counted, {len(first._rows.keys() & second._rows.keys())} of them in both."
        )
    before, after = first.estimates(), second.estimates()
    unbounded = (-math.inf, math.inf)
    return {
        name: after[name].minus(before[name]).entry(unbounded, first.units, first.over)
        for name in before
        if name in after
    }
