"""A run's numbers read back: a row for each image of a method, and the confidences of its pixels.

Must not know what is done with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import WrongUse, near
from segment.images.find import in_text
from segment.images.formats.arrays import ARRAY_ERRORS
from segment.report.run_files.run_folder import AGAIN, PER_IMAGE
from segment.report.run_files.saved_run import SavedRun
from segment.report.run_files.scored_files import STATE, scored_files
from segment.scores.functional.binning import BINS, Ints, bin_of
from segment.stores.copies import here
from segment.stores.urls import url_of
from segment.uncertainty.measures import MEASURES

CONFIDENCE = "one_minus_max"


@dataclass(frozen=True)
class RunTable:
    """One method's numbers of a run.

    method: "" for what predict wrote; methods: all that the run has
    rows: id -> column -> number. labelled: whether the masks were scored
    """

    run: SavedRun
    method: str
    methods: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float]]
    labelled: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that some image has, in the file's order."""
        return tuple(dict.fromkeys(column for row in self.rows.values() for column in row))

    @property
    def multilabel(self) -> bool:
        """Whether a pixel has a yes or no for each label."""
        return self.run.head == "multilabel"

    @property
    def border(self) -> int:
        """Pixels at each side of an image that its measures leave out."""
        return int(self.run.settings.get("border") or 0)

    def confidences(self) -> Ints | None:  # B 2
        """Pixels by the fine bin of 1 - max p: right and wrong ones, or all in the first column without labels.

        Of a multi-label head each label of a pixel counts as one.

        Returns:
            None where the run has not kept them: a prediction without the map one_minus_max, or of a multi-label head,
            whose map is the mean over labels.

        """
        if self.labelled:
            return self._scored_confidences()
        return None if self.multilabel else self._predicted_confidences()

    def label_files(self) -> dict[str, tuple[str, ...]]:
        """Id -> SHA-256 of the label maps (and region mask) that the image was scored by; empty where none was kept."""
        return {name: sums[1:] for name, sums in scored_files(self.run.folder).items()}

    def _scored_confidences(self) -> Ints | None:
        try:
            with np.load(self.run.folder / STATE, allow_pickle=False) as archive:
                names = [
                    name
                    for name in archive.files
                    if name.startswith(f"{self.method}|") and name.endswith("/counts/confidence")
                ]
                return np.sum([archive[name] for name in names], axis=0, dtype=np.int64) if names else None
        except ARRAY_ERRORS:
            return None

    def _predicted_confidences(self) -> Ints | None:
        counts = np.zeros((BINS, 2), dtype=np.int64)
        for name in self.rows:
            try:
                with here(self.run.place / name / "maps.npz") as path, np.load(path, allow_pickle=False) as archive:
                    if CONFIDENCE not in archive.files:
                        return None
                    values = archive[CONFIDENCE]
                    counts[:, 0] += np.bincount(bin_of(values[~np.isnan(values)].clip(min=0)), minlength=BINS)
            except ARRAY_ERRORS:
                return None
        return counts if self.rows else None


def run_table(folder: Path, method: str | None = None) -> RunTable:
    """Read the numbers of a RUN.

    Args:
        folder: What `segment predict` or `segment evaluate` wrote.
        method: Of an evaluation; None: mcbn where it was run, else its first method.

    Returns:
        The rows of the images that are done.

    Raises:
        WrongUse: The folder holds no run, it is damaged or cut short, it has no such method, or no image is done.

    """
    run = SavedRun.read(folder)
    if (run.folder / PER_IMAGE).is_file():
        table = _evaluated(run, method)
        missing = [name for name, entry in run.entries.items() if entry["status"] == "done" and name not in table.rows]
        if missing:
            raise WrongUse(
                f"{url_of(folder / PER_IMAGE)!r} is cut short: {len(missing)} images that are done have no row of "
                f"{table.method}, as {missing[0]!r}. {AGAIN}"
            )
        return table
    if "grid" in run.settings:
        raise WrongUse(
            f"{in_text(folder)!r} is a sweep, which keeps no numbers of single images: give what `segment evaluate` or "
            "`predict` wrote, with the setting that is wanted."
        )
    if method is not None:
        raise WrongUse("--method picks a method of an evaluation; this run has one only. Leave it out.")
    rows = {name: numbers_of(entry) for name, entry in run.entries.items() if entry["status"] == "done"}
    if not any(rows.values()):
        failed = sum(entry["status"] == "failed" for entry in run.entries.values())
        if failed and failed == len(run.entries):
            raise WrongUse(f"{url_of(folder)!r} has no numbers of images: all {failed} failed, see its manifest.jsonl.")
        raise WrongUse(f"{url_of(folder)!r} has no numbers of images: finish the run first, with --resume.")
    return RunTable(run, "", (), rows, labelled=False)


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers on a line of a manifest, under the columns that per_image.csv has for them.

    >>> numbers_of({"id": "a", "variance": {"mean": 0.1, "p95": 0.2}, "seconds": 3})
    {'mean.variance': 0.1, 'p95.variance': 0.2}
    """
    of_measures = {
        f"{kind}.{measure}": float(value)
        for measure in MEASURES
        if isinstance(line.get(measure), Mapping)
        for kind, value in line[measure].items()
        if isinstance(value, int | float)
    }
    expected = line.get("expected")
    numbers = expected.items() if isinstance(expected, Mapping) else ()
    return of_measures | {name: float(value) for name, value in numbers if isinstance(value, int | float)}


def _evaluated(run: SavedRun, method: str | None) -> RunTable:
    methods = tuple(run.rows)
    chosen = method or ("mcbn" if "mcbn" in methods else next(iter(methods), ""))
    if chosen not in methods:
        raise WrongUse(
            f"The evaluation {url_of(run.place)!r} has no method {chosen!r}.{near(chosen, methods)} "
            f"It has {', '.join(methods) or 'none'}."
        )
    try:
        rows = {
            name: {key: float(value) for key, value in row.items() if key not in ("id", "method") and value}
            for name, row in run.rows[chosen].items()
        }
    except ValueError as error:
        raise WrongUse(f"{url_of(run.place / PER_IMAGE)!r} does not read: {error}. {AGAIN}") from None
    return RunTable(run, chosen, methods, rows, labelled=True)
