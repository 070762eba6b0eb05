"""What an evaluation and a sweep give: plain records, as the jobs fill them and the pages, plots and files show them.

Must not know how a score was made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from segment.errors import count_of
from segment.report.method_comparison import Comparison, Gain
from segment.uncertainty.scaling import Calibration, as_json, of_json

CLEAN = "clean"
"""The condition of test images that no corruption has changed."""

DETERMINISTIC = "deterministic"

DICE_RANK = "dice_rank_"
"""Prefix in scores.json: how well a column of per_image.csv ranks images by their Dice, worst first."""

OVER = "over_deterministic"
"""Key of a row's result: score -> its paired difference from the plain network on the same images."""

TRAINING_TRANSFORM = "training"
"""The transform of statistics images that the card's `training:` names."""


@dataclass(frozen=True)
class Validation:
    """What was chosen on validation images, by method and bank (`compared_methods.key`); empty where none were given.

    temperatures: key -> what divides the logits, or the scaling of each
    accuracies: key -> share of right pixels of the mask, one number, or one a label; None without a known pixel
    thresholds: key -> measure -> above them a patch of each size is uncertain
    images: how many were used; failed: id -> why
    per_image: key -> their rows, as `Scoreboard.per_image` gives them
    left_out: id -> why it is in none of the fits that the temperatures come from
    """

    temperatures: Mapping[str, Calibration]
    accuracies: Mapping[str, float | tuple[float | None, ...] | None]
    thresholds: Mapping[str, Mapping[str, tuple[float, ...]]]
    images: int
    failed: Mapping[str, str]
    per_image: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> int:
        """Validation images in all, used or not."""
        return self.images + len(self.failed)

    @staticmethod
    def none() -> Validation:
        return Validation({}, {}, {}, 0, {})

    @staticmethod
    def of(values: Mapping[str, Any]) -> Validation:
        """What `as_dict` gave, read back from JSON."""
        accuracies = {name: tuple(a) if isinstance(a, list) else a for name, a in values["accuracies"].items()}
        thresholds = {
            name: {measure: tuple(limits) for measure, limits in by_measure.items()}
            for name, by_measure in values["thresholds"].items()
        }
        temperatures = {name: of_json(value) for name, value in values["temperatures"].items()}
        return Validation(
            **{**values, "temperatures": temperatures, "accuracies": accuracies, "thresholds": thresholds}
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"temperatures": {name: as_json(value) for name, value in self.temperatures.items()}}


@dataclass(frozen=True, repr=False, kw_only=True)
class Evaluation:
    """The result of an evaluation; all of it is in its folder too.

    folder: None where the files are gone, as of `segment.evaluate` without `output`
    failed: id of a test image -> why; validation images that failed are in `validation.failed`
    warnings: what makes the scores misleading, to be read before them
    triaged: what a triage accepts of the images, and what is wrong in that; None where none was asked for
    ranking: how well each number of an image ranks the images, as in ranking.json
    uncertain: the three images with the largest mean predictive entropy, and that
    annotators: scores against several annotators, as in annotators.json; empty for one
    """

    folder: Path | None
    scores: Mapping[str, Any]
    comparisons: Sequence[Comparison]
    gains: Sequence[Gain]
    validation: Validation
    failed: Mapping[str, str]
    notes: Mapping[str, str]
    record: Mapping[str, Any]
    warnings: tuple[str, ...] = ()
    triaged: Mapping[str, Any] | None = None
    ranking: Mapping[str, Any] = field(default_factory=dict)
    uncertain: Mapping[str, float] = field(default_factory=dict)
    annotators: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        methods = self.scores["methods"]
        lines = [f"Evaluation of {self.record.get('settings', {}).get('model', 'a network')}: "]
        lines[0] += f"{count_of(self.scores['images'], 'image')}, {len(self.failed)} failed"
        lines[0] += "" if self.folder is None else f", in {self.folder}"
        lines[0] += f"; {count_of(len(other), 'validation image')} failed" if (other := self.validation.failed) else ""
        for name in list(methods)[:SHOWN_ROWS]:
            lines.append(f"  {name}: {_in_words(methods[name]['scores'])}")
        more = len(methods) - SHOWN_ROWS
        return "\n".join(lines + ([f"  and {more} more methods"] if more > 0 else []))


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to make draws, whatever T and seed.

    batch: M. transform: of the statistics images: "training" (the card's), "plain" or "crop:HxW"
    layers: which are stochastic. alpha: share of the draw in the statistics, the rest is the trained ones
    adapted: statistics images go through the test images' corruption too
    file: a bank that was given, a distilled one perhaps, in place of one recorded so
    """

    batch: int
    transform: str = TRAINING_TRANSFORM
    layers: str = "all"
    alpha: float = 1.0
    adapted: bool = False
    file: str = ""

    def __str__(self) -> str:
        if self.file:
            return f"M={self.batch}, {self.file}"
        parts = [f"M={self.batch}", self.transform, self.layers]
        parts += [f"alpha={self.alpha:g}"] if self.alpha != 1 else []
        return ", ".join(parts + (["adapted"] if self.adapted else []))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a sweep: its value on every axis, and its result: counts and scores as in `scores.json`."""

    condition: str
    severity: int
    method: str
    setting: Setting | None
    draws: int
    result: Mapping[str, Any]

    @property
    def name(self) -> str:
        if self.setting is None:
            return self.method if self.draws == 1 else f"{self.method}, T={self.draws}"
        return f"{self.method}, {self.setting}, T={self.draws}"

    @property
    def nll(self) -> float:
        """What settings are sorted by: the NLL, infinite where it is undefined."""
        value = (self.result["scores"].get("nll") or {}).get("value")
        return math.inf if value is None else float(value)


@dataclass(frozen=True)
class Condition:
    """What a sweep scored on the test images as they are, or as one corruption leaves them.

    failed: image -> why; warnings: what makes the scores misleading, of the images as they are
    contents: image -> `labels.contents_of` it, of those that are scored; None in files of earlier versions, in whose
    settings they were
    """

    rows: list[Row]
    failed: dict[str, str]
    warnings: list[str] = field(default_factory=list)
    contents: dict[str, list[str]] | None = None


@dataclass(frozen=True, repr=False)
class Sweep:
    """The result of a sweep; all of it is in its folder too. warnings: what makes the scores misleading."""

    folder: Path
    rows: Sequence[Row]
    failed: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:
        clean = [row for row in self.rows if row.condition == CLEAN]
        best = sorted(clean, key=lambda row: row.nll)
        lines = [
            f"Sweep: {len(self.rows)} settings, {len(self.failed)} images failed, in {self.folder}; best NLL first"
        ]
        return "\n".join(lines + [f"  {row.name}: {_in_words(row.result['scores'])}" for row in best[:SHOWN_ROWS]])


SHOWN_ROWS = 8
"""Methods or settings in a repr."""


def _in_words(scores: Mapping[str, Any]) -> str:
    """The scores that are looked at first, in one line; those without a value left out."""
    names = {"nll": "NLL", "miou": "mIoU", "ece": "ECE", "accuracy": "accuracy"}
    known = {title: scores.get(name, {}).get("value") for name, title in names.items()}
    return ", ".join(f"{title} {value:.4g}" for title, value in known.items() if value is not None)
