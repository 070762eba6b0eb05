"""Two runs compared, number by number: the tests of every column, corrected for their number, and the result in words.

Must not know a file, nor how an accuracy is estimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segment.errors import count_of
from segment.report.method_comparison import improves
from segment.report.tables import few, words
from segment.scores.functional.binning import Floats
from segment.significance.corrections import NOT_SIGNIFICANT, SIGNIFICANT, Interval, holm, verdict
from segment.significance.estimated_accuracy import Estimates
from segment.significance.paired import (
    FEW,
    PairedTest,
    group_means,
    least_images,
    paired_test,
    seen_deviations,
    smallest_difference,
)
from segment.significance.unpaired import UnpairedTest, unpaired_test
from segment.uncertainty.measures import MEASURES

Rows = Mapping[str, Mapping[str, float]]
QUALITY = ("accuracy", "miou", "dice", "nll", "brier", "error_auroc.predictive_entropy")
"""Columns that need labels."""
UNLABELLED = ("expected_accuracy", "expected_miou", "soft_dice", *(f"mean.{name}" for name in MEASURES))
TESTED = (*QUALITY, *UNLABELLED)


@dataclass(frozen=True)
class RunComparison:
    """The tests of every column that both runs have.

    names: of A and B. paired: column -> test over the images that both have; unpaired: over all images of each
    adjusted: column -> p after Holm's correction. images: of A, of B, of both
    smallest: column -> the paired difference that would be missed one time in five after Holm's correction
    spreads: column -> its standard deviation
    values: column -> the images' numbers in both runs. notes: sentences
    other_labels: where quality is measured by other labels in B than in A, what differs
    estimated: B's accuracy; errors: of the estimates on `checked_on` labelled runs
    over: what the tests are over, "images" or "groups", whose numbers are the means over their images
    """

    names: tuple[str, str]
    images: tuple[int, int, int]
    paired: Mapping[str, PairedTest]
    unpaired: Mapping[str, UnpairedTest]
    adjusted: Mapping[str, float]
    smallest: Mapping[str, float]
    spreads: Mapping[str, float]
    values: Mapping[str, tuple[Floats, Floats]]
    estimated: Estimates | None = None
    errors: Mapping[str, float | None] | None = None
    checked_on: int = 0
    notes: tuple[str, ...] = ()
    other_labels: str = ""
    over: str = "images"

    @property
    def significant(self) -> list[str]:
        """The columns that differ, the smallest p first."""
        columns = [column for column, p in self.adjusted.items() if verdict(p) == SIGNIFICANT]
        return sorted(columns, key=lambda column: self.adjusted[column])

    def as_dict(self) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for column, test in (self.paired or self.unpaired).items():
            adjusted = self.adjusted.get(column)
            columns[column] = asdict(test) | {"holm_p": adjusted, "verdict": verdict(adjusted)}
            if column in self.smallest:
                columns[column]["smallest_difference"] = self.smallest[column]
        return {
            "names": list(self.names),
            "paired": bool(self.paired),
            "over": self.over,
            "images": list(self.images),
            "columns": columns,
            "significant": self.significant,
            "estimated_accuracy": None if self.estimated is None else asdict(self.estimated),
            "estimate_errors": None if self.errors is None else dict(self.errors) | {"checked_on": self.checked_on},
            "other_labels": self.other_labels or None,
            "sentences": comparison_sentences(self),
        }


def compare_rows(
    names: tuple[str, str], first: Rows, second: Rows, *, pair: bool = True, groups: Mapping[str, str] | None = None
) -> RunComparison:
    """Test every column that both runs have.

    Args:
        names: How a reader calls A and B.
        first: A's images by id, each a mapping of columns to numbers.
        second: B's.
        pair: Whether images of the same id are compared with one another; False: the sets are compared as wholes.
        groups: The group of each id, over which differences are tested: images of a group are not independent. None:
            over images.

    Returns:
        Paired tests where some id is in both runs, else unpaired ones, with p-values after Holm's correction over
        all columns that were tested.

    """
    both = sorted(first.keys() & second.keys()) if pair else []
    shared = [column for column in TESTED if _has(first, column) and _has(second, column)]
    counts = (len(first), len(second), len(both))
    ids = (both, both) if both else (list(first), list(second))
    values = {c: (_values(first, ids[0], c), _values(second, ids[1], c)) for c in shared}
    over, units = "images" if groups is None else "groups", counts
    if groups is not None:
        a_groups, b_groups = ([groups[name] for name in of_run] for of_run in ids)
        units = (len({*a_groups}), len({*b_groups}), len({*a_groups} & {*b_groups}) if both else 0)
        values = {c: _by_group(*pair_of, a_groups, b_groups, paired=bool(both)) for c, pair_of in values.items()}
    if both:
        paired = {c: test for c, pair_of in values.items() if (test := paired_test(*pair_of)) is not None}
        p = {c: test.permutation_p for c, test in paired.items() if test.permutation_p is not None}
        differences = {c: (b - a)[np.isfinite(b - a)] for c, (a, b) in values.items() if c in paired}
        least = {
            c: limit for c, d in differences.items() if (limit := smallest_difference(d, tests=len(p))) is not None
        }
        spreads = {c: float(d.std(ddof=1)) for c, d in differences.items() if d.size > 1}
        kept, notes = _finite(values, pair=True), _paired_notes(counts, units[2], over, len(p))
        return RunComparison(names, counts, paired, {}, holm(p), least, spreads, kept, notes=notes, over=over)
    unpaired = {c: apart for c, pair_of in values.items() if (apart := unpaired_test(*pair_of)) is not None}
    adjusted = holm({c: apart.ks_p for c, apart in unpaired.items()})
    kept, notes = _finite(values, pair=False), _unpaired_notes(min(units[:2]), over, pair=pair)
    return RunComparison(names, counts, {}, unpaired, adjusted, {}, {}, kept, notes=notes, over=over)


def better(column: str, difference: float, *, comparable: bool = True) -> str:
    """Whether B's number is better than A's, for the columns where more or less is; else which way it went.

    comparable: whether A and B have the same labels
    """
    if column in QUALITY and comparable:
        return "better" if improves(column, difference) else "worse"
    return "higher" if difference > 0 else "lower"


def comparison_sentences(compared: RunComparison) -> list[str]:
    """The result in sentences, the most important first."""
    a, b = compared.names
    if not compared.paired and not compared.unpaired:
        return [f"Nothing could be tested: {a} and {b} share no column with numbers of enough images.", *compared.notes]
    tested = len(compared.adjusted)
    if not tested:
        return ["No difference could be tested.", *compared.notes]
    lines = []
    if compared.significant:
        parts = [f"{words(column)} {_change(compared, column)}" for column in compared.significant]
        tests = f"{tested} tests" + (" over groups" if compared.over == "groups" else "")
        lines.append(f"{b} against {a}, significant after Holm's correction over {tests}: {'; '.join(parts)}.")
    open_ = [words(column) for column in compared.adjusted if column not in compared.significant]
    if open_:
        lines.append(f"Not significant: {', '.join(open_)}.")
    if all(test.why == "equal on every image" for test in compared.paired.values()) and compared.paired:
        first, second, both = compared.images
        where = f"the {count_of(both, 'image')} that both have" if both < max(first, second) else "every image"
        lines = [f"{a} and {b} are equal on {where}, in all {tested} columns: not significant."]
    e = compared.estimated
    estimates = [] if e is None else estimate_words(b, e, compared.errors, compared.checked_on)
    labels = [compared.other_labels] if compared.other_labels else []
    return [*labels, *lines, *estimates, *compared.notes]


def _change(compared: RunComparison, column: str) -> str:
    if column in compared.paired:
        test = compared.paired[column]
        d = test.difference
        ends = [end if d.value > 0 else -end for end in (d.low, d.high) if end is not None]
        span = f" ({min(ends):.4g}..{max(ends):.4g})" if ends else ""
        return f"{better(column, d.value, comparable=not compared.other_labels)} by {abs(d.value):.4g}{span}"
    apart = compared.unpaired[column]
    chance, moved = apart.auroc, apart.second - apart.first
    # the test is of the distributions, and says nothing of the means
    way = better(column, moved, comparable=not compared.other_labels)
    if not _excludes_half(chance):
        way = "distributed otherwise, but neither higher nor lower"
    elif (chance.value > 0.5) != (moved > 0):
        pairs, mean = ("lower", "higher") if moved > 0 else ("higher", "lower")
        way = f"{pairs} in most pairs of {compared.over}, with a {mean} mean"
    return f"{way} (AUROC {chance.value:.3f}, {chance.low:.3f}..{chance.high:.3f})"


def _excludes_half(chance: Interval) -> bool:
    return chance.low is not None and chance.high is not None and not chance.low <= 0.5 <= chance.high


def _by_group(
    a: Floats, b: Floats, a_groups: Sequence[str], b_groups: Sequence[str], *, paired: bool
) -> tuple[Floats, Floats]:
    """The means over the images of each group, in the order of the groups; nan where no image of it has the number.

    paired: whether an image counts only where both have its number
    """
    if paired:
        both = np.isfinite(a) & np.isfinite(b)
        a, b = np.where(both, a, np.nan), np.where(both, b, np.nan)
    return group_means(a, a_groups), group_means(b, b_groups)


def _finite(values: Mapping[str, tuple[Floats, Floats]], *, pair: bool) -> dict[str, tuple[Floats, Floats]]:
    """The numbers that are defined, in both runs where images are paired."""
    kept = {}
    for column, (a, b) in values.items():
        known = (np.isfinite(a), np.isfinite(b)) if not pair else (np.isfinite(a) & np.isfinite(b),) * 2
        kept[column] = (a[known[0]], b[known[1]])
    return kept


def _has(rows: Rows, column: str) -> bool:
    return any(column in row for row in rows.values())


def _values(rows: Rows, ids: Sequence[str], column: str) -> Floats:
    return np.array([rows[name].get(column, np.nan) for name in ids], dtype=np.float64)


PAIRED_COLUMNS = (
    *("number", "tested", "A", "B", "B - A (95 %)", "B higher / lower"),
    *("p sign", "p flip", "Holm", "verdict"),
)
UNPAIRED_COLUMNS = ("number", "A", "B", "B / A", "AUROC (95 %)", "KS", "p", "Holm", "verdict")


def table_of(compared: RunComparison) -> tuple[tuple[str, ...], list[list[str]]]:
    """The columns and a row a number, as text."""
    rows = []
    for column, test in compared.paired.items():
        d = test.difference
        span = f"{d.value:+.4g}" + ("" if d.low is None else f" ({d.low:+.4g}..{d.high:+.4g})")
        rows.append(
            [
                words(column),
                str(test.images),
                f"{test.first:.4g}",
                f"{test.second:.4g}",
                span,
                f"{test.higher} / {test.lower}",
                _p(test.sign_p),
                _p(test.permutation_p),
                _p(compared.adjusted.get(column)),
                verdict(compared.adjusted.get(column)) if not test.why else f"{NOT_SIGNIFICANT}: {test.why}",
            ]
        )
    for column, apart in compared.unpaired.items():
        chance = apart.auroc
        rows.append(
            [
                words(column),
                f"{apart.first:.4g}",
                f"{apart.second:.4g}",
                "–" if apart.ratio is None else f"{apart.ratio:.3f}",
                f"{chance.value:.3f} ({chance.low:.3f}..{chance.high:.3f})",
                f"{apart.ks:.3f}",
                _p(apart.ks_p),
                _p(compared.adjusted.get(column)),
                verdict(compared.adjusted.get(column)),
            ]
        )
    return (PAIRED_COLUMNS if compared.paired else UNPAIRED_COLUMNS), rows


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}" if value >= 1e-3 else f"{value:.0e}"


def _paired_notes(counts: tuple[int, int, int], units: int, over: str, tests: int) -> tuple[str, ...]:
    """What paired tests of so few can show.

    counts: images of A, of B, of both. units: how many are compared, of `over`: "images" or "groups". tests: how many
    """
    first, second, both = counts
    notes = []
    if both < max(first, second):
        notes.append(f"{_are(both, 'images')} in both runs and compared; A has {first}, B {second}.")
    seen = seen_deviations(units, max(tests, 1))
    if units == 1:
        notes.append(f"One {over[:-1]} shows a difference of that {over[:-1]} and nothing more.")
    elif seen is None:
        least = least_images(max(tests, 1))
        more = f"{least} {over} are the least" if least else "so many tests leave none"
        notes.append(f"With {units} {over} and {count_of(tests, 'measure')} no difference can be significant: {more}.")
    elif units < FEW:
        notes.append(f"{few(units, over, 'difference', seen)}.")
    return tuple(notes)


def _are(count: int, over: str) -> str:
    return f"1 {over[:-1]} is" if count == 1 else f"{count} {over} are"


def _unpaired_notes(fewest: int, over: str, *, pair: bool) -> tuple[str, ...]:
    """Why sets are compared as wholes, and whether the smaller of them, of `fewest` images or groups, is small."""
    why = "The runs share no image id, so" if pair else "As asked,"
    notes = [f"{why} the two sets of images are compared as wholes."]
    if fewest < FEW:
        notes.append(f"{_are(fewest, over)} few: only large differences can be seen.")
    return tuple(notes)


def estimate_words(name: str, e: Estimates, errors: Mapping[str, float | None] | None, checked_on: int) -> list[str]:
    """A sentence; none where nothing could be estimated.

    Args:
        name: Of the run.
        e: Its estimates.
        errors: Method -> its mean error on `checked_on` labelled runs; None where there are none.
        checked_on: How many these are.

    >>> estimate_words("B", Estimates(0.8, None), {"atc": 0.0, "doc": None}, 1)
    ['Estimated accuracy of B: ATC 0.800 of its pixels. The mean error on 1 labelled run was ATC 0.000.']

    """
    estimates = (
        ("ATC", e.atc, "of its pixels", e.truth),
        ("DoC", e.doc, "as the mean over its images", e.mean_truth),
    )
    parts = [
        f"{method} {value:.3f} {of}" + ("" if truth is None else f" (it is {truth:.3f})")
        for method, value, of, truth in estimates
        if value is not None
    ]
    if not parts:
        return []
    line = f"Estimated accuracy of {name}: {', '.join(parts)}"
    if errors is None or not checked_on:
        unknown = "How wrong these estimates are under such a shift is not known: give labelled runs by --known."
        return [f"{line}. {unknown}"]
    known = ((method, errors.get(method.lower())) for method, *_ in estimates)
    wrong = ", ".join(f"{method} {error:.3f}" for method, error in known if error is not None)
    return [f"{line}. The mean error on {count_of(checked_on, 'labelled run')} was {wrong or 'not known'}."]
