"""What is asked of a triage, and what a calibration gives: thresholds, prediction sets, and what they are good for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segment.errors import WrongUse, near
from segment.guarantees import control
from segment.guarantees.groups import BUILT_IN
from segment.guarantees.sets import Penalty, set_sizes

Unit = Literal["pixel", "segment", "image"]
Guarantee = Literal["expectation", "images", "mean"]
UNITS: tuple[Unit, ...] = ("pixel", "segment", "image")
GUARANTEES: tuple[Guarantee, ...] = ("expectation", "images", "mean")
LOSSES = ("error", "dice")
SETS = ("aps", "raps")


def percent(share: float) -> str:
    """A share in percent, three digits.

    >>> percent(0.02), percent(0.6304), percent(0.00512)
    ('2 %', '63 %', '0.512 %')
    """
    return f"{float(f'{100 * share:.3g}'):g} %"


@dataclass(frozen=True, kw_only=True)
class TriagePlan:
    """What is asked of a triage.

    max_error: the limit of the loss, within (0, 1)
    guarantee: "expectation": the mean loss of new images is at most max_error, on average over validation sets;
        "images": with `confidence`, at least `share` of all images have an error of at most max_error among what is
        accepted; "mean": with `confidence`, the mean loss of all images is at most max_error
    unit: what is accepted or reviewed as a whole
    loss: "error" (wrong pixels) or "dice" (1 - Dice, of images). protect: a class whose missed pixels are the loss
    measure: what ranks; None: chosen on half of the images where they are enough
    coverage: of prediction sets, within (0, 1); None: no sets. sets: "aps" or "raps"; penalty: of raps, for each rank
    seed: of the halves, and of the order of bets
    """

    max_error: float = 0.02
    guarantee: Guarantee = "expectation"
    confidence: float = 0.95
    share: float = 0.9
    unit: Unit = "pixel"
    loss: str = "error"
    protect: str | None = None
    measure: str | None = None
    coverage: float | None = None
    sets: str = "aps"
    penalty: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        _refuse_unknown("unit", self.unit, UNITS)
        _refuse_unknown("guarantee", self.guarantee, GUARANTEES)
        _refuse_unknown("loss", self.loss, LOSSES)
        _refuse_unknown("kind of sets", self.sets, SETS)
        numbers = {"--max-error": self.max_error, "--confidence": self.confidence, "--share": self.share}
        if self.coverage is not None:
            numbers["--coverage"] = self.coverage
        for option, value in numbers.items():
            if not isinstance(value, Real) or not 0 < value < 1:
                raise WrongUse(f"{option} is a share between 0 and 1, as 0.02 for 2 %, not {value}.")
        if not 0 <= self.penalty < math.inf:
            raise WrongUse(f"--penalty is a mass from 0 up, not {self.penalty}.")
        if not isinstance(self.seed, Integral) or self.seed < 0:
            raise WrongUse(f"--seed is an integer from 0 up, not {self.seed}.")
        if self.loss == "dice" and self.unit != "image":
            raise WrongUse("Dice belongs to whole images: give --unit image with --loss dice.")
        if self.loss == "dice" and self.protect is not None:
            raise WrongUse("--protect counts the missed pixels of a class: leave --loss dice out.")

    @property
    def needed(self) -> int:
        """The fewest images or groups with which anything can be accepted."""
        if self.guarantee == "expectation":
            return control.needed_in_expectation(self.max_error)
        if self.guarantee == "images":
            return control.needed_for_most(self.share, self.confidence)
        return control.needed_for_mean(self.max_error, self.confidence)


def _refuse_unknown(kind: str, asked: str, known: tuple[str, ...]) -> None:
    if asked not in known:
        raise WrongUse(f"No {kind} is called {asked!r}.{near(asked, known)} Known: {', '.join(known)}.")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Accept what lies below a threshold.

    unit: what is accepted as a whole. measure: of a pixel; the mean over a segment or an image for these units
    threshold: values below it are accepted; None: nothing is. why: the reason for the measure, or for None
    images: that calibrated it; groups: of them, as many as images where each is its own
    loss, accepted: the mean over these groups of the loss and of the share of labelled pixels (or images) accepted
    """

    unit: Unit
    measure: str
    threshold: float | None
    why: str
    images: int
    groups: int
    loss: float
    accepted: float

    def accepts(self, values: ArrayLike) -> NDArray[np.bool_]:
        """Which of the unit's values are accepted: of pixels, or the means of segments or of images; NaN never is.

        Errors: WrongUse for a map where the unit is the image, of which the mean decides.
        """
        if self.unit == "image" and np.ndim(values) > 1:
            raise WrongUse(
                f"The threshold is of images, and a map was given: give the mean of {self.measure} over each image, or "
                "call segment.decide with the whole result."
            )
        if self.threshold is None:
            return np.zeros(np.shape(values), dtype=bool)
        return np.asarray(np.asarray(values) < self.threshold)


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Prediction sets whose coverage is bounded in expectation: a class whose score is at most the threshold is in.

    kind: "aps" or "raps". weight, free: the penalty of raps. images, groups: that calibrated them. coverage: asked;
    found: the mean over these groups
    """

    kind: str
    coverage: float
    threshold: float
    weight: float
    free: int
    images: int
    groups: int
    found: float

    @property
    def penalty(self) -> Penalty:
        return Penalty(weight=self.weight, free=self.free)

    def sizes(self, probability: NDArray[np.floating]) -> NDArray[np.int64]:  # K ... -> ...
        """Classes in each pixel's set, from 1 up."""
        return set_sizes(probability, self.threshold, self.penalty)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One number of each validation image (or group), to which those of a run are compared.

    measure: whose mean over an image it is. groups: how images were grouped: "", "folder", "sequence" or a column
    table: whether the groups are those of a table, whose column may be called as a rule is
    """

    measure: str
    values: tuple[float, ...]
    groups: str = ""
    table: bool = False

    @property
    def by_id(self) -> bool:
        """Whether an image's id says its group."""
        return self.groups in BUILT_IN and not self.table


@dataclass(frozen=True, kw_only=True)
class Triage:
    """A calibrated triage: what was asked, the decisions, and what they hold for.

    decisions: of the asked unit, and of whole images
    source: what the counts were made with (method, network, banks, draws, precision): a run must be made with the same
    warnings: what makes the guarantee uncertain
    """

    plan: TriagePlan
    decisions: Mapping[str, Decision]
    reference: Reference
    source: Mapping[str, Any]
    sets: Sets | None = None
    warnings: tuple[str, ...] = ()

    @property
    def decision(self) -> Decision:
        """The decision of the unit that was asked."""
        return self.decisions[self.plan.unit]

    @property
    def measures(self) -> tuple[str, ...]:
        """Measures that a run must have for this triage."""
        return tuple(dict.fromkeys([*(d.measure for d in self.decisions.values()), self.reference.measure]))

    @property
    def digest(self) -> str:
        """SHA-256 of the triage: equal for equal triages."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __repr__(self) -> str:
        plan, source = self.plan, self.source
        kind = "groups" if self.reference.groups else "images"
        promise = {
            "expectation": f"in expectation over new {kind}",
            "mean": f"on average over all {kind}, with confidence {plan.confidence:g}",
            "images": f"for {plan.share:.0%} of {kind}, with confidence {plan.confidence:g}",
        }[plan.guarantee]
        lines = [
            f"Triage of {source.get('model', 'a network')} by {source.get('method', 'mcbn')}: {plan.loss} at most "
            f"{plan.max_error:g} {promise}, from {self.decision.images} images"
        ]
        for unit, decision in self.decisions.items():
            accepted = "nothing is accepted" if decision.threshold is None else f"accepted {decision.accepted:.1%}"
            lines.append(f"  {unit}: {decision.measure} below {decision.threshold or 0:.4g}, {accepted}")
        if self.warnings:
            lines.append(f"  warnings: {len(self.warnings)}, in .warnings")
        return "\n".join(lines)
