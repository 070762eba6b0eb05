"""Scores as text: numbers with their intervals, tables for the terminal and for a page, and the result in sentences.

Must not know how a score was made.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segment.errors import count_of
from segment.report.comparison import BEST, COMMON, Comparison, Gain, best_entry, lower_is_better
from segment.significance.corrections import LEVEL, NOT_SIGNIFICANT, SIGNIFICANT
from segment.significance.paired import LEAST

WORDS = {
    "miou": "mIoU",
    "dice": "Dice",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "ece_adaptive": "adaptive ECE",
    "normalised_pll": "normalised PLL",
    "normalised_brier": "normalised Brier",
    "error_auroc": "error AUROC",
    "error_ap": "error AP",
    "ause": "AUSE",
    "accuracy_at_90": "accuracy at 90 %",
    "pavpu_4": "PAvPU 4",
    "unseen_auroc": "unseen AUROC",
}
MOST = 8
"""Decimals of a number at the most; a smaller one is that of rounding."""
GAIN_SCORES = ("nll", "miou", "error_auroc" + BEST)
"""Scores that the sentence of a gain states."""


def decimals(value: float, least: int = 3) -> int:
    """Decimals that show two significant digits of a value at the least: `least` of a large one, `MOST` of none.

    >>> decimals(0.5123), decimals(0.00043), decimals(0.0), decimals(-0.012)
    (3, 5, 3, 3)
    """
    if abs(value) < 10**-MOST:
        return least
    return max(least, min(MOST, 1 - math.floor(math.log10(abs(value)))))


def entry_decimals(entry: Mapping[str, Any], least: int = 3) -> int:
    """Decimals of a score: two significant digits, but no more than its interval's width has: further ones are noise.

    >>> entry_decimals({"value": 0.00043, "low": 0.00031, "high": 0.00049}), entry_decimals({"value": 0.00043})
    (5, 5)
    >>> entry_decimals({"value": -0.00007, "low": -0.00153, "high": 0.00202})
    4
    """
    wanted = decimals(entry["value"], least)
    return wanted if entry.get("low") is None else min(wanted, decimals(entry["high"] - entry["low"], least))


def number(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A score with its interval over images, and the spread over banks where there are several.

    digits: decimals at the least; `entry_decimals` says when there are more

    >>> number({"value": 0.5123, "low": 0.5, "high": 0.53}), number({"value": None})
    ('0.512 (0.500..0.530)', '–')
    >>> number({"value": 0.00043, "low": 0.00031, "high": 0.00049})
    '0.00043 (0.00031..0.00049)'
    """
    if entry is None or entry["value"] is None:
        return "–"
    digits = entry_decimals(entry, digits)
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
    digits = entry_decimals(entry)
    lines = [f"{entry['value']:.{digits}f}"]
    if entry.get("low") is not None:
        lines.append(f"{_short(entry['low'], digits)}-{_short(entry['high'], digits)}")
    if entry.get("bank_sd") is not None:
        lines.append(f"±{_short(entry['bank_sd'], digits + 1)}")
    return "\n".join(lines)


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


MASK_COLUMNS = ("method", "passes\ns/image", "mIoU", "accuracy", "NLL", "Brier")
UNCERTAINTY_COLUMNS = ("method", "ECE", "error AUROC, by", "AUSE, by")


def screen_tables(content: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows under MASK_COLUMNS and under UNCERTAINTY_COLUMNS: two tables that fit 80 columns."""
    mask_rows, uncertainty_rows = [], []
    for name, method in content["methods"].items():
        scores = method["scores"]
        cells = [compact(scores.get(score)) for score in ("miou", "accuracy", "nll", "brier")]
        mask_rows.append([name, f"{method['passes_per_image']}\n{method['seconds']:.2f}", *cells])
        row = [name, compact(scores.get("ece"))]
        for score in ("error_auroc", "ause"):
            best = best_entry(score, scores)
            measure = best.partition(".")[2].replace("_", " ")
            row.append(f"{compact(scores.get(best))}\n{measure}".rstrip())
        uncertainty_rows.append(row)
    return mask_rows, uncertainty_rows


COLUMNS = ("method", "passes", "s/image", "mIoU", "accuracy", "NLL", "Brier", "ECE", "error AUROC", "AUSE")


def table(content: Mapping[str, Any]) -> list[list[str]]:
    """One row a method, under COLUMNS; error AUROC and AUSE by the measure that does best in each, which is named."""
    rows = []
    for name, method in content["methods"].items():
        scores = method["scores"]
        row = [name, str(method["passes_per_image"]), f"{method['seconds']:.2f}"]
        row += [number(scores.get(score)) for score in ("miou", "accuracy", "nll", "brier", "ece")]
        for score in ("error_auroc", "ause"):
            best = best_entry(score, scores)
            row.append(f"{number(scores[best])} {best.partition('.')[2]}" if best else "–")
        rows.append(row)
    return rows


def counted(content: Mapping[str, Any]) -> str:
    """How much was scored.

    >>> counted({"images": 1, "pixels": 172800})
    '1 image, 172,800 labelled pixels'
    """
    return f"{count_of(content['images'], 'image')}, {content['pixels']:,} labelled pixels"


BEST_TWO = ("score", "best", "value", "next", "value", "difference", "significant against the next")
WIDTH = 78
"""Characters of a line that is indented by two on a screen of 80 columns."""
NAMED = 3
"""Methods that a sentence names of those that the best is not significantly better than."""


def best_two(comparisons: Iterable[Comparison]) -> list[list[str]]:
    """One row a score, under BEST_TWO: the best method, the next, and whether the difference is significant.

    Significant: the 95 % interval over images leaves out 0, p after Holm's correction over all scores and methods is at
    most .05, and where there are several banks the difference is more than twice its standard deviation over them.
    """
    rows = []
    for comparison in comparisons:
        row = [words(comparison.score)]
        following = next(iter(comparison.differences))
        for method in (comparison.best, following):
            row += [
                method + (f", {comparison.measures[method]}" if BEST in comparison.score else ""),
                number(comparison.entries[method]),
            ]
        entry = comparison.differences[following]
        rows.append([*row, number(entry, 4), verdict(entry)])
    return rows


def best_two_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """A short entry a score for a screen, on two lines where one is too long: best method, next, significance.

    Ranking scores are by each method's best measure; `best_two` has them by the common one too, and the intervals.
    """
    lines = []
    for comparison in comparisons:
        if not comparison.score.endswith(f".{COMMON}"):
            following, entry = next(iter(comparison.differences.items()))
            by = "–" if entry["value"] is None else f"{entry['value']:+.2g}"
            score = words(comparison.score.partition(BEST)[0])
            line, found = f"{score}: {comparison.best}, next {following} ({by}),", verdict(entry)
            lines.append(f"{line} {found}" if len(f"{line} {found}") <= WIDTH else f"{line}\n    {found}")
    return lines


def words(score: str) -> str:
    """A score as a reader calls it.

    >>> words("nll"), words("error_auroc.variance"), words("error_auroc of the best measure")
    ('NLL', 'error AUROC, variance', 'error AUROC, best measure')
    """
    name, best, _ = score.partition(BEST)
    name, _, measure = name.partition(".")
    return WORDS.get(name, name) + (", best measure" if best else f", {measure.replace('_', ' ')}" if measure else "")


def in_short(comparisons: Sequence[Comparison], gained: Sequence[Gain], images: int) -> list[str]:
    """The result in sentences: which method is significantly best in what, what is not significant, what MCBN gains.

    Significantly best: the difference from every other method is significant, not only that from the next. Of fewer
    than LEAST images no test can call a difference significant, which is said in place of their outcomes.
    """
    plain = [comparison for comparison in comparisons if not comparison.score.endswith(f".{COMMON}")]
    sure: dict[str, list[str]] = {}
    open_: list[str] = []
    for comparison in plain:
        name = words(comparison.score.partition(BEST)[0])
        near = [method for method, entry in comparison.differences.items() if verdict(entry) != SIGNIFICANT]
        if near:
            more = f" and {len(near) - NAMED} more" if len(near) > NAMED else ""
            open_.append(f"**{comparison.best}** in {name} (against {', '.join(near[:NAMED])}{more})")
        else:
            sure.setdefault(comparison.best, []).append(name)
    lines = []
    if plain and not any(comparison.entries[comparison.best].get("low") is not None for comparison in plain):
        return ["One image gives no intervals, so no difference can be called significant."]
    if images < LEAST:
        lines += (
            [f"With {images} images no difference can be significant: {LEAST} are the least."] if comparisons else []
        )
        return lines + [f"{_gain(gain)}." for gain in gained if gain.differences]
    if sure:
        best = sorted(sure.items(), key=lambda pair: -len(pair[1]))
        lines.append(
            "Significantly best: " + "; ".join(f"**{name}** in {', '.join(ones)}" for name, ones in best) + "."
        )
    if open_:
        lines.append(f"Best, but not significantly against the methods named: {'; '.join(open_)}.")
    return lines + [f"{_gain(gain)}; {_significant(gain)}." for gain in gained if gain.differences]


def _gain(gain: Gain) -> str:
    differences = [
        f"{words(score.partition(BEST)[0])} {signed(gain.differences[score])}"
        for score in GAIN_SCORES
        if score in gain.differences
    ]
    passes = f"{gain.passes[0]} passes for {gain.passes[1]}"
    return f"**{gain.method} over {gain.rival}** ({passes}): {', '.join(differences)}"


def _significant(gain: Gain) -> str:
    significant = {score: entry for score, entry in gain.differences.items() if verdict(entry) == SIGNIFICANT}
    better = sum((entry["value"] < 0) == lower_is_better(score.split(" ")[0]) for score, entry in significant.items())
    return f"significantly better in {better} of {len(gain.differences)} scores, worse in {len(significant) - better}"


def signed(entry: Mapping[str, Any]) -> str:
    """A difference with its interval.

    >>> signed({"value": -0.0321, "low": -0.04, "high": -0.02})
    '-0.032 (-0.040..-0.020)'
    """
    text = number(entry)
    return text if text.startswith("-") or text == "–" else f"+{text}"


def verdict(entry: Mapping[str, Any]) -> str:
    """Whether a difference is more than the choice of images, the number of tests, and the banks explain; else why not.

    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3}), verdict({"value": 0.1, "low": -0.1, "high": 0.3})
    ('significant', 'not significant: the interval includes 0')
    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3, "p": 0.01, "holm_p": 0.2})
    "not significant after Holm's correction"
    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3, "p": None, "holm_p": None})
    'not significant: too few images'
    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3, "bank_sd": 0.2})
    'not significant: less than the banks differ'
    """
    if entry["value"] is None or entry.get("low") is None:
        return "no interval"
    if "p" in entry and entry["p"] is None:
        return f"{NOT_SIGNIFICANT}: too few images"
    if entry["low"] <= 0 <= entry["high"]:
        return f"{NOT_SIGNIFICANT}: the interval includes 0"
    if entry.get("holm_p") is not None and entry["holm_p"] > LEVEL:
        return f"{NOT_SIGNIFICANT} after Holm's correction"
    if entry.get("bank_sd") is not None and abs(entry["value"]) <= 2 * entry["bank_sd"]:
        return f"{NOT_SIGNIFICANT}: less than the banks differ"
    return SIGNIFICANT
