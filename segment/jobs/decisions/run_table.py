"""A run's numbers read back: a row for each image of a method, and the confidences of its pixels.

Must not know what is done with them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import WrongUse, near
from segment.files.reading import read_json
from segment.files.runs.manifest import MANIFEST, read_entries
from segment.files.runs.places import RECORD, removed_images
from segment.files.text_tables import read_csv
from segment.images.find import in_text
from segment.images.formats.arrays import ARRAY_ERRORS
from segment.report.run_files.saved_run import SavedRun
from segment.report.run_files.scored_files import STATE, scored_files
from segment.scores.functional.binning import BINS, Ints, bin_of
from segment.stores.copies import folder_here, here
from segment.stores.urls import url_of
from segment.uncertainty.measures import MEASURES

PER_IMAGE = "per_image.csv"
CONFIDENCE = "one_minus_max"


@dataclass(frozen=True)
class RunTable:
    """One method's numbers of a run.

    folder: of the run; of one on a store, a copy of the files that are in no folder of it; given: where it lies, the
    same or a URL; None: `folder`
    method: "" for what predict wrote; methods: all that the run has
    rows: id -> column -> number; sources: id -> path; record: run.json. labelled: whether the masks were scored
    lines: of the manifest, by id
    """

    folder: Path
    method: str
    methods: tuple[str, ...]
    rows: Mapping[str, Mapping[str, float]]
    sources: Mapping[str, str]
    labelled: bool
    record: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    given: Path | None = None

    @property
    def place(self) -> Path:
        """Where the run lies, here or on a store."""
        return self.folder if self.given is None else self.given

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that some image has, in the file's order."""
        return tuple(dict.fromkeys(column for row in self.rows.values() for column in row))

    @property
    def saved(self) -> SavedRun:
        """How its images are read and shown."""
        return SavedRun(self.folder, self.record, self.lines)

    @property
    def contents(self) -> dict[str, str]:
        """Id -> SHA-256 of the image's file, where it was read whole."""
        return {name: str(line["sha256"]) for name, line in self.lines.items() if line.get("sha256")}

    @property
    def multilabel(self) -> bool:
        """Whether a pixel has a yes or no for each label."""
        card = self.record.get("settings", {}).get("card")
        return isinstance(card, Mapping) and card.get("head") == "multilabel"

    @property
    def network(self) -> str | None:
        """Fingerprint of the network that made it; None where none was recorded."""
        return network_in(self.record)

    @property
    def border(self) -> int:
        """Pixels at each side of an image that its measures leave out."""
        return int(self.record.get("settings", {}).get("border") or 0)

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
        return {name: sums[1:] for name, sums in scored_files(self.folder).items()}

    def _scored_confidences(self) -> Ints | None:
        try:
            with np.load(self.folder / STATE, allow_pickle=False) as archive:
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
                with here(self.place / name / "maps.npz") as path, np.load(path, allow_pickle=False) as archive:
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
    named, folder = folder, folder_here(folder)
    if not (folder / MANIFEST).is_file():
        raise WrongUse(
            f"{in_text(named)!r} holds no run: no {MANIFEST}. Give what `segment predict` or `evaluate` wrote."
        )
    record = _record(folder)
    lines = read_entries(folder / MANIFEST, removed_images(record))
    sources = {name: str(line["source"]) for name, line in lines.items()}
    if (folder / PER_IMAGE).is_file():
        table = _evaluated(folder, named, method, sources, record)
        missing = [name for name, line in lines.items() if line["status"] == "done" and name not in table.rows]
        if missing:
            raise WrongUse(
                f"{url_of(named / PER_IMAGE)!r} is cut short: {len(missing)} images that are done have no row of "
                f"{table.method}, as {missing[0]!r}. Run the evaluation again, with --resume."
            )
        return replace(table, lines=lines, given=named)
    if "grid" in record.get("settings", {}):
        raise WrongUse(
            f"{in_text(named)!r} is a sweep, which keeps no numbers of single images: give what `segment evaluate` or "
            "`predict` wrote, with the setting that is wanted."
        )
    if method is not None:
        raise WrongUse("--method picks a method of an evaluation; this run has one only. Leave it out.")
    rows = {name: numbers_of(line) for name, line in lines.items() if line["status"] == "done"}
    if not any(rows.values()):
        raise WrongUse(f"{url_of(named)!r} has no numbers of images: finish the run first, with --resume.")
    return RunTable(folder, "", (), rows, sources, labelled=False, record=record, lines=lines, given=named)


def network_in(record: Mapping[str, Any]) -> str | None:
    """Fingerprint of the network in a run.json: `predict` and `evaluate` keep it in two places."""
    kept: str | None = record.get("fingerprints", {}).get("network") or record.get("settings", {}).get("network")
    return kept


def numbers_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers on a line of a manifest, under the columns that per_image.csv has for them.

    >>> numbers_of({"id": "a", "variance": {"mean": 0.1, "p95": 0.2}, "seconds": 3})
    {'mean.variance': 0.1, 'p95.variance': 0.2}
    """
    found = {
        f"{kind}.{measure}": float(value)
        for measure in MEASURES
        if isinstance(line.get(measure), Mapping)
        for kind, value in line[measure].items()
        if isinstance(value, int | float)
    }
    expected = line.get("expected")
    numbers = expected.items() if isinstance(expected, Mapping) else ()
    return found | {name: float(value) for name, value in numbers if isinstance(value, int | float)}


def _evaluated(
    folder: Path, named: Path, method: str | None, sources: Mapping[str, str], record: Mapping[str, Any]
) -> RunTable:
    again = "Run the evaluation again."
    table = read_csv(folder / PER_IMAGE, advice=again)
    try:
        methods = tuple(dict.fromkeys(line["method"] for line in table))
        chosen = method or ("mcbn" if "mcbn" in methods else next(iter(methods), ""))
        if chosen not in methods:
            raise WrongUse(
                f"The evaluation {url_of(named)!r} has no method {chosen!r}.{near(chosen, methods)} "
                f"It has {', '.join(methods) or 'none'}."
            )
        rows = {
            line["id"]: {key: float(value) for key, value in line.items() if key not in ("id", "method") and value}
            for line in table
            if line["method"] == chosen
        }
    except (ValueError, KeyError) as error:
        raise WrongUse(f"{url_of(named / PER_IMAGE)!r} does not read: {error}. {again}") from None
    return RunTable(folder, chosen, methods, rows, sources, labelled=True, record=record)


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / RECORD
    if not os.path.lexists(path):
        return {}
    record = read_json(path, dict[str, Any], advice="Give another run, or run the command again.")
    settings = record.get("settings", {})
    if not isinstance(settings, dict):
        raise WrongUse(f"{str(path)!r} is damaged: its settings are {settings!r}. Give another run.")
    return record
