"""The folder of a run: what was asked (run.json), and one line for each image that is done or failed (manifest.jsonl).

Must not know how an image is predicted. A line stands only for files that are whole, so a run cut off at any moment
goes on from its last line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.errors import WrongUse
from segment.files.windows import blocks
from segment.files.writing import unwritable, write_json
from segment.images.find import Source, in_text, keep_ids
from segment.images.read import sha256_of

RECORD, MANIFEST = "run.json", "manifest.jsonl"
SOURCES = "sources"
"""Section of the record: id -> path of every image that the run has had."""
TAKEN = (RECORD, MANIFEST, "scores.json", "per_image.csv", "sheet.png")
"""File names of the run itself: no image may be called so."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the manifest.

    id: the image's path below SRC without suffix; source: where it was read; sha256: of its bytes ("" if unread)
    files: written for it, relative to the run folder; seconds: wall time; draws: T used
    reached_error: the standard error that was reached where it decided the draws; no key elsewhere
    measures: name -> {"mean", "p95"} over its pixels, each a key of its own on the line
    notes: measure or file -> why it was not written
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
        return line | ({"notes": dict(self.notes)} if self.notes else {})


def summary(values: Plane) -> dict[str, float]:  # H W, float32
    """A map's mean and 95th percentile (linear between its two neighbours in rank) over its pixels, in its unit.

    >>> summary(np.array([[0.0, 1.0, 2.0]], np.float32))
    {'mean': 1.0, 'p95': 1.9}
    """
    count = values.shape[0] * values.shape[1]
    total = sum(float(block.sum(dtype=np.float64)) for block in blocks(values))
    place = 0.95 * (count - 1)
    low, high = (_of_rank(values, rank) for rank in (math.floor(place), math.ceil(place)))
    return {"mean": total / count, "p95": round(low + (high - low) * (place % 1), 6)}


def _of_rank(values: Plane, rank: int) -> float:
    """The value that `rank` others lie below, exact, without sorting: by the upper 16 bits first, then by the lower.

    The bits of a float, turned over where it is negative, stand in the order of the values.
    """
    upper = np.zeros(1 << 16, np.int64)
    for block in blocks(values):
        upper += np.bincount(_bits(block) >> 16, minlength=1 << 16)
    first = int(np.searchsorted(np.cumsum(upper), rank, side="right"))
    left = rank - int(np.sum(upper[:first]))
    lower = np.zeros(1 << 16, np.int64)
    for block in blocks(values):
        bits = _bits(block)
        lower += np.bincount(bits[bits >> 16 == first] & 0xFFFF, minlength=1 << 16)
    last = int(np.searchsorted(np.cumsum(lower), left, side="right"))
    bits = np.array([first << 16 | last], np.uint32)
    return float(np.where(bits >> 31, bits ^ np.uint32(1 << 31), ~bits).view(np.float32)[0])


def _bits(block: NDArray[Any]) -> NDArray[np.uint32]:
    bits = np.ascontiguousarray(block, np.float32).reshape(-1).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits ^ np.uint32(1 << 31))


class Run:
    """An open run folder; `create` makes or reopens one."""

    def __init__(self, folder: Path, record: dict[str, Any], lines: dict[str, dict[str, Any]]) -> None:
        self.folder = folder
        self.record = record
        self._lines = lines

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, Any], *, resume: bool = False) -> Run:
        """A new run, or with `resume` the one that is there, which must have been asked the same.

        settings: JSON values; every one of them must be equal for a resume
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
            run = cls(folder, {"settings": asked}, {})
            run.note()
            return run
        run = cls(folder, _record_of(folder), _lines_of(manifest))
        _refuse_other_settings(folder, run.record.get("settings", {}), asked)
        run.note()  # finds out now whether the folder can be written
        return run

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

    def keep_ids(self, sources: Sequence[Source]) -> tuple[Source, ...]:
        """The sources under the ids that their paths have in this run for good; run.json keeps them."""
        known: dict[str, str] = self.record.get(SOURCES, {})
        kept = keep_ids(sources, known)
        self.note(**{SOURCES: known | {source.id: in_text(source.path) for source in kept}})
        return kept

    def pending(self, sources: Sequence[Source]) -> list[Source]:
        """Those that are not done, or whose file is another than when they were; what was written for them goes."""
        done = self.done()
        left = []
        for source in sources:
            line = done.get(source.id)
            if line is None or line["sha256"] != sha256_of(source.path):
                self._remove_files(source.id)
                left.append(source)
        return left

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
