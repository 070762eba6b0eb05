"""Settings compared by cross-validation over images, and the one to run.

Must not know how a setting makes its passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segment.errors import count_of
from segment.scores.board import Score
from segment.scores.functional.binning import Floats
from segment.scores.functional.confusion import mean_iou
from segment.scores.intervals import poisson_weights
from segment.significance.corrections import LEVEL
from segment.significance.paired import LEAST, PairedTest, group_means, paired_test, smallest_difference
from segment.tuning.samples import (
    GRID,
    MethodSamples,
    Pooled,
    fitted_scaling,
    fitted_temperature,
    mean_probability,
)
from segment.uncertainty.scaling import Calibration

FOLDS = 5
SCALINGS = ("", "temperature", "vector_scaling")
Rule = Literal["best", "cheapest"]
RULES: Mapping[Rule, str] = {
    "best": "the lowest NLL, unless one pass is not significantly worse",
    "cheapest": "the fewest passes that are not significantly worse than the lowest NLL",
}


@dataclass(frozen=True)
class Candidate:
    """One setting: an arm's passes, how many, a scaling; and its cross-validated scores.

    arm: the name of the samples. passes: of an image
    nll: id -> mean NLL of the image under scalings fitted on other images
    ause, ece: of the same probabilities, pooled; None where they are not defined
    masks: id -> counts of the classes (3 K, as `class_counts`) under the same scalings
    """

    arm: str
    passes: int
    scaling: str
    nll: Mapping[str, float]
    ause: float | None
    ece: float | None
    masks: Mapping[str, NDArray[np.int64]]

    @property
    def miou(self) -> float | None:
        """Mean IoU of the pooled pixels; None where no class is seen."""
        value = float(mean_iou(sum(self.masks.values(), np.zeros((3, 1), dtype=np.int64))))
        return None if np.isnan(value) else value

    @property
    def mean(self) -> float:
        """Mean over images of the NLL."""
        return float(np.mean(list(self.nll.values())))

    @property
    def name(self) -> str:
        return f"{self.arm}{'+' + self.scaling if self.scaling else ''}, {count_of(self.passes, 'pass')}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "arm": self.arm,
            "passes": self.passes,
            "scaling": self.scaling,
            "nll": self.mean,
            "ause": self.ause,
            "ece": self.ece,
            "miou": self.miou,
        }


@dataclass(frozen=True)
class Choice:
    """The setting to run, the best of all, the best of one pass, and the cheapest that is not significantly worse.

    best: with the lowest NLL. gain: best against single, paired over images; None where they are the same
    rule: by which `chosen` was chosen. loss: cheapest against best, paired over images; None where they are the same
    missed: the difference between these two that so many images would miss one time in five
    front: the Pareto-efficient ones
    refused: those whose mIoU is below that of the plain pass, see `loses_masks`, in no comparison above
    over: what the paired differences are over, "images" or "groups"; count: how many of these
    """

    chosen: Candidate
    best: Candidate
    single: Candidate
    gain: PairedTest | None
    front: tuple[Candidate, ...]
    cheapest: Candidate
    loss: PairedTest | None
    missed: float | None = None
    rule: Rule = "best"
    refused: tuple[Candidate, ...] = ()
    over: str = "images"
    count: int = 0

    @property
    def untested(self) -> bool:
        """Whether so few images or groups can show no difference."""
        return self.count < LEAST


def folds(ids: Sequence[str], groups: Mapping[str, str], *, whole: bool = False) -> list[list[str]]:
    """The ids in FOLDS parts that no group is divided between.

    Args:
        ids: Of the images, two or more.
        groups: Id to the name of its group (a sequence, a patient).
        whole: Whether fewer than FOLDS groups, two or more, are kept whole too, each a part. Else the parts are then
            blocks of neighbours: a guess from ids is no reason to fit on a quarter of the images.

    Returns:
        Non-empty parts, each a held-out set once.

    >>> folds(["a1", "a2", "b1", "c1"], {"a1": "a", "a2": "a", "b1": "b", "c1": "c"})
    [['a1'], ['a2'], ['b1'], ['c1']]

    """
    ordered = sorted(ids)
    names = sorted({groups.get(name, name) for name in ordered})
    if len(names) >= FOLDS or whole:
        place = {name: number % FOLDS for number, name in enumerate(names)}
        parts = [[name for name in ordered if place[groups.get(name, name)] == fold] for fold in range(FOLDS)]
    else:  # frames of a few sequences: neighbours stay together
        parts = [list(part) for part in np.array_split(np.array(ordered, dtype=object), min(FOLDS, len(ordered)))]
    return [part for part in parts if part]


def candidate(samples: MethodSamples, arm: str, passes: int, scaling: str, parts: Sequence[Sequence[str]]) -> Candidate:
    """The cross-validated scores of one setting.

    Args:
        samples: Of the arm, with logits.
        arm: Its name.
        passes: One of its prefixes.
        scaling: One of SCALINGS.
        parts: Held-out sets; the scaling of each is fitted on the others.

    Returns:
        The candidate.

    """
    pooled = Pooled()
    for part in parts:
        others = [name for other in parts if other is not part for name in other if name in samples.images]
        calibration = fit(samples, passes, scaling, others)
        for name in part:
            if (sample := samples.images.get(name)) is not None:
                pooled.add(name, mean_probability(sample, samples.head, passes, calibration), sample, samples.head)
    return Candidate(arm, passes, scaling, pooled.nll, pooled.ause, pooled.ece, pooled.masks)


def fit(samples: MethodSamples, passes: int, scaling: str, ids: Sequence[str]) -> Calibration:
    """The scaling of that kind on some images; 1 for none, and without images."""
    if not scaling or not ids:
        return 1.0
    if scaling == "temperature":
        return float(GRID[fitted_temperature(samples, passes, ids)])
    return fitted_scaling(samples, passes, ids)


def halving_loss(samples: MethodSamples, draws: int) -> float:
    """What arms are compared by on a rung: the mean NLL at the temperature that suits these images best."""
    at = samples.prefixes.index(draws)
    best = fitted_temperature(samples, draws, samples.images)
    return float(np.mean([sample.nll[at, best] for sample in samples.images.values()]))


def choose(candidates: Sequence[Candidate], rule: Rule = "best", groups: Mapping[str, str] | None = None) -> Choice:
    """The setting to run.

    An arm competes for the lowest NLL with the most passes that it has: in expectation more draws have a lower one, so
    that a prefix which is better on these images has draws that suit them by chance.

    Args:
        candidates: Two or more images each, the same ones; the first is the plain pass, which none may lose mIoU to.
        rule: One of RULES. That nothing is significantly worse says little where images are few: `cheapest` then takes
            less than was asked for, so it is not the default. Below LEAST images or groups no difference is
            significant: both rules then take one pass.
        groups: Id to group, over which differences are tested: images of a group are not independent. None: over
            images.

    Returns:
        The choice, with the paired differences of the best to the best of one pass and to the cheapest.

    """
    refused = tuple(each for each in candidates if loses_masks(candidates[0], each, groups))
    kept = [each for each in candidates if each not in refused]
    most: dict[tuple[str, str], int] = {}
    for each in kept:
        most[each.arm, each.scaling] = max(each.passes, most.get((each.arm, each.scaling), 0))
    whole = [each for each in kept if each.passes == most[each.arm, each.scaling]]
    best = min(whole, key=lambda each: (each.mean, each.passes))
    single = min((each for each in whole if each.passes == 1), key=lambda each: each.mean)
    cheapest = _cheapest(kept, best, groups)
    gain = None if single is best else difference(single, best, groups)
    loss = None if cheapest is best else difference(best, cheapest, groups)
    chosen = cheapest
    if rule == "best":
        chosen = best if gain is None or _lower(gain) else single
    missed = None if cheapest is best else smallest_difference(np.subtract(*_pairs(cheapest, best, groups)))
    over, count = "images" if groups is None else "groups", len(_pairs(single, single, groups)[0])
    return Choice(chosen, best, single, gain, pareto(kept), cheapest, loss, missed, rule, refused, over, count)


def _cheapest(candidates: Sequence[Candidate], best: Candidate, groups: Mapping[str, str] | None) -> Candidate:
    """The fewest passes that are not significantly worse than the best's, of these the lowest NLL; else the best.

    One pass of many draws is left out: its map would be one draw's alone.
    """
    of_many = {each.arm for each in candidates if each.passes > 1}
    able = [each for each in candidates if each.passes > 1 or each.arm not in of_many]
    as_good = [each for each in able if each.passes < best.passes and not _higher(difference(best, each, groups))]
    return min(as_good, key=lambda each: (each.passes, each.mean), default=best)


def _higher(test: PairedTest | None) -> bool:
    """Whether the second is significantly above the first."""
    return test is not None and _is_significant(test) and test.difference.value > 0


def _lower(test: PairedTest) -> bool:
    return _is_significant(test) and test.difference.value < 0


def _is_significant(test: PairedTest) -> bool:
    """By the interval, and by the sign-flip test, since the bootstrap of a few numbers has too narrow an interval."""
    low, high, p = test.difference.low, test.difference.high, test.permutation_p
    return low is not None and high is not None and not low <= 0 <= high and p is not None and p <= LEVEL


def loses_masks(plain: Candidate, other: Candidate, groups: Mapping[str, str] | None = None) -> bool:
    """Whether mIoU is significantly lower: a t test of the bootstrap over images or groups, see `Score.p_value`.

    Of the classes that the labels of LEAST or more hold: with fewer the bootstrap has too narrow an interval. Each
    setting is judged by itself: what may make masks worse is left out, at the price that one in forty of those that do
    not is left out too.
    """
    ids = sorted(plain.masks.keys() & other.masks.keys())
    units = np.array([name if groups is None else groups[name] for name in ids])
    labelled = np.stack([plain.masks[name][1] > 0 for name in ids]) if ids else np.zeros((0, 0), bool)  # N K
    held = np.array([len(set(units[of_class])) for of_class in labelled.T])
    often = held >= LEAST
    if not often.any():
        return False
    weights = np.stack([poisson_weights(unit) for unit in units])  # N R
    before, after = (np.stack([each.masks[name][:, often] for name in ids]) for each in (plain, other))  # N 3 k
    value = float(mean_iou(after.sum(axis=0)) - mean_iou(before.sum(axis=0)))
    drawn = (mean_iou(np.tensordot(weights.T, counts, axes=1)) for counts in (after, before))  # R each
    score = Score(value, value, np.subtract(*drawn), "", rarest=int(held[often].min()))
    p = score.p_value(len(set(units)))
    return value < 0 and p is not None and p <= LEVEL


def difference(first: Candidate, second: Candidate, groups: Mapping[str, str] | None = None) -> PairedTest | None:
    """Second minus first in NLL, image by image, or group by group."""
    return paired_test(*_pairs(first, second, groups))


def _pairs(first: Candidate, second: Candidate, groups: Mapping[str, str] | None) -> tuple[Floats, Floats]:  # N, N
    """The NLL of both on each image; with groups the mean over the images of each."""
    ids = sorted(first.nll.keys() & second.nll.keys())
    of_ids = [name if groups is None else groups[name] for name in ids]
    a, b = (group_means(np.array([each.nll[name] for name in ids]), of_ids) for each in (first, second))
    return a, b


def pareto(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Candidates that none of as few passes beats in NLL, by passes."""
    front: list[Candidate] = []
    for each in sorted(candidates, key=lambda each: (each.passes, each.mean)):
        if not front or each.mean < front[-1].mean:
            front.append(each)
    return tuple(front)
