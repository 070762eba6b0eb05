"""manifest.jsonl of a run: one line for each image that is done or failed.

A line stands only for files that are whole and on the disk, so a run that is cut off at any moment goes on from its
last line.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from segment.errors import WrongUse
from segment.files.reading import file_bytes, first_error
from segment.files.writing import unwritable
from segment.images import outside_runs
from segment.images.find import in_text
from segment.uncertainty.measures import MEASURES

log = logging.getLogger(__name__)

MANIFEST = outside_runs.MANIFEST
LABEL = "label"
"""Key of a line's notes: why the label that was given for an image is not shown."""
MADE_AGAIN = "It was being made again when the run ended; --resume makes it."
"""The error of an image whose files were taken away because it has changed, until it has files again."""
SHARDS = ".shards"
"""Folder of the manifests of other processes, while they make images of the run."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of the manifest.

    id: the image's path below SRC without suffix; source: where it was read; sha256: of its bytes ("" if unread, or
    read by ranges); version: of a file on a store, no key elsewhere; mask_sha256: of its region mask, no key without;
    beside_sha256: over the files that belong to it or to its region mask, as a world file, no key without
    files: written for it, relative to the run folder; seconds: wall time; draws: T used
    reached_error: the standard error that was reached where it decided the draws; no key elsewhere
    blending: how far the maps of blended tiles are from exact ones; no key elsewhere
    measures: name -> {"mean", "p95", "interior", "patch"} over its pixels, each a key of its own on the line
    expected: how right the mask is by its own probabilities: "expected_accuracy", "soft_dice", "soft_dice.CLASS", ...
    notes: measure or file -> why it was not written; LABEL -> why the image's label is not shown
    triage: "decision" (accept or review), "accepted" (share of pixels), "means" (of the measures that decide of images,
    with the border) and with sets "set_size" (their mean); no key where no triage was asked for
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
    blending: Mapping[str, Any] | None = None
    measures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    triage: Mapping[str, Any] | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    version: str = ""
    mask_sha256: str = ""
    beside_sha256: str = ""

    def line(self) -> dict[str, Any]:
        """The keys of the manifest, in its order.

        >>> list(Entry(id="a", source="a.png", measures={"variance": {"mean": 0.1, "p95": 0.2}}).line())[-2:]
        ['draws', 'variance']
        """
        keys = ("id", "source", "sha256", "status", "error", "files", "seconds", "draws")
        line: dict[str, Any] = {key: getattr(self, key) for key in keys}
        line["source"] = in_text(self.source)
        line["error"] = None if self.error is None else _writable(self.error)
        line |= {"version": self.version} if self.version else {}
        line |= {"mask_sha256": self.mask_sha256} if self.mask_sha256 else {}
        line |= {"beside_sha256": self.beside_sha256} if self.beside_sha256 else {}
        if self.reached_error is not None:
            line["reached_error"] = round(self.reached_error, 6)
        line |= {} if self.blending is None else {"blending": dict(self.blending)}
        line |= {name: dict(numbers) for name, numbers in self.measures.items()}
        line |= {"expected": dict(self.expected)} if self.expected else {}
        line |= {} if self.triage is None else {"triage": dict(self.triage)}
        return line | ({"notes": dict(self.notes)} if self.notes else {})


class _Line(BaseModel):
    """What the rest of the program reads of a line; a measure's numbers stand beside it."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    id: str
    source: str
    sha256: str
    status: Literal["done", "failed"]
    error: str | None
    files: list[str]
    seconds: float
    draws: Annotated[int, Field(ge=0)]
    version: str = ""
    mask_sha256: str = ""
    beside_sha256: str = ""
    reached_error: float | None = None
    blending: dict[str, Any] | None = None
    expected: dict[str, float] = {}
    triage: dict[str, str | float | dict[str, float]] | None = None
    notes: dict[str, str] = {}

    @model_validator(mode="after")
    def _has_numbers(self) -> _Line:
        for name in MEASURES.keys() & (self.model_extra or {}).keys():
            _NUMBERS.validate_python((self.model_extra or {})[name])
        return self


_NUMBERS = TypeAdapter(dict[str, Annotated[float, Field(allow_inf_nan=False)]], config=ConfigDict(strict=True))
"""Checks the numbers of a measure."""


class Lines(Mapping[str, dict[str, Any]]):
    """The newest line of each image, by id, read from the manifest when it is asked for.

    Only its place in the file is kept, so that a run of many images takes little memory.
    """

    def __init__(self, manifest: Path, places: Mapping[str, tuple[int, int]] | None = None) -> None:
        """places: id -> first byte of its line and the one after the last."""
        self._manifest, self._places = manifest, dict(places or {})

    def __getitem__(self, id: str) -> dict[str, Any]:
        start, stop = self._places[id]
        try:
            with self._manifest.open("rb") as stream:
                stream.seek(start)
                line: dict[str, Any] = json.loads(stream.read(stop - start))
        except (OSError, ValueError) as error:
            raise WrongUse(f"{str(self._manifest)!r} was changed while it was in use: {error}.") from error
        return line

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def of(self, ids: Iterable[str]) -> Lines:
        """The lines of some images; later changes of either do not reach the other."""
        return Lines(self._manifest, {id: self._places[id] for id in ids})

    def add(self, entry: Entry) -> None:
        """Put a line for one image at the end of the manifest, on the disk before this returns."""
        self.add_lines([entry.line()])

    def add_lines(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Put lines, each as `Entry.line` gives it, at the end of the manifest, on the disk before this returns."""
        if not lines:
            return
        texts = [encoded(line) for line in lines]
        before = {line["id"]: self._places.get(line["id"]) for line in lines}
        end: int | None = None
        try:
            with self._manifest.open("ab", buffering=1 + sum(map(len, texts))) as stream:
                end = stream.tell()
                ends = list(accumulate(map(len, texts), initial=end))
                stream.write(b"".join(texts))  # into memory: whoever sees a line in the file finds it counted
                self._places.update(zip(before, pairwise(ends), strict=True))
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            for id, place in before.items():
                if place is None:
                    self._places.pop(id, None)
                else:
                    self._places[id] = place
            if end is not None:  # the next line would go on behind half of this one
                with suppress(OSError):
                    os.truncate(self._manifest, end)
            raise unwritable(self._manifest, error) from error


def encoded(line: Mapping[str, Any]) -> bytes:
    """A line's bytes in the file."""
    return (json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read_manifest(manifest: Path) -> Lines:
    """The newest line of each image, by id; a last line that a kill cut short is taken off the file.

    Raises:
        WrongUse: the file cannot be read, or any other line is damaged

    """
    data = _bytes(manifest)
    whole = data[: data.rfind(b"\n") + 1]
    places: dict[str, tuple[int, int]] = {}
    start = 0
    for id, text in _checked(manifest, whole):
        places[id] = (start, start + len(text))
        start += len(text)
    if len(whole) < len(data):
        log.warning("%s ends in half a line, which a kill cut short: its image is made again.", manifest)
        try:
            with manifest.open("r+b") as stream:
                stream.truncate(len(whole))
        except OSError as error:
            raise unwritable(manifest, error) from error
    return Lines(manifest, places)


def read_entries(manifest: Path, removed: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """The newest line of each image, by id, of a run that is not written to here; half a last line is being written.

    removed: ids that are left out, as `places.removed_images` gives them
    Raises:
        WrongUse: as for `read_manifest`

    """
    data = _bytes(manifest)
    lines = _checked(manifest, data[: data.rfind(b"\n") + 1])
    return {id: json.loads(text) for id, text in lines if id not in removed}


def _bytes(manifest: Path) -> bytes:
    try:
        return file_bytes(manifest)
    except OSError as error:
        raise WrongUse(f"{str(manifest)!r} cannot be read: {error.strerror or error}.") from error


def _checked(manifest: Path, whole: bytes) -> Iterator[tuple[str, bytes]]:
    """The id of each line, and the line."""
    for number, text in enumerate(whole.splitlines(keepends=True), start=1):
        try:
            yield _Line.model_validate_json(text).id, text
        except ValidationError as error:
            raise WrongUse(
                f"{str(manifest)!r} is damaged in line {number} ({first_error(error)}); "
                "remove that line to redo its image."
            ) from None


def _writable(text: str) -> str:
    """A message that names a file as it is may hold what UTF-8 cannot write."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
