"""Scores as text: numbers with their intervals, tables for the terminal and for a page, and the finding in a few lines.

Must not know how a score was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segment.jobs.evaluation.comparison import BEST, COMMON, Comparison, Gain, best_entry, lower_is_better

WORDS = {
    "miou": "mIoU", "dice": "Dice", "nll": "NLL", "brier": "Brier", "ece": "ECE", "ece_adaptive": "adaptive ECE",
    "normalised_pll": "normalised PLL", "normalised_brier": "normalised Brier", "error_auroc": "error AUROC",
    "error_ap": "error AP", "ause": "AUSE", "accuracy_at_90": "accuracy at 90 %", "pavpu_4": "PAvPU 4",
    "unseen_auroc": "unseen AUROC",
}  # fmt: skip
TOLD = ("nll", "miou", "error_auroc" + BEST)
"""Scores that a gain is told in."""


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


def counted(found: Mapping[str, Any]) -> str:
    """How much was scored.

    >>> counted({"images": 1, "pixels": 172800})
    '1 image, 172,800 labelled pixels'
    """
    return f"{found['images']} image{'s' * (found['images'] != 1)}, {found['pixels']:,} labelled pixels"


WINNERS = ("score", "best", "value", "next", "value", "difference", "certain")


def winners(found: Iterable[Comparison]) -> list[list[str]]:
    """One row a score, under WINNERS: the best method, the next, and whether the difference is more than chance.

    Certain: the 95 % interval over images leaves out 0, and where there are several banks the difference is more than
    twice its standard deviation over them.
    """
    rows = []
    for one in found:
        row = [words(one.score)]
        following = next(iter(one.differences))
        for method in (one.best, following):
            row += [method + (f", {one.measures[method]}" if BEST in one.score else ""), number(one.entries[method])]
        entry = one.differences[following]
        rows.append([*row, number(entry, 4), verdict(entry)])
    return rows


def words(score: str) -> str:
    """A score as a reader calls it.

    >>> words("nll"), words("error_auroc.variance"), words("error_auroc of the best measure")
    ('NLL', 'error AUROC, variance', 'error AUROC, best measure')
    """
    name, best, _ = score.partition(BEST)
    name, _, measure = name.partition(".")
    return WORDS.get(name, name) + (", best measure" if best else f", {measure.replace('_', ' ')}" if measure else "")


def in_short(found: Sequence[Comparison], gained: Sequence[Gain]) -> list[str]:
    """The finding: who is best in what beyond chance, what is not told apart, and what MCBN and its draws are worth."""
    plain = [one for one in found if not one.score.endswith(f".{COMMON}")]
    sure: dict[str, list[str]] = {}
    open_: list[str] = []
    for one in plain:
        name, following = words(one.score.partition(BEST)[0]), next(iter(one.differences))
        if verdict(one.differences[following]) == "yes":
            sure.setdefault(one.best, []).append(name)
        else:
            open_.append(f"{name} ({one.best}, {following})")
    lines = []
    if plain and not any(one.entries[one.best].get("low") is not None for one in plain):
        return ["One image gives no intervals, so that no difference is told from chance."]
    if sure:
        best = sorted(sure.items(), key=lambda pair: -len(pair[1]))
        lines.append(
            "Best beyond chance: " + "; ".join(f"**{name}** in {', '.join(ones)}" for name, ones in best) + "."
        )
    if open_:
        lines.append(f"Not told apart, best two: {', '.join(open_)}.")
    return lines + [_gain(one) for one in gained if one.differences]


def _gain(one: Gain) -> str:
    told = [f"{words(score.partition(BEST)[0])} {signed(one.differences[score])}"
            for score in TOLD if score in one.differences]  # fmt: skip
    certain = {score: entry for score, entry in one.differences.items() if verdict(entry) == "yes"}
    better = sum((entry["value"] < 0) == lower_is_better(score.split(" ")[0]) for score, entry in certain.items())
    passes = f"{one.passes[0]} passes for {one.passes[1]}"
    return (
        f"**{one.method} over {one.rival}** ({passes}): {', '.join(told)}; better beyond chance in {better} of "
        f"{len(one.differences)} scores, worse in {len(certain) - better}."
    )


def signed(entry: Mapping[str, Any]) -> str:
    """A difference with its interval.

    >>> signed({"value": -0.0321, "low": -0.04, "high": -0.02})
    '-0.032 (-0.040..-0.020)'
    """
    text = number(entry)
    return text if text.startswith("-") or text == "–" else f"+{text}"


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
