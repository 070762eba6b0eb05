"""Scoreboards to `scores.json`, to who wins which score and by how much, and to tables.

Must not know how a method was run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from segment.scores.board import Entry, Estimated, mean_of
from segment.scores.scoreboard import Scoreboard
from segment.scores.summary import limits

LOWER = ("nll", "brier", "ece", "ece_adaptive", "aurc", "ause", "unseen_fpr95")
"""Scores of which less is better; of all others, more."""
PLAIN = ("miou", "accuracy", "dice", "nll", "brier", "ece", "ece_adaptive", "normalised_pll", "normalised_brier")
RANKING = ("error_auroc", "error_ap", "ause", "accuracy_at_90", "pavpu_4", "unseen_auroc")
COMMON = "predictive_entropy"
"""The measure that every method has."""
ONE_DRAW = "one draw: the measure is 0 everywhere, or equals the predictive entropy"
UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Standing:
    """One method over all images, one scoreboard for each bank (or one)."""

    boards: tuple[Scoreboard, ...]
    passes: int
    seconds: float  # an image

    @cached_property
    def estimates(self) -> list[dict[str, Estimated]]:
        return [board.estimates() for board in self.boards]


@dataclass(frozen=True)
class Comparison:
    """Who wins one score: methods from best to worst, and what each of the others loses to the best.

    score: NAME, or "NAME of the best measure", where each method brings the measure it ranks best by
    values: method -> value; differences: method -> best minus it, with its 95 % interval over images and `bank_sd`
    """

    score: str
    values: Mapping[str, float]
    measures: Mapping[str, str]
    differences: Mapping[str, Entry]

    @property
    def best(self) -> str:
        return next(iter(self.values))

    def as_dict(self) -> dict[str, Any]:
        return {"score": self.score, "best": self.best, "values": dict(self.values), "measures": dict(self.measures),
                "differences": {name: dict(entry) for name, entry in self.differences.items()}}  # fmt: skip


def lower_is_better(score: str) -> bool:
    """Whether less of a score is better.

    >>> lower_is_better("ause.variance"), lower_is_better("miou")
    (True, False)
    """
    return score.split(".")[0] in LOWER


def scores(standings: Mapping[str, Standing]) -> dict[str, Any]:
    """The content of `scores.json`; several banks: the mean over them, and `bank_sd` beside it."""
    first = next(iter(standings.values())).boards[0]
    methods = {name: _method(standing) for name, standing in standings.items()}
    names = dict.fromkeys(score for method in methods.values() for score in method["scores"])
    for method in methods.values():
        nothing = {"value": None, "low": None, "high": None, "why": ONE_DRAW}
        method["scores"] = {score: method["scores"].get(score, nothing) for score in names}
    return {"images": first.images, "pixels": first.pixels, "methods": methods}


def _method(standing: Standing) -> dict[str, Any]:
    found = standing.boards[0].compute()
    if len(standing.boards) > 1:
        every = standing.estimates
        images = standing.boards[0].images
        for name, mean in mean_of(every).items():
            entry = mean.entry(limits(name), images)
            found["scores"][name] = entry | {"bank_sd": _spread([one[name].value for one in every])}
    return {"passes_per_image": standing.passes, "seconds": round(standing.seconds, 4), **found}


def _spread(values: Sequence[float]) -> float | None:
    """Standard deviation over banks (divisor n - 1)."""
    found = float(np.std(values, ddof=1))
    return None if math.isnan(found) else round(found, 12)


def compare(standings: Mapping[str, Standing]) -> list[Comparison]:
    """Every plain score, and every ranking score by the common measure and by each method's best."""
    images = next(iter(standings.values())).boards[0].images
    every = {name: standing.estimates for name, standing in standings.items()}
    mean = {name: mean_of(banks) for name, banks in every.items()}
    found = []
    for score in PLAIN:
        found.append(_compared(score, dict.fromkeys(every, score), every, mean, images))
    for score in RANKING:
        found.append(_compared(f"{score}.{COMMON}", dict.fromkeys(every, f"{score}.{COMMON}"), every, mean, images))
        chosen = {name: best_measure(score, mean[name]) for name in every}
        found.append(_compared(f"{score} of the best measure", chosen, every, mean, images))
    return [one for one in found if one is not None]


def best_measure(score: str, estimated: Mapping[str, Estimated]) -> str:
    """The name of a ranking score with the measure that does best in it; "" where none is defined."""
    sign = -1 if lower_is_better(score) else 1
    known = {n: e.value for n, e in estimated.items() if n.split(".")[0] == score and not math.isnan(e.value)}
    return max(known, key=lambda name: sign * known[name], default="")


def _compared(
    title: str, chosen: Mapping[str, str], every: Mapping[str, list[dict[str, Estimated]]],
    mean: Mapping[str, dict[str, Estimated]], images: int,
) -> Comparison | None:  # fmt: skip
    known = {
        method: mean[method][name].value
        for method, name in chosen.items()
        if name in mean[method] and not math.isnan(mean[method][name].value)
    }
    if len(known) < 2:
        return None
    sign = 1 if lower_is_better(title.split(" ")[0]) else -1
    order = sorted(known, key=lambda method: (sign * known[method], method))
    best = order[0]
    differences = {}
    for other in order[1:]:
        entry = mean[best][chosen[best]].minus(mean[other][chosen[other]]).entry(UNBOUNDED, images)
        banks = max(len(every[best]), len(every[other]))
        if banks > 1:
            pairs = [(every[best][i % len(every[best])], every[other][i % len(every[other])]) for i in range(banks)]
            entry["bank_sd"] = _spread([a[chosen[best]].value - b[chosen[other]].value for a, b in pairs])
        differences[other] = entry
    measures = {method: chosen[method].partition(".")[2] for method in order}
    return Comparison(title, {method: known[method] for method in order}, measures, differences)


def number(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A score with its interval over images, and the spread over banks where there are several.

    >>> number({"value": 0.5123, "low": 0.5, "high": 0.53}), number({"value": None})
    ('0.512 (0.500..0.530)', '–')
    """
    if entry is None or entry["value"] is None:
        return "–"
    text = f"{entry['value']:.{digits}f}"
    if entry.get("low") is not None:
        text += f" ({entry['low']:.{digits}f}..{entry['high']:.{digits}f})"
    if entry.get("bank_sd") is not None:
        text += f" ±{entry['bank_sd']:.{digits + 1}f}"
    return text


def compact(entry: Mapping[str, Any] | None) -> str:
    """The same on lines of their own, for a narrow column.

    >>> compact({"value": 0.5123, "low": 0.5, "high": 0.53, "bank_sd": 0.002}).split()
    ['0.512', '.500-.530', '±.0020']
    """
    if entry is None or entry["value"] is None:
        return "–"
    lines = [f"{entry['value']:.3f}"]
    if entry.get("low") is not None:
        lines.append(f"{_short(entry['low'], 3)}-{_short(entry['high'], 3)}")
    if entry.get("bank_sd") is not None:
        lines.append(f"±{_short(entry['bank_sd'], 4)}")
    return "\n".join(lines)


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


MASK_COLUMNS = ("method", "passes", "s/image", "mIoU", "accuracy", "NLL", "Brier")
DOUBT_COLUMNS = ("method", "ECE", "error AUROC", "by", "AUSE", "by")


def screens(found: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows under MASK_COLUMNS and under DOUBT_COLUMNS: two tables that fit 80 columns."""
    mask, doubt = [], []
    for name, method in found["methods"].items():
        scores = method["scores"]
        cells = [compact(scores.get(score)) for score in ("miou", "accuracy", "nll", "brier")]
        mask.append([name, str(method["passes_per_image"]), f"{method['seconds']:.2f}", *cells])
        row = [name, compact(scores.get("ece"))]
        for score in ("error_auroc", "ause"):
            best = best_entry(score, scores)
            row += [compact(scores.get(best)), best.partition(".")[2].replace("_", "\n")]
        doubt.append(row)
    return mask, doubt


COLUMNS = ("method", "passes", "s/image", "mIoU", "accuracy", "NLL", "Brier", "ECE", "error AUROC", "AUSE")


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """One row a method, under COLUMNS; error AUROC and AUSE by the measure that does best in each, which is named."""
    rows = []
    for name, method in found["methods"].items():
        scores = method["scores"]
        row = [name, str(method["passes_per_image"]), f"{method['seconds']:.2f}"]
        row += [number(scores.get(score)) for score in ("miou", "accuracy", "nll", "brier", "ece")]
        for score in ("error_auroc", "ause"):
            best = best_entry(score, scores)
            row.append(f"{number(scores[best])} {best.partition('.')[2]}" if best else "–")
        rows.append(row)
    return rows


def best_entry(score: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    """As `best_measure`, of the entries of `scores.json`."""
    sign = -1 if lower_is_better(score) else 1
    known = {n: e["value"] for n, e in scores.items() if n.split(".")[0] == score and e["value"] is not None}
    return max(known, key=lambda name: sign * known[name], default="")


WINNERS = ("score", "best", "value", "ahead of", "by", "certain")


def winners(found: Iterable[Comparison]) -> list[list[str]]:
    """One row a score, under WINNERS: the best method, the next, and whether the difference is more than chance.

    Certain: the 95 % interval over images leaves out 0, and where there are several banks the difference is more than
    twice its standard deviation over them.
    """
    rows = []
    for one in found:
        following = next(iter(one.differences))
        entry = one.differences[following]
        best = one.best + (f", {one.measures[one.best]}" if "best measure" in one.score else "")
        rows.append([one.score, best, f"{one.values[one.best]:.4f}", following, number(entry, 4), verdict(entry)])
    return rows


def verdict(entry: Mapping[str, Any]) -> str:
    """Whether a difference is more than the choice of images, and of banks, explains.

    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3}), verdict({"value": 0.1, "low": -0.1, "high": 0.3})
    ('yes', 'no: images')
    """
    if entry["value"] is None or entry.get("low") is None:
        return "no interval"
    reasons = ["images"] if entry["low"] <= 0 <= entry["high"] else []
    if entry.get("bank_sd") is not None and abs(entry["value"]) <= 2 * entry["bank_sd"]:
        reasons.append("banks")
    return f"no: {', '.join(reasons)}" if reasons else "yes"
