"""Scoreboards to the content of `scores.json`, and methods compared by paired differences over images or groups.

Must not know how a method was run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import Any

from segment.report.over_banks import deviation, mean_entry, mean_of_classes, of_first_bank
from segment.scores.board import Entry, Score, mean_of
from segment.scores.scoreboard import Scoreboard
from segment.scores.summary import limits
from segment.significance.corrections import holm
from segment.significance.paired import LEAST

LOWER = ("nll", "brier", "ece", "ece_adaptive", "aurc", "ause", "unseen_fpr95")
"""Scores of which less is better; of all others, more."""
PLAIN = ("miou", "accuracy", "dice", "nll", "brier", "ece", "ece_adaptive", "normalised_pll", "normalised_brier")
RANKING = ("error_auroc", "error_ap", "ause", "accuracy_at_90", "pavpu_4", "unseen_auroc")
BEST = " of the best measure"
COMMON = "predictive_entropy"
"""The measure that every method has."""
ONE_DRAW = "one draw: the measure is 0 everywhere, or equals the predictive entropy"
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class MethodBoards:
    """The scores of one method over all images: a scoreboard for each bank, or a single one.

    passes: T, for each image; seconds: of its passes, for each image
    """

    boards: tuple[Scoreboard, ...]
    passes: int
    seconds: float

    @cached_property
    def estimates(self) -> list[dict[str, Score]]:
        return [board.estimates() for board in self.boards]


@dataclass(frozen=True)
class Comparison:
    """Methods by one score, best first, and how far each of the others is from the best.

    score: NAME, or "NAME of the best measure", where each method brings the measure it ranks best by
    entries: method -> value with its 95 % interval, and `bank_sd`; differences: method -> best minus it
    """

    score: str
    entries: Mapping[str, Entry]
    measures: Mapping[str, str]
    differences: Mapping[str, Entry]

    @property
    def best(self) -> str:
        return next(iter(self.entries))

    @property
    def values(self) -> dict[str, float]:
        return {method: entry["value"] for method, entry in self.entries.items()}

    def as_dict(self) -> dict[str, Any]:
        return {
            "score": self.score,
            "best": self.best,
            "values": self.values,
            "measures": dict(self.measures),
            "entries": {name: dict(entry) for name, entry in self.entries.items()},
            "differences": {name: dict(entry) for name, entry in self.differences.items()},
        }


def lower_is_better(score: str) -> bool:
    """Whether less of a score is better.

    >>> lower_is_better("ause.variance"), lower_is_better("ause of the best measure"), lower_is_better("miou")
    (True, True, False)
    """
    return score.partition(BEST)[0].split(".")[0] in LOWER


def improves(score: str, difference: float) -> bool:
    """Whether a difference in a score, other than 0, is one for the better.

    >>> improves("nll", -0.1), improves("miou", -0.1)
    (True, False)
    """
    return (difference < 0) == lower_is_better(score)


def counted(scores: Iterable[str]) -> list[str]:
    """The scores that sentences count: ranking scores by the common measure, where methods have it.

    By each method's best measure a method with more of them has an advantage, and it is chosen on these very images.

    >>> counted(["nll", "ause.predictive_entropy", "ause of the best measure", "error_ap of the best measure"])
    ['nll', 'ause.predictive_entropy', 'error_ap of the best measure']
    """
    names = list(scores)
    return [name for name in names if not (name.endswith(BEST) and f"{name.removesuffix(BEST)}.{COMMON}" in names)]


def scores(
    methods: Mapping[str, MethodBoards], progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """The content of `scores.json`; several banks: the mean over them, and `bank_sd` beside it.

    Curves and thresholds of several banks are those of the first, and hold its number.

    progress: called after each method with how many are done, and how many there are
    """
    first = next(iter(methods.values())).boards[0]
    contents = {}
    for number, (name, method_boards) in enumerate(methods.items(), 1):
        contents[name] = _content(method_boards)
        progress(number, len(methods))
    names = dict.fromkeys(score for content in contents.values() for score in content["scores"])
    for content in contents.values():
        nothing = {"value": None, "low": None, "high": None, "why": ONE_DRAW}
        content["scores"] = {score: content["scores"].get(score, nothing) for score in names}
    counts = {"images": first.images, "pixels": first.pixels}
    return counts | ({"groups": first.units} if first.groups else {}) | {"methods": contents}


def _content(method_boards: MethodBoards) -> dict[str, Any]:
    every, boards = method_boards.estimates, method_boards.boards
    content = boards[0].compute(every[0])
    if len(every) > 1:
        for name, mean in mean_of(every).items():
            entry = mean.entry(limits(name), boards[0].units, boards[0].over)
            content["scores"][name] = entry | {"bank_sd": deviation([estimates[name].value for estimates in every])}
        ranks = [board.image_ranks() for board in boards]
        content["scores"] |= {name: mean_entry([of_bank[name] for of_bank in ranks]) for name in ranks[0]}
        content["per_class"] = mean_of_classes([board.per_class() for board in boards])
        content |= {part: of_first_bank(content[part]) for part in ("curves", "thresholds")}
    return {"passes_per_image": method_boards.passes, "seconds": round(method_boards.seconds, 4), **content}


@dataclass(frozen=True)
class Gain:
    """A method compared with a rival in every score: method minus rival, image by image."""

    method: str
    rival: str
    passes: tuple[int, int]
    differences: Mapping[str, Entry]

    def as_dict(self) -> dict[str, Any]:
        differences = {score: dict(entry) for score, entry in self.differences.items()}
        return {"method": self.method, "rival": self.rival, "differences": differences}


PAIRS = (("mcbn", "deterministic"), ("mcbn", "mean_statistics"), ("mcbn+temperature", "temperature"))
"""Method and rival: the gain of MCBN, of its draws over mean statistics, and of its draws beside a temperature."""


def compare(methods: Mapping[str, MethodBoards]) -> list[Comparison]:
    """Every plain score, and every ranking score by the common measure and by each method's best."""
    all_methods = _AllMethods(methods)
    comparisons = [comparison for title in _titles() if (comparison := all_methods.compared(title)) is not None]
    # which method is best is chosen by these very images, so that every pair might have been compared
    pairs = {
        f"{each.score}|{method}|{other}": all_methods.p_value(each.score, method, other)
        for each in comparisons
        for method, other in combinations(each.entries, 2)
    }
    adjusted = holm({name: p for name, p in pairs.items() if p is not None})
    return [
        replace(
            each,
            differences={
                other: entry | {"holm_p": adjusted.get(f"{each.score}|{each.best}|{other}")}
                for other, entry in each.differences.items()
            },
        )
        for each in comparisons
    ]


def corrected(families: Mapping[str, Mapping[str, Entry]]) -> dict[str, dict[str, Entry]]:
    """The differences with `holm_p`: p after Holm's correction over all of them that have an interval."""
    p = {
        f"{family}|{name}": entry["p"]
        for family, entries in families.items()
        for name, entry in entries.items()
        if entry.get("p") is not None and entry.get("low") is not None
    }
    adjusted = holm(p)
    return {
        family: {name: entry | {"holm_p": adjusted.get(f"{family}|{name}")} for name, entry in entries.items()}
        for family, entries in families.items()
    }


def gains(methods: Mapping[str, MethodBoards]) -> list[Gain]:
    """Of PAIRS those that were run, in every plain score and every ranking score, as `compare` has them."""
    all_methods, titles = _AllMethods(methods), _titles()
    gained = []
    for method, rival in PAIRS:
        if method in methods and rival in methods:
            entries = {title: all_methods.difference(title, method, rival) for title in titles}
            known = {title: entry for title, entry in entries.items() if entry is not None}
            gained.append(Gain(method, rival, (methods[method].passes, methods[rival].passes), known))
    adjusted = corrected({f"{gain.method} {gain.rival}": gain.differences for gain in gained})
    return [replace(gain, differences=adjusted[f"{gain.method} {gain.rival}"]) for gain in gained]


def differences(methods: Mapping[str, MethodBoards], rival: str) -> dict[str, dict[str, Entry]]:
    """Each other method minus the rival in every plain score, with the 95 % interval, image by image."""
    all_methods = _AllMethods(methods)
    by_method: dict[str, dict[str, Entry]] = {}
    for method in methods:
        if method != rival:
            entries = {title: all_methods.difference(title, method, rival) for title in PLAIN}
            by_method[method] = {title: entry for title, entry in entries.items() if entry is not None}
    return by_method


def _titles() -> list[str]:
    ranking = [f"{score}{end}" for score in RANKING for end in (f".{COMMON}", BEST)]
    return [*PLAIN, *ranking]


def best_measure(score: str, values: Mapping[str, float | None]) -> str:
    """The name of a ranking score with the measure that does best in it; "" where none is defined: None, or NaN.

    >>> best_measure("ause", {"ause.variance": 0.2, "ause.margin": 0.1, "ause.one_minus_max": None, "nll": 0.0})
    'ause.margin'
    """
    sign = -1 if lower_is_better(score) else 1
    of_score = {name: value for name, value in values.items() if name.split(".")[0] == score}
    known = {name: value for name, value in of_score.items() if value is not None and not math.isnan(value)}
    return max(known, key=lambda name: sign * known[name], default="")


def best_entry(score: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of a ranking score with its best measure, as `best_measure`, of the entries of `scores.json`."""
    return best_measure(score, {name: entry["value"] for name, entry in scores.items()})


class _AllMethods:
    """All methods at once: a title of a score to its name, values and differences in each."""

    def __init__(self, methods: Mapping[str, MethodBoards]) -> None:
        board = next(iter(methods.values())).boards[0]
        self.units, self.over = board.units, board.over
        self.every = {name: method_boards.estimates for name, method_boards in methods.items()}
        self.mean = {name: mean_of(banks) for name, banks in self.every.items()}

    def name(self, title: str, method: str) -> str:
        """The score behind a title; "" where the method has none that is defined."""
        score, best, _ = title.partition(BEST)
        scores = self.mean[method]
        name = best_measure(score, {name: of.value for name, of in scores.items()}) if best else score
        known = scores.get(name)
        return "" if known is None or math.isnan(known.value) else name

    def compared(self, title: str) -> Comparison | None:
        names = {method: name for method in self.every if (name := self.name(title, method))}
        if len(names) < 2:
            return None
        sign = 1 if lower_is_better(title) else -1
        order = sorted(names, key=lambda method: (sign * self.mean[method][names[method]].value, method))
        entries = {method: self.entry(method, names[method]) for method in order}
        differences = {}
        for other in order[1:]:
            difference = self.difference(title, order[0], other)
            assert difference is not None
            differences[other] = difference
        measures = {method: names[method].partition(".")[2] for method in order}
        return Comparison(title, entries, measures, differences)

    def entry(self, method: str, name: str) -> Entry:
        entry = self.mean[method][name].entry(limits(name), self.units, self.over)
        banks = [estimates[name].value for estimates in self.every[method]]
        return entry | ({"bank_sd": deviation(banks)} if len(banks) > 1 else {})

    def difference(self, title: str, method: str, other: str) -> Entry | None:
        """`method` minus `other`, bank by bank; None where either lacks the score."""
        first, second = self.name(title, method), self.name(title, other)
        if not first or not second:
            return None
        difference = self.mean[method][first].minus(self.mean[other][second])
        entry = difference.entry(UNBOUNDED, self.units, self.over) | {"p": self.p_value(title, method, other)}
        a, b = self.every[method], self.every[other]
        if (banks := max(len(a), len(b))) > 1:
            entry["bank_sd"] = deviation(
                [a[i % len(a)][first].value - b[i % len(b)][second].value for i in range(banks)]
            )
        return entry

    def p_value(self, title: str, method: str, other: str) -> float | None:
        """The p of the difference; None where either lacks the score, or no test of so few units can reach .05.

        Images or groups that do not hold what the score needs do not count.
        """
        first, second = self.name(title, method), self.name(title, other)
        if not first or not second:
            return None
        difference = self.mean[method][first].minus(self.mean[other][second])
        return None if difference.units(self.units) < LEAST else difference.p_value(self.units)
