"""Two runs to the tests of what differs between them, a page and a picture: `segment compare`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segment.errors import WrongUse, count_of, first_of
from segment.files.text_tables import markdown
from segment.files.writing import write_bytes, write_json, write_text
from segment.guarantees.groups import BY_GROUPS, numbered_warnings
from segment.images.labels.scheme import are_given_names
from segment.jobs.decisions.differences import other_labels, other_predictor
from segment.jobs.decisions.run_table import RunTable, run_table
from segment.jobs.evaluation.combinations import TUNED
from segment.pictures.comparisons import Moved, comparison_picture
from segment.report.run_comparison import RunComparison, compare_rows, comparison_sentences, table_of
from segment.report.run_files.run_folder import PER_IMAGE
from segment.report.tables import words
from segment.scores.functional.binning import Ints
from segment.significance.corrections import SIGNIFICANT, verdict
from segment.significance.estimated_accuracy import Estimates, atc, doc, mean_error
from segment.stores.requests import is_there
from segment.stores.urls import url_of

PAGE, PICTURE, RESULT = "comparison.md", "comparison.png", "comparison.json"
SHOWN = ("nll", "mean.mutual_information", "mean.predictive_entropy", "expected_accuracy")
"""Columns of which the first that was tested is shown image by image."""


def compare(
    first: str | Path,
    second: str | Path,
    *,
    method: str | None = None,
    other_method: str | None = None,
    pair: bool = True,
    known: Sequence[str | Path] = (),
    groups: str | None = None,
    table: str | Path | None = None,
) -> RunComparison:
    """Compare two runs, of one data set or of two, image by image where their ids match.

    Args:
        first: Run A: a folder that `segment evaluate` or `segment predict` wrote.
        second: Run B.
        method: Of A, where it is an evaluation; None: mcbn where it was run, or `tuned` where B was predicted by it.
        other_method: Of B; None: as `method`.
        pair: Whether images with one id are compared with one another.
        known: Labelled runs under other shifts, on which the estimates of accuracy are checked.
        groups: "folder", "sequence" (an id without its number), or a column of `table`: differences are tested over
            groups, each with the means over its images. None: over the groups that A was scored over, where B's images
            are in them too; else over images.
        table: A CSV with a column `id` and that of the groups.

    Returns:
        The tests, corrected for their number, and B's estimated accuracy where A is labelled.

    Raises:
        WrongUse: A folder holds no run, a run has no such method, an image has no group, or an argument would be
            ignored for these runs.

    """
    a, b = run_table(Path(first), method), _other(Path(second), other_method or method)
    if method is None and TUNED in a.methods and not b.labelled and b.run.settings.get("tuned"):
        a = run_table(Path(first), TUNED)
    if other_method is not None and not b.labelled:
        raise WrongUse("--other-method picks a method of an evaluation, and B is what `segment predict` wrote.")
    of_ids = a.run.asked_groups(sorted({*a.rows, *b.rows}), groups, table)
    compared = compare_rows(_names(a, b), a.rows, b.rows, pair=pair, groups=of_ids)
    notes = (
        *(f"{letter}: {table.run.missing}" for letter, table in (("A", a), ("B", b)) if table.run.missing),
        *_of_banks(a, b),
        *_other_classes(a, b),
        *_other_pixels(a, b, compared.images[2]),
        *_other_border(a, b),
        *compared.notes,
    )
    pairs = sorted(a.rows.keys() & b.rows.keys()) if compared.images[2] else []
    if of_ids is None and a.run.groups is not None:
        notes = (
            *notes,
            f"A was scored over groups ({a.run.settings['groups']}), and not all images of B are in them: "
            "tests are over images. Give --groups.",
        )
    elif of_ids is None:
        notes = (*notes, *numbered_warnings(pairs, BY_GROUPS))
    compared = replace(compared, notes=notes, other_labels=other_labels(a, b, pairs))
    confidences = a.confidences() if a.labelled else None
    if confidences is None:
        if known:
            raise WrongUse("--known checks the accuracy of B that A's labels estimate, and A keeps none of its pixels.")
        return compared
    if why := other_predictor(a, b):
        if known:
            raise WrongUse(f"--known checks estimates, and there is none: B was predicted by {why} than A.")
        lacking = f"The accuracy of B is not estimated from A's labels: it was predicted by {why}."
        return replace(compared, notes=(*compared.notes, lacking))
    if b.multilabel and not b.labelled:
        compared = replace(compared, notes=(*compared.notes, OF_LABELS))
    estimated = _estimated(a, confidences, b)
    checked = [_estimated(a, confidences, _known(Path(folder), a)) for folder in known]
    errors = {name: mean_error(checked, name) for name in ("atc", "doc")} if checked else None
    return replace(compared, estimated=estimated, errors=errors, checked_on=len(checked))


def write_comparison(compared: RunComparison, folder: Path, runs: tuple[str, str], *, picture: bool = True) -> Path:
    """comparison.json, comparison.md and comparison.png into a folder.

    Args:
        compared: What `compare` returned.
        folder: Made where it is not there.
        runs: The folders of A and B, for the picture and the page.
        picture: False: no picture, for which matplotlib is needed.

    Returns:
        The page.

    """
    write_json(folder / RESULT, compared.as_dict())
    drawn = _picture(compared) if picture else None
    if drawn is None:
        (folder / PICTURE).unlink(missing_ok=True)  # an earlier comparison's
    else:
        write_bytes(folder / PICTURE, drawn)
    write_text(folder / PAGE, page(compared, runs, picture=drawn is not None))
    return folder / PAGE


def page(compared: RunComparison, runs: tuple[str, str], *, picture: bool) -> str:
    """The Markdown page: the result in sentences, the picture, the table, how to read it."""
    a, b = compared.names
    images = [count_of(number, "image") for number in compared.images]
    lines = [
        f"# {a} and {b}",
        "",
        f"A: `{runs[0]}`, {images[0]}. B: `{runs[1]}`, {images[1]}.",
    ]
    lines += ["", *(f"- {line}" for line in comparison_sentences(compared)), ""]
    lines += [f"![What moved]({PICTURE})", ""] if picture else []
    columns, rows = table_of(compared)
    if rows:
        lines += [*markdown(columns, rows), "", PAIRED if compared.paired else UNPAIRED, ""]
    return "\n".join(lines)


OF_LABELS = (
    "ATC cannot be estimated: it takes the confidence of each label, and a prediction of a multi-label head keeps "
    "their mean."
)
PAIRED = (
    "Means over the images that both runs have; with groups, over the groups, each with the mean over its images. The "
    "interval is a bootstrap over images, or groups. *p sign*: exact sign test; "
    "*p flip*: sign-flip permutation test of the mean, exact where all signs can be tried. *Holm*: p flip corrected "
    "for the number of tests; *significant* where it is at most .05."
)
UNPAIRED = (
    "Means over the images of each run, or over its groups. *AUROC*: the chance that an image (or group) of B has a "
    "higher number than one of A, with "
    "a bootstrap over images. *KS*: distance of the two distributions, with its p. *Holm*: p corrected for the number "
    "of tests; *significant* where it is at most .05. B is called higher or lower where the interval of the AUROC "
    "excludes .5 and the means agree with it. Frames of a video are not independent: two sequences "
    "differ easily."
)


def _other(folder: Path, method: str | None) -> RunTable:
    """B, whose evaluation may lack A's method, or which may be a prediction without any."""
    try:
        return run_table(folder, method)
    except WrongUse:
        if is_there(folder / PER_IMAGE):
            raise
        return run_table(folder)


def _known(folder: Path, a: RunTable) -> RunTable:
    """A labelled run, predicted as A was. Errors: WrongUse where it is not, so that it checks nothing."""
    table = _other(folder, a.method)
    if why := other_predictor(a, table):
        raise WrongUse(f"--known {url_of(folder)!r} checks no estimates from A: it was predicted by {why}.")
    confidences = table.confidences() if table.labelled else None
    if confidences is None or not confidences.sum():
        raise WrongUse(f"--known {url_of(folder)!r} is no evaluation with labelled pixels: it can check no accuracy.")
    return table


def _other_pixels(a: RunTable, b: RunTable, pairs: int) -> tuple[str, ...]:
    """What is said of pairs whose images are not the same file; nothing where a run declares a corruption of them."""
    if not pairs or any(table.run.settings.get("shift") for table in (a, b)):
        return ()
    first, second = a.run.sha256, b.run.sha256
    other = sum(first[name] != second[name] for name in first.keys() & second.keys())
    return (f"{other} of {pairs} pairs hold other pixels: one id, and files that differ.",) if other else ()


def _other_border(a: RunTable, b: RunTable) -> tuple[str, ...]:
    """What is said of runs whose measures are means over other parts of an image."""
    if a.border == b.border:
        return ()
    return (
        f"The measures of A leave out a border of {a.border} pixels, those of B one of {b.border} (`--border`): their "
        "means differ on equal maps too.",
    )


def _of_banks(a: RunTable, b: RunTable) -> tuple[str, ...]:
    """What is said of a method that several banks were used with, where evaluate's own scores are means over them."""
    notes = []
    for letter, table in (("A", a), ("B", b)):
        name, _, number = table.method.partition("#")
        banks = [method for method in table.methods if method.partition("#")[0] == name]
        if len(banks) > 1:
            other = next(method for method in banks if method != table.method)
            notes.append(
                f"{letter} is {name} under bank {number or 1} of {len(banks)}; scores.json has means. Numbers "
                f"of another bank are of method {other!r}{', and so on' if len(banks) > 2 else ''}."
            )
    return tuple(notes)


def _other_classes(a: RunTable, b: RunTable) -> tuple[str, ...]:
    """What is said of runs whose masks mean other things; classes without names of their own differ by number only."""
    first, second = (tuple(table.run.record.get("classes") or ()) for table in (a, b))
    unnamed = len(first) == len(second) and (are_given_names(first) or are_given_names(second))
    if not first or not second or first == second or unnamed:
        return ()
    counts = " and ".join(f"{count_of(len(names), 'class')} ({first_of(names)})" for names in (first, second))
    return (f"The runs are of other classes, {counts}: what moved says nothing of one network on other images.",)


def _names(a: RunTable, b: RunTable) -> tuple[str, str]:
    """Names of both runs, as short as they differ: the folders' names, or the methods where these are equal."""
    if a.run.place.resolve() == b.run.place.resolve() and a.method != b.method:
        return a.method, b.method
    names = [table.run.place.resolve().name for table in (a, b)]
    if names[0] == names[1]:
        names = [url_of(table.run.place) for table in (a, b)]
    if a.method != b.method:
        names = [f"{name} ({table.method or 'predicted'})" for name, table in zip(names, (a, b), strict=True)]
    return (names[0], names[1]) if names[0] != names[1] else (f"{names[0]} (A)", f"{names[1]} (B)")


def _estimated(a: RunTable, labelled: Ints, b: RunTable) -> Estimates:
    """B's accuracy by A's confidences, and the truth where B is labelled too."""
    confidences = b.confidences()
    truth = None
    if b.labelled and confidences is not None and confidences.sum():
        truth = float(confidences[:, 0].sum() / confidences.sum())
    by_threshold = None if confidences is None else atc(labelled, confidences.sum(axis=1))
    return Estimates(by_threshold, _by_difference(a, b), truth, _mean(b, "accuracy") if b.labelled else None)


def _by_difference(a: RunTable, b: RunTable) -> float | None:
    """B's mean accuracy over its images. A prediction keeps no number of pixels, so that none can be weighted by it."""
    means = (_mean(a, "accuracy"), _mean(a, "expected_accuracy", "accuracy"), _mean(b, "expected_accuracy"))
    if None in means:
        return None
    return doc(*(mean for mean in means if mean is not None))


def _mean(table: RunTable, column: str, *beside: str) -> float | None:
    """The mean of a column over the images that have it, and the columns beside it; None without any."""
    wanted = (column, *beside)
    numbers = [row[column] for row in table.rows.values() if all(np.isfinite(row.get(name, np.nan)) for name in wanted)]
    return float(np.mean(numbers)) if numbers else None


def _picture(compared: RunComparison) -> bytes | None:
    """None where nothing was tested, or no image shows it."""
    moved = [*_differences(compared), *_distances(compared)]
    column = next((name for name in SHOWN if name in (compared.paired or compared.unpaired)), None)
    if not moved or column is None or column not in compared.values:
        return None
    first, second = compared.values[column]
    if not first.size or not second.size:
        return None
    return comparison_picture(
        moved,
        first,
        second,
        names=compared.names,
        number=words(column),
        paired=bool(compared.paired),
        nothing=0.0 if compared.paired else 0.5,
    )


def _differences(compared: RunComparison) -> list[Moved]:
    """In standard deviations of the difference over images, so that columns of all units stand side by side."""
    moved = []
    for column, test in compared.paired.items():
        d, spread = test.difference, compared.spreads.get(column, 0.0)
        value, low, high = (
            None if end is None else end / spread if spread else 0.0 for end in (d.value, d.low, d.high)
        )
        sure = verdict(compared.adjusted.get(column)) == SIGNIFICANT
        moved.append(Moved(name=words(column), value=value or 0.0, low=low, high=high, significant=sure))
    return moved


def _distances(compared: RunComparison) -> list[Moved]:
    return [
        Moved(
            name=words(column),
            value=test.auroc.value,
            low=test.auroc.low,
            high=test.auroc.high,
            significant=verdict(compared.adjusted.get(column)) == SIGNIFICANT,
        )
        for column, test in compared.unpaired.items()
    ]
