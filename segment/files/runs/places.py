"""Where the files of a run's images go, and the lines that stand for them.

Must not know how an image is predicted.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from segment.errors import WrongUse
from segment.files.runs.delivery import Delivery
from segment.files.runs.lock import LOCK
from segment.files.runs.manifest import MANIFEST, SHARDS, Entry, Lines
from segment.files.writing import unwritable
from segment.images import outside_runs
from segment.images.find import Source
from segment.images.listing.ids import from_text
from segment.images.listing.on_store import above_glob
from segment.stores.urls import is_url

RECORD = outside_runs.RECORD
REMOVED = "removed"
"""Section of the record: ids of images that the run has had, and that are not among its images now."""
WORKING_FOLDER = "working_folder"
"""Key of the record: the folder that its relative paths, and the manifest's, start from."""
SOURCES = "sources"
"""Section of the record: each image that the run has had by its id, as `image_in_text` writes it."""
LISTED = "images named one by one"
"""The setting `source` of a run whose images a caller named in Python."""
STOP = "stop.watch"
"""A file that ends the watching of a folder."""
WINDOWS = ".windows"
"""Folder of what is estimated of large rasters, until they are put together."""
TABLES = ("segments.csv", "segments.parquet", "images.csv", "images.parquet")
ANNOTATIONS = ("coco.json", "labelstudio.json", "labelstudio.xml")
RESULTS = ("scores.json", "per_image.csv", "sheet.png", "legend.png", "triaged.json", "triaged.csv")
OF_ALL_IMAGES = (*RESULTS, *TABLES, *ANNOTATIONS)
"""Files over all images of a run, written when it ends."""
TAKEN = frozenset((RECORD, MANIFEST, SHARDS, WINDOWS, LOCK, STOP, *OF_ALL_IMAGES))
"""Names of the run itself in its folder: no image may be called so."""


def removed_images(record: Mapping[str, Any]) -> frozenset[str]:
    """Ids under REMOVED; none where the record is damaged there.

    >>> sorted(removed_images({"removed": ["a"]})), sorted(removed_images({}))
    (['a'], [])
    """
    removed = record.get(REMOVED)
    return frozenset(id for id in removed if isinstance(id, str)) if isinstance(removed, list) else frozenset()


def place_of(record: Mapping[str, Any], path: str | Path) -> Path:
    """Where a path that a run names lies: from the run's WORKING_FOLDER, or from this one where that alone has it.

    path: of a file or a folder, or a glob, as `in_text` wrote it
    """
    start, path = record.get(WORKING_FOLDER), from_text(str(path))
    if not isinstance(start, str) or is_url(path):
        return Path(path)
    start = from_text(start)
    is_glob = glob.has_magic(str(path)) and not os.path.lexists(Path(start, path))
    top = above_glob(Path(path)) if is_glob else Path(path)
    if os.path.lexists(top) and not os.path.lexists(Path(start, top)):
        return Path(path)
    return Path(glob.escape(start) if is_glob else start, path)


class RunPlaces:
    """A run's folder as whoever makes its images sees it.

    folder: where its files are written. place: what the run is called: the same folder, or the URL that its files go to
    record: what run.json holds. sources: the images of the run; a process that makes some of them knows none
    """

    sources: tuple[Source, ...] = ()

    def __init__(self, folder: Path, lines: Lines, record: dict[str, Any], delivery: Delivery | None = None) -> None:
        self.folder = folder
        self.place = folder if delivery is None else delivery.url
        self.record = record
        self._lines, self._delivery = lines, delivery

    def note(self, **sections: Any) -> None:
        """Puts sections (plan=, timings=) into the record."""
        self.record |= sections

    def mark(self) -> None:
        """Make the manifest, by which others know a run's folder, before an image has a line in it."""
        try:
            (self.folder / MANIFEST).touch()
        except OSError as error:
            raise unwritable(self.folder / MANIFEST, error) from error

    def path(self, image_id: str, name: str) -> Path:
        """Where a file of an image goes: RUN/<id>/<name>. An id that leaves the run folder is refused."""
        parts = image_id.split("/")
        inside = not any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts)
        if not inside or parts[0] in TAKEN:
            raise WrongUse(f"{image_id!r} cannot name an image of a run: it must be a path below the run's folder.")
        path = self.folder.joinpath(*parts, name)
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise WrongUse(f"{image_id!r} leads out of {str(self.folder)!r} by a link; remove the link.")
        return path

    def relative(self, path: Path) -> str:
        """A file's path as the manifest names it, with forward slashes."""
        return str(PurePosixPath(path.relative_to(self.folder)))

    def add(self, entry: Entry) -> None:
        """One line for one image, after its files are whole; a later line for the same id replaces the earlier."""
        missing = [name for name in entry.files if not (self.folder / name).is_file()]
        if missing:
            raise WrongUse(f"Image {entry.id!r} names files that are not there: {', '.join(missing)}.")
        self._lines.add(entry)
        if self._delivery is not None:
            self._delivery.add(entry)

    def settle(self) -> None:
        """Wait until what was added is where the run's files go to. Errors: those of a store."""
        if self._delivery is not None:
            self._delivery.settle()

    def bring(self, names: Iterable[str]) -> None:
        """Have files of the run, relative to its folder, in `folder`, to be read. Errors: those of a store."""
        if self._delivery is not None:
            self._delivery.bring(names)

    def bring_image(self, image_id: str) -> None:
        """Have all files of an image in `folder`, to be read. Errors: those of a store."""
        if self._delivery is not None:
            self._delivery.bring(self._lines[image_id]["files"])

    def deliver(self) -> None:
        """Have all that is new in `folder` where the run's files go to, now. Errors: those of a store."""
        if self._delivery is not None:
            self._delivery.deliver_changes()

    def entries(self) -> Lines:
        """The newest line of every image, done or failed, by id."""
        return self._lines.of(self._lines)
