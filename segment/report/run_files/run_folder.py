"""A run's folder → its record, manifest and tables, each read when it is asked for.

Of `segment predict`, `evaluate` and `sweep`; writes nothing. Must not know an image or a picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from segment.axes import Head
from segment.errors import WrongUse, count_of
from segment.files.reading import read_json
from segment.files.runs.manifest import MANIFEST, read_entries
from segment.files.runs.places import RECORD, SOURCES, WORKING_FOLDER, place_of, removed_images
from segment.files.text_tables import read_csv
from segment.guarantees.groups import groups_given, groups_of
from segment.images.find import in_text
from segment.images.listing.parts import Listing
from segment.report.run_files.score_shapes import Comparisons, Scores, checked
from segment.stores.copies import folder_here
from segment.stores.urls import url_of

PER_IMAGE = "per_image.csv"
GROUPS, GROUP = "groups.csv", "group"
"""The file of an evaluation over groups, and its column beside the id."""
AGAIN = "Run the evaluation again."
SECTIONS = ("settings", "plan", "fingerprints", "calibrations", "colours", SOURCES)
"""Sections of run.json that are read here, each with names of its own."""


@dataclass(frozen=True, repr=False)
class RunFolder:
    """A run on disk: what describes it.

    folder: of the run; of one on a store, a copy of its files here. given: where the run lies; None: in `folder`
    record: of run.json: settings, plan, versions, classes, timings
    entries: image id -> its line of the manifest
    """

    folder: Path
    record: Mapping[str, Any]
    entries: Mapping[str, Mapping[str, Any]]
    given: Path | None = None

    @classmethod
    def read(cls, folder: Path, *, whole: bool = False) -> Self:
        """Open the folder of a run; nothing but the record and the manifest is read yet.

        Args:
            folder: The run's folder.
            whole: Of a run on a store: copy the files of its images too.

        Raises:
            WrongUse: The folder holds no run, or its files are damaged.

        """
        place = folder_here(folder, whole=whole)
        path = place / RECORD
        if not os.path.lexists(place):
            raise WrongUse(f"{in_text(folder)!r} is not there.")
        record = _json(path)
        if record is None:
            hint = " It is a file; give the folder that holds it." if place.is_file() else ""
            raise WrongUse(f"{in_text(folder)!r} holds no run: {RECORD} is not there.{hint}")
        for section, names in ((record, SECTIONS), (record.get("settings", {}), ("card",))):
            for name in names:
                if not isinstance(section.get(name, {}), dict):
                    raise WrongUse(f"{str(path)!r} is damaged: its {name} are {section[name]!r}. Give another run.")
        manifest = place / MANIFEST
        entries = read_entries(manifest, removed_images(record)) if os.path.lexists(manifest) else {}
        return cls(place, record, entries, folder)

    @property
    def place(self) -> Path:
        """Where the run lies, here or on a store."""
        return self.folder if self.given is None else self.given

    @property
    def settings(self) -> Mapping[str, Any]:
        settings: Mapping[str, Any] = self.record.get("settings", {})
        return settings

    @property
    def plan(self) -> Mapping[str, Any]:
        plan: Mapping[str, Any] = self.record.get("plan", {})
        return plan

    @property
    def card(self) -> Mapping[str, Any]:
        card: Mapping[str, Any] = self.settings.get("card", {})
        return card

    @property
    def head(self) -> Head:
        head: Head = self.card.get("head", "softmax")
        return head

    @property
    def listing(self) -> Listing:
        """Which frames and slices of its files it has."""
        return Listing.of_settings(self.settings)

    @property
    def heat(self) -> str:
        """The measure that its pictures show."""
        return str(self.settings.get("heat", "predictive_entropy"))

    @property
    def network(self) -> str | None:
        """Fingerprint of the network that made it: `predict` and `evaluate` keep it in two places. None: of neither."""
        kept: str | None = self.record.get("fingerprints", {}).get("network") or self.settings.get("network")
        return kept

    @cached_property
    def sources(self) -> dict[str, str]:
        """Id -> path of the image's file, as the manifest has it."""
        return {name: str(entry["source"]) for name, entry in self.entries.items()}

    def path_of(self, id: str) -> str:
        """An image's file as another command finds it from this working folder; "" of an image without a line."""
        path = self.sources.get(id, "")
        here = self.record.get(WORKING_FOLDER) == in_text(Path.cwd())
        return path if here or not path else in_text(place_of(self.record, path))

    @property
    def left(self) -> int:
        """How many of its images have no line: the run was interrupted, or goes on."""
        return len(self.record.get(SOURCES, {}).keys() - self.entries.keys() - removed_images(self.record))

    @property
    def missing(self) -> str:
        """A sentence on its images that have no result; "" where all are done."""
        failed, left = sum(entry["status"] == "failed" for entry in self.entries.values()), self.left
        if not failed + left:
            return ""
        kinds = [f"{count} {word}" for count, word in ((failed, "failed"), (left, "not made yet")) if count]
        images = count_of(len(self.entries) + left, "image")
        return f"{failed + left} of {images} without a result ({', '.join(kinds)}): --resume tries them."

    @cached_property
    def sha256(self) -> dict[str, str]:
        """Id -> SHA-256 of the image's file, where it was read whole and the image is done."""
        done = (entry for entry in self.entries.values() if entry["status"] == "done")
        return {str(entry["id"]): str(entry["sha256"]) for entry in done if entry.get("sha256")}

    @cached_property
    def scores(self) -> Mapping[str, Any] | None:
        """What `evaluate` or `sweep` scored; None for a run of `predict`."""
        path = self.folder / "scores.json"
        return checked(_json(path), Scores, path)

    @cached_property
    def comparisons(self) -> Mapping[str, Any] | None:
        path = self.folder / "comparisons.json"
        return checked(_json(path), Comparisons, path)

    @cached_property
    def triaged(self) -> Mapping[str, Any] | None:
        """What `predict --triage` promised and decided; None without."""
        return _json(self.folder / "triaged.json")

    @cached_property
    def per_image(self) -> tuple[Mapping[str, str], ...]:
        """The rows of per_image.csv, one for each image and method; empty for a run of `predict`."""
        path = self.folder / PER_IMAGE
        return tuple(read_csv(path, advice=AGAIN)) if os.path.lexists(path) else ()

    @cached_property
    def groups(self) -> dict[str, str] | None:
        """Id -> group, where it was scored over groups of images."""
        path = self.folder / GROUPS
        if "groups" not in self.settings or not os.path.lexists(path):
            return None
        try:
            return {row["id"]: row[GROUP] for row in read_csv(path, advice=AGAIN)}
        except KeyError as error:
            raise WrongUse(f"{url_of(self.place / GROUPS)!r} does not read: no column {error}. {AGAIN}") from None

    def asked_groups(self, ids: Iterable[str], name: str | None, table: str | Path | None) -> dict[str, str] | None:
        """The groups of images that are asked for, else those that the run was scored over.

        Args:
            ids: Of the images.
            name: As `--groups`.
            table: As `--groups-table`.

        Returns:
            Id to group; None: nobody asked for groups, and the run has none, or not for every one of the images.

        Raises:
            WrongUse: As `groups_of`.

        """
        ids, own = list(ids), self.groups
        if table is None and own is not None and name in (None, self.settings["groups"]) and own.keys() >= set(ids):
            return {identity: own[identity] for identity in ids}
        return groups_of(ids, groups_given(name, table))

    @cached_property
    def rows(self) -> dict[str, dict[str, Mapping[str, str]]]:
        """per_image.csv by method: method -> id -> its row. Error: WrongUse where it has no such column."""
        rows: dict[str, dict[str, Mapping[str, str]]] = {}
        try:
            for row in self.per_image:
                rows.setdefault(row["method"], {})[row["id"]] = row
        except KeyError as error:
            raise WrongUse(f"{url_of(self.place / PER_IMAGE)!r} does not read: no column {error}. {AGAIN}") from None
        return rows


def _json(path: Path) -> Mapping[str, Any] | None:
    """Errors: WrongUse where it is damaged; None where it is not there."""
    return read_json(path, dict[str, Any], advice="Run the command again.") if os.path.lexists(path) else None
