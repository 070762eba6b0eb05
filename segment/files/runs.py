"""The folder of a run: what was asked (run.json), and one line for each image that is done or failed (manifest.jsonl).

Must not know how an image is predicted. A line stands only for files that are whole, so a run cut off at any moment
goes on from its last line.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from segment.errors import WrongUse
from segment.files.writing import unwritable, write_json
from segment.images.find import Source, find_images, in_text, keep_ids, paths_by_id
from segment.images.read import sha256_of

log = logging.getLogger(__name__)

RECORD, MANIFEST = "run.json", "manifest.jsonl"
SOURCES = "sources"
"""Section of the record: id -> path of every image that the run has had."""
TAKEN = (RECORD, MANIFEST, "scores.json", "per_image.csv", "sheet.png", "triaged.json", "triaged.csv")
"""File names of the run itself: no image may be called so."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the manifest.

    id: the image's path below SRC without suffix; source: where it was read; sha256: of its bytes ("" if unread)
    files: written for it, relative to the run folder; seconds: wall time; draws: T used
    reached_error: the standard error that was reached where it decided the draws; no key elsewhere
    measures: name -> {"mean", "p95"} over its pixels, each a key of its own on the line
    notes: measure or file -> why it was not written
    triage: "decision" (accept or review), "accepted" (share of pixels) and with sets "set_size" (their mean); no key
    where no triage was asked for
    """

    id: str
    source: str
    sha256: str = ""
    status: Literal["done", "failed"] = "done"
    error: str | None = None
    files: tuple[str, ...] = ()
    seconds: float = 0.0
    draws: int = 0
    reached_error: float | None = None
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    triage: Mapping[str, str | float] | None = None

    def line(self) -> dict[str, Any]:
        """The keys of the manifest, in its order.

        >>> list(Entry(id="a", source="a.png", measures={"variance": {"mean": 0.1, "p95": 0.2}}).line())[-2:]
        ['draws', 'variance']
        """
        keys = ("id", "source", "sha256", "status", "error", "files", "seconds", "draws")
        line: dict[str, Any] = {key: getattr(self, key) for key in keys}
        line["source"] = in_text(self.source)
        line["error"] = None if self.error is None else _writable(self.error)
        if self.reached_error is not None:
            line["reached_error"] = round(self.reached_error, 6)
        line |= {name: dict(numbers) for name, numbers in self.measures.items()}
        line |= {} if self.triage is None else {"triage": dict(self.triage)}
        return line | ({"notes": dict(self.notes)} if self.notes else {})


class Run:
    """An open run folder; `create` makes or reopens one.

    sources: its images, each under the id that its path has in this run for good
    """

    def __init__(
        self, folder: Path, record: dict[str, Any], lines: dict[str, dict[str, Any]], sources: Sequence[Source]
    ) -> None:
        self.folder = folder
        self.record = record
        self._lines = lines
        known: dict[str, str] = record.get(SOURCES, {})
        self.sources = keep_ids(sources, known)
        self.note(**{SOURCES: known | paths_by_id(self.sources)})  # finds out now whether the folder can be written

    @classmethod
    def create(
        cls, folder: Path, settings: Mapping[str, Any], sources: Sequence[Source] = (), *, resume: bool = False
    ) -> Run:
        """A new run, or with `resume` the one that is there, which must have been asked the same.

        settings: JSON values; every one of them must be equal for a resume. sources: the images; they may be others
        Refused (WrongUse): a folder that cannot be written, one that holds a manifest unless resumed, other settings.
        """
        asked = json.loads(json.dumps(settings, allow_nan=False, default=str))
        manifest = folder / MANIFEST
        try:
            begun = manifest.exists()
        except OSError as error:  # a folder that may not be looked into
            raise unwritable(folder, error) from error
        if begun and not resume:
            raise WrongUse(f"{str(folder)!r} already holds a run. Go on with --resume, or choose another folder.")
        if not begun:
            return cls(folder, {"settings": asked}, {}, sources)
        record, lines = _record_of(folder), _lines_of(manifest)
        _refuse_other_settings(folder, record.get("settings", {}), asked)
        return cls(folder, record, lines, sources)

    def note(self, **sections: Any) -> None:
        """Puts sections (plan=, fingerprints=, versions=, timings=) into run.json, which stays whole throughout."""
        self.record |= sections
        write_json(self.folder / RECORD, self.record)

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
        text = json.dumps(entry.line(), ensure_ascii=False, allow_nan=False)
        try:
            with (self.folder / MANIFEST).open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")
        except OSError as error:
            raise unwritable(self.folder / MANIFEST, error) from error
        self._lines[entry.id] = json.loads(text)

    def entries(self) -> dict[str, dict[str, Any]]:
        """The newest line of every image, done or failed, by id."""
        return dict(self._lines)

    def pending(self) -> list[Source]:
        """The images that are not done, or whose file has changed since; what was written for those goes."""
        done = self.done()
        left = []
        for source in self.sources:
            line = done.get(source.id)
            if line is None or line["sha256"] != sha256_of(source.path):
                self._remove_files(source.id)
                left.append(source)
        return left

    def remove_parts(self) -> None:
        """Take away what a kill left half-written."""
        for part in self.folder.rglob(".*.part"):
            part.unlink(missing_ok=True)

    def _remove_files(self, image_id: str) -> None:
        top = self.folder.resolve()
        for name in self._lines.get(image_id, {}).get("files", ()):
            path = (self.folder / name).resolve()
            if not path.is_relative_to(top):
                continue
            path.unlink(missing_ok=True)
            with suppress(OSError):  # there are other files in it
                path.parent.rmdir()

    def done(self) -> dict[str, dict[str, Any]]:
        """The lines of images that need no more work: done, and every file of theirs still there."""
        return {
            name: line
            for name, line in self._lines.items()
            if line["status"] == "done" and all((self.folder / file).is_file() for file in line["files"])
        }


def images_outside_runs(source: str | Path) -> tuple[Source, ...]:
    """The images of a SRC, less the pictures of runs in a folder's sub-folders, as `predict MODEL . -o run` makes.

    Errors: WrongUse where nothing is left.
    """
    images, top = find_images(source), Path(source)
    if not top.is_dir():
        return images
    below = {folder for image in images for folder in image.path.parents if top in folder.parents}
    runs = {folder for folder in below if (folder / MANIFEST).is_file() and (folder / RECORD).is_file()}
    kept = tuple(image for image in images if runs.isdisjoint(image.path.parents))
    if len(kept) < len(images):
        left_out = {image.path for image in images} - {image.path for image in kept}
        log.warning("%d files of runs below %r are left out.", len(left_out), str(source))
    if not kept:
        raise WrongUse(f"{str(source)!r} holds the pictures of runs and no other image. Give a folder of images.")
    return kept


def _record_of(folder: Path) -> dict[str, Any]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WrongUse(f"{str(folder / RECORD)!r} cannot be read, so the run cannot go on: {error}.") from error
    if not isinstance(record, dict):
        raise WrongUse(f"{str(folder / RECORD)!r} is not a run's record; choose another folder.")
    return record


def _lines_of(manifest: Path) -> dict[str, dict[str, Any]]:
    """Lines by id; a last line that a kill cut short is taken off the file, any other damage is refused."""
    data = manifest.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    lines = {}
    for number, text in enumerate(whole.splitlines(), start=1):
        try:
            line = json.loads(text)
            lines[line["id"]] = line
        except (ValueError, KeyError, TypeError) as error:
            raise WrongUse(
                f"{str(manifest)!r} is damaged in line {number}; remove that line to redo its image."
            ) from error
    if len(whole) < len(data):
        try:
            with manifest.open("r+b") as stream:
                stream.truncate(len(whole))
        except OSError as error:
            raise unwritable(manifest, error) from error
    return lines


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Keys of mappings within joined by dots, so that a difference is named where it is.

    >>> _flat({"draws": 8, "card": {"input": {"white": None}}})
    {'draws': 8, 'card.input.white': None}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _writable(text: str) -> str:
    """A message that names a file as it is may hold what UTF-8 cannot write."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _refuse_other_settings(folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    there, asked = _flat(there), _flat(asked)
    keys = [key for key in {**there, **asked} if there.get(key) != asked.get(key)]
    if keys:
        differences = "; ".join(f"{key} is {there.get(key)!r} there, {asked.get(key)!r} asked" for key in keys)
        raise WrongUse(
            f"{str(folder)!r} was made with other settings: {differences}. Ask the same, or choose another folder."
        )
