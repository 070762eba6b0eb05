"""Scores as text: numbers with their intervals, and tables for the terminal and for a page.

Must not know how a score was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from segment.errors import count_of
from segment.report.method_comparison import BEST, best_entry, improves, lower_is_better
from segment.scores.board import Over
from segment.significance.corrections import LEVEL, NOT_SIGNIFICANT, SIGNIFICANT

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
    "expected_miou": "expected mIoU",
    "soft_dice": "Soft Dice Confidence",
}
MOST = 8
"""Decimals of a number at the most; a smaller one is that of rounding."""


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


def difference_decimals(entry: Mapping[str, Any], least: int = 3) -> int:
    """Decimals of a difference, as of a score; but no end of an interval without 0 is written as 0.

    >>> difference_decimals({"value": -0.0019, "low": -0.0037, "high": -0.000027})
    5
    """
    wanted, low, high = entry_decimals(entry, least), entry.get("low"), entry.get("high")
    if low is None or high is None or low * high <= 0:
        return wanted
    nearest = min(abs(low), abs(high))
    return wanted if round(nearest, wanted) else min(MOST, -math.floor(math.log10(nearest)))


def number(
    entry: Mapping[str, Any] | None,
    digits: int = 3,
    decimals_of: Callable[[Mapping[str, Any], int], int] = entry_decimals,
) -> str:
    """A score with its interval, and the spread over banks where there are several.

    digits: decimals at the least; decimals_of: when there are more, as `difference_decimals` of a difference

    >>> number({"value": 0.5123, "low": 0.5, "high": 0.53}), number({"value": None})
    ('0.512 (0.500..0.530)', '–')
    >>> number({"value": 0.00043, "low": 0.00031, "high": 0.00049})
    '0.00043 (0.00031..0.00049)'
    """
    if entry is None or entry["value"] is None:
        return "–"
    digits = decimals_of(entry, digits)
    text = f"{entry['value']:z.{digits}f}"
    if entry.get("low") is not None:
        text += f" ({entry['low']:z.{digits}f}..{entry['high']:z.{digits}f})"
    if entry.get("bank_sd") is not None:
        text += f" ±{entry['bank_sd']:.{digits + 1}f}"
    return text


def compact(entry: Mapping[str, Any] | None, digits: int = 3) -> str:
    """A score, its interval and its spread over banks on lines of their own, for a narrow column.

    >>> compact({"value": 0.5123, "low": 0.5, "high": 0.53, "bank_sd": 0.002}).split()
    ['.512', '.500-.530', '±.0020']
    """
    if entry is None or entry["value"] is None:
        return "–"
    digits = entry_decimals(entry, digits)
    lines = [short(entry["value"], digits)]
    if entry.get("low") is not None:
        lines.append(f"{short(entry['low'], digits)}-{short(entry['high'], digits)}")
    if entry.get("bank_sd") is not None:
        lines.append(f"±{short(entry['bank_sd'], digits + 1)}")
    return "\n".join(lines)


def compact_column(entries: Iterable[Mapping[str, Any] | None]) -> list[str]:
    r"""The cells of one column, all with as many decimals.

    >>> compact_column([{"value": 0.0103, "low": 0.006, "high": 0.015}, {"value": 0.0039}, None, {"value": None}])
    ['.0103\n.0060-.0150', '.0039', '–', '–']
    """
    return _column(entries, compact)


def number_column(entries: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """The cells of one column, each as `number` writes it, all with as many decimals."""
    return _column(entries, number)


def _column(
    entries: Iterable[Mapping[str, Any] | None], text_of: Callable[[Mapping[str, Any] | None, int], str]
) -> list[str]:
    """The cells of one column, with as many decimals as the entry with most."""
    column = list(entries)
    known = [entry for entry in column if entry and entry["value"] is not None]
    digits = max(map(entry_decimals, known), default=3)
    return [text_of(entry, digits) for entry in column]


def short(value: float, digits: int, sign: str = "") -> str:
    """A number without the zero before its point. sign: "+" to show it of positive numbers too.

    >>> short(0.5, 3), short(-0.5, 2), short(1.5, 1, "+")
    ('.500', '-.50', '+1.5')
    """
    text = f"{value:{sign}z.{digits}f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def words(score: str) -> str:
    """A score, or a number of an image without labels, as a reader calls it.

    >>> words("nll"), words("error_auroc.variance"), words("error_auroc of the best measure")
    ('NLL', 'error AUROC, variance', 'error AUROC, best measure')
    >>> words("expected_accuracy"), words("mean.mutual_information")
    ('expected accuracy', 'mean mutual information')
    """
    name, best, _ = score.partition(BEST)
    name, _, measure = name.partition(".")
    measure = measure.replace("_", " ")
    if name == "mean":
        return f"mean {measure}"
    return WORDS.get(name, name.replace("_", " ")) + (", best measure" if best else f", {measure}" if measure else "")


def arrow(score: str) -> str:
    """The direction in which a score is better.

    >>> arrow("nll"), arrow("error_auroc of the best measure")
    ('↓', '↑')
    """
    return "↓" if lower_is_better(score) else "↑"


def heading(score: str, more: str = "") -> str:
    """A score as the head of a column, with the direction in which it is better.

    >>> heading("nll"), heading("error_auroc", ", by")
    ('NLL ↓', 'error AUROC ↑, by')
    """
    return f"{words(score)} {arrow(score)}{more}"


ARROWS = "↑ more is better, ↓ less is."
MASK_SCORES = ("miou", "accuracy", "nll", "brier")
MASK_COLUMNS = ("method", "passes\ns/image", *(heading(score).replace(" ", "\n") for score in MASK_SCORES))
PAGE_SCORES = (*MASK_SCORES, "ece")
RANKED = ("error_auroc", "ause")
UNCERTAINTY_COLUMNS = ("method", heading("ece"), *(heading(score, ", by") for score in RANKED))


def screen_tables(content: Mapping[str, Any]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows under MASK_COLUMNS and under UNCERTAINTY_COLUMNS: two tables that fit 80 columns."""
    methods = content["methods"]
    *of_masks, calibration = (compact_column(_entries(methods, score)) for score in PAGE_SCORES)
    cost = [f"{method['passes_per_image']}\n{method['seconds']:.2f}" for method in methods.values()]
    ranked = []
    for score in RANKED:
        names, entries = _by_best(methods, score)
        measures = [name.partition(".")[2].replace("_", " ") for name in names]
        cells = zip(compact_column(entries), measures, strict=True)
        ranked.append([f"{cell}\n{measure}".rstrip() for cell, measure in cells])
    return _rows(methods, cost, *of_masks), _rows(methods, calibration, *ranked)


COLUMNS = ("method", "passes", "s/image", *map(heading, (*PAGE_SCORES, *RANKED)))


def table(content: Mapping[str, Any]) -> list[list[str]]:
    """One row a method, under COLUMNS; error AUROC and AUSE by the measure that does best in each, which is named."""
    methods = content["methods"]
    columns = [[str(method["passes_per_image"]) for method in methods.values()]]
    columns.append([f"{method['seconds']:.2f}" for method in methods.values()])
    columns += [number_column(_entries(methods, score)) for score in PAGE_SCORES]
    for score in RANKED:
        names, entries = _by_best(methods, score)
        cells = zip(number_column(entries), names, strict=True)
        columns.append([f"{cell} {name.partition('.')[2]}".rstrip() for cell, name in cells])
    return _rows(methods, *columns)


ANNOTATOR_COLUMNS = ("method", "mIoU ↑, mean", "mIoU ↑, each", "NLL ↓, mean", "disagreement AUROC ↑")


def annotator_rows(scores: Mapping[str, Any]) -> list[list[str]]:
    """A row for each method: means with intervals, and the measure that ranks disagreement best."""
    rows = []
    for name, method in scores["methods"].items():
        aurocs = {key.partition(".")[2]: entry for key, entry in method["disagreement"].items() if "_auroc." in key}
        defined = [key for key, entry in aurocs.items() if entry["value"] is not None]
        best = max(defined, key=lambda key: aurocs[key]["value"], default="")
        each = "\n".join(compact({"value": scores["miou"]["value"]}) for scores in method["each"])
        mean = method["mean"]
        auroc = f"{compact(aurocs.get(best))}\n{best}"
        rows.append([name, compact(mean["miou"]), each, compact(mean["nll"]), auroc])
    return rows


def _entries(methods: Mapping[str, Any], score: str) -> list[Mapping[str, Any] | None]:
    return [method["scores"].get(score) for method in methods.values()]


def _by_best(methods: Mapping[str, Any], score: str) -> tuple[list[str], list[Mapping[str, Any] | None]]:
    """The name, and the entry, of a ranking score of each method by the measure that does best; "" without any."""
    names = [best_entry(score, method["scores"]) for method in methods.values()]
    entries = [method["scores"].get(name) for name, method in zip(names, methods.values(), strict=True)]
    return names, entries


def _rows(methods: Mapping[str, Any], *columns: list[str]) -> list[list[str]]:
    return [list(row) for row in zip(methods, *columns, strict=True)]


def counted(content: Mapping[str, Any]) -> str:
    """How much was scored.

    >>> counted({"images": 1, "pixels": 172800})
    '1 image, 172,800 labelled pixels'
    >>> counted({"images": 40, "pixels": 172800, "groups": 9})
    '40 images in 9 groups, 172,800 labelled pixels'
    """
    groups = f" in {count_of(content['groups'], 'group')}" if "groups" in content else ""
    return f"{count_of(content['images'], 'image')}{groups}, {content['pixels']:,} labelled pixels"


def units_of(content: Mapping[str, Any]) -> tuple[int, Over]:
    """How many images, or groups of them, intervals and tests are over, and which.

    >>> units_of({"images": 40, "groups": 9}), units_of({"images": 40})
    ((9, 'groups'), (40, 'images'))
    """
    return (content["groups"], "groups") if "groups" in content else (content["images"], "images")


def signed(entry: Mapping[str, Any]) -> str:
    """A difference with its interval.

    >>> signed({"value": -0.0321, "low": -0.04, "high": -0.02})
    '-0.032 (-0.040..-0.020)'
    >>> signed({"value": -0.0001, "low": -0.008, "high": 0.008})
    '0.000 (-0.008..0.008)'
    """
    text = number(entry, decimals_of=difference_decimals)
    zero = text == "–" or not float(text.split()[0])
    return text if text.startswith("-") or zero else f"+{text}"


def verdict(entry: Mapping[str, Any]) -> str:
    """Whether a difference is more than the choice of images, the number of tests, and the banks explain; or why not.

    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3}), verdict({"value": 0.1, "low": -0.1, "high": 0.3})
    ('significant', 'not significant: the interval includes 0')
    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3, "p": 0.01, "holm_p": 0.2})
    "not significant after Holm's correction"
    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3, "p": 0.075, "holm_p": 0.2})
    'not significant: p = 0.075'
    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3, "p": None, "holm_p": None})
    'not significant: too few to test'
    >>> verdict({"value": 0.2, "low": 0.1, "high": 0.3, "bank_sd": 0.2})
    'not significant: less than the banks differ'
    """
    if entry["value"] is None or entry.get("low") is None:
        return "no interval"
    if "p" in entry and entry["p"] is None:
        return f"{NOT_SIGNIFICANT}: too few to test"
    if entry["low"] <= 0 <= entry["high"]:
        return f"{NOT_SIGNIFICANT}: the interval includes 0"
    if (p := entry.get("p")) is not None and p > LEVEL:
        return f"{NOT_SIGNIFICANT}: p = {p:.{2 if p >= 0.06 else 3}g}"
    if entry.get("holm_p") is not None and entry["holm_p"] > LEVEL:
        return f"{NOT_SIGNIFICANT} after Holm's correction"
    if entry.get("bank_sd") is not None and abs(entry["value"]) <= 2 * entry["bank_sd"]:
        return f"{NOT_SIGNIFICANT}: less than the banks differ"
    return SIGNIFICANT


def gained(score: str, entry: Mapping[str, Any]) -> str:
    """The verdict on a difference; of a significant one whether it is better or worse.

    >>> gained("nll", {"value": -0.2, "low": -0.3, "high": -0.1})
    'significantly better'
    """
    found = verdict(entry)
    if found != SIGNIFICANT:
        return found
    return f"significantly {'better' if improves(score, entry['value']) else 'worse'}"


def few(units: int, over: str, what: str, deviations: float) -> str:
    """That so few images or groups show no small difference; without the full stop.

    >>> few(12, "images", "difference", 1.23)  # doctest: +ELLIPSIS
    '12 images are few: a difference below 1.2 standard deviations over images would be missed more often than one...'
    """
    return (
        f"{units} {over} are few: a {what} below {deviations:.1f} standard deviations over {over} would be missed "
        "more often than one time in five"
    )
