"""The folder of a run: what was asked of it (run.json), its images, and where their files go.

Must not know how an image is predicted.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from segment.draws.probe import Probe
from segment.errors import SegmentError, WrongUse
from segment.files.reading import as_json_values, read_json
from segment.files.runs.computation import PROBES, probes_of, refuse_other_computation
from segment.files.runs.delivery import Delivery, writer_name
from segment.files.runs.lock import lock_folder, remove_parts
from segment.files.runs.manifest import MADE_AGAIN, MANIFEST, SHARDS, Entry, Lines, read_manifest
from segment.files.runs.places import OF_ALL_IMAGES, RECORD, REMOVED, SOURCES, WINDOWS, WORKING_FOLDER, RunPlaces
from segment.files.runs.shards import merge_shards
from segment.files.versions import warn_of_other_versions
from segment.files.writing import discard, unwritable, write_json
from segment.images.contents.hashes import (
    files_beside,
    sha256_of,
    sha256_of_beside,
    sha256_of_mask,
    version_of_source,
)
from segment.images.find import Source, images_by_id, in_text, keep_ids
from segment.images.limits import is_file
from segment.networks.load import Network
from segment.stores.scratch import remove_scratch
from segment.stores.urls import is_url

log = logging.getLogger(__name__)

HASH = "_sha256"
"""Suffix of settings that are hashes of files, which say nothing to a reader."""

FILES = "files"
"""Section of the record: the exports over all images."""

TOGETHER = 1000
"""Lines that are read and replaced at once."""


class Run(RunPlaces):
    """An open run folder, locked until `close`; `create` makes or reopens one.

    sources: its images, each under the id that its path has in this run for good
    """

    def __init__(
        self,
        folder: Path,
        record: dict[str, Any],
        lines: Lines,
        sources: Sequence[Source],
        lock: FileLock,
        delivery: Delivery | None = None,
    ) -> None:
        super().__init__(folder, lines, record, delivery)
        self._lock = lock
        with suppress(OSError):  # a process may outlive its folder
            self.record[WORKING_FOLDER] = in_text(Path.cwd())
        self._take_in(sources)

    @classmethod
    def create(
        cls,
        folder: Path,
        settings: Mapping[str, Any],
        sources: Sequence[Source] = (),
        *,
        resume: bool = False,
        whole: bool = False,
        same: Mapping[str, Sequence[Any]] | None = None,
        networks: Sequence[Network] = (),
        probe: Probe | None = None,
    ) -> Run:
        """A new run, or with `resume` the one that is there, which must have been asked the same.

        folder: or a URL, to which its files go from a folder here; on a store nothing keeps two processes apart
        whole: of a run on a store that goes on, all files are brought here, and not those of images left there
        settings: JSON values; every one of them must be equal for a resume
        same: key -> values of it that come to the same, as None and the draws of the whole bank
        networks: that it is made with, kept by what they compute; probe: of the first, where a bank of it has one
        sources: the images; they may be others. run.json of a run that goes on says so from the first `note` on
        Refused (WrongUse): a folder that cannot be written, one that holds a manifest unless resumed, other settings or
        networks that compute something else, also where it was ended before its manifest.
        """
        asked = as_json_values(settings, default=str)
        place, delivery = folder, None
        if is_url(place):
            delivery = Delivery(place, writer_name())
            delivery.begin(whole=whole)
            folder = delivery.folder
        lock = lock_folder(folder)
        try:
            record, begun = dict[str, Any](settings=asked), False
            lines = Lines(manifest := folder / MANIFEST)
            if manifest.exists() and not resume:
                raise WrongUse(
                    f"{in_text(place)!r} already holds a run. Go on with --resume, or choose another folder."
                )
            if manifest.exists() or (resume and (folder / RECORD).exists()):
                record = read_json(folder / RECORD, dict[str, Any], advice="Choose another folder.")
                _refuse_other_settings(place, record.get("settings", {}), asked, same or {})
                refuse_other_computation(place, record, networks)
                begun = True
            if manifest.exists():
                warn_of_other_versions(place, record.get("versions", {}))
                lines = merge_shards(folder, [source.id for source in sources]) or read_manifest(manifest)
            if PROBES not in record and networks:
                record[PROBES] = probes_of(networks, probe)
            run = cls(folder, record, lines, sources, lock, delivery)
            if not begun:  # finds out now whether the folder can be written; one that goes on may yet be refused
                run._forget_earlier_work()  # before there is a record that it could be taken to belong to
                run.note()
            remove_parts(folder)
            if delivery is not None:
                run.mark()
                delivery.deliver_lines()
            return run
        except BaseException:
            lock.release()
            if delivery is not None:
                remove_scratch(folder)
            raise

    def _forget_earlier_work(self) -> None:
        """Take away what a run that was removed left in hidden folders: it may be of other settings."""
        if self._delivery is not None:
            self._delivery.discard_folders(SHARDS, WINDOWS)
        for name in (SHARDS, WINDOWS):
            try:
                shutil.rmtree(self.folder / name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unwritable(self.folder / name, error) from error

    def add_sources(self, sources: Sequence[Source]) -> tuple[Source, ...]:
        """Further images of the run; the same under their ids in it."""
        kept = self._take_in(sources)
        self.note()
        return kept

    def _take_in(self, sources: Sequence[Source]) -> tuple[Source, ...]:
        """Further images, in the record here."""
        known: dict[str, str] = self.record.get(SOURCES, {})
        kept = keep_ids(sources, known)
        self.sources = tuple({source.id: source for source in (*self.sources, *kept)}.values())
        if sources:  # none yet of a folder that is watched
            listed = {source.id for source in self.sources}
            removed = [id for id in known if id not in listed]
            if removed or REMOVED in self.record:
                self.record[REMOVED] = removed
        self.record[SOURCES] = known | images_by_id(kept)
        return kept

    def merge_shards(self) -> None:
        """Take in what other processes have done, none of which writes any more; what they left half-written goes."""
        if self._delivery is not None:
            self._delivery.settle()
            self._delivery.bring_shards()
        merged = merge_shards(self.folder, [source.id for source in self.sources])
        if merged is not None:
            self._lines = merged
            remove_parts(self.folder)

    def close(self) -> None:
        """Lets other processes write to the folder; nothing may be written by this one from now on.

        Errors: those of a store, where what was written last could not go to it.
        """
        try:
            if self._delivery is not None:
                self._delivery.end()
        finally:
            self._lock.release()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        try:
            self.close()
        except SegmentError as late:
            if error is None:
                raise
            log.warning("%s", late)

    def note(self, **sections: Any) -> None:
        """Puts sections (plan=, fingerprints=, versions=, timings=) into run.json, which stays whole throughout."""
        super().note(**sections)
        write_json(self.folder / RECORD, self.record)
        if self._delivery is not None:
            self._delivery.deliver([RECORD])

    def pending(self, sources: Sequence[Source] | None = None) -> list[Source]:
        """Sources (of these; None: of all) that are not done, or have changed since.

        What was written for them goes, and what was written over all images: until they are done it is of others.
        """
        left, outdated = list[Source](), list[str]()
        for source in self.sources if sources is None else sources:
            line = self._lines.get(source.id)
            if line is None or not (self._is_done(line) and _is_of(line, source)):
                left.append(source)
                outdated += [source.id] if line is not None and line["status"] == "done" else []
        for start in range(0, len(outdated), TOGETHER):
            lines = [self._lines[id] for id in outdated[start : start + TOGETHER]]
            again = Entry(id="", source="", status="failed", error=MADE_AGAIN).line()
            self._lines.add_lines([again | {key: line[key] for key in ("id", "source")} for line in lines])
            self.discard(*(name for line in lines for name in line["files"]))
        if left:
            self.discard(*self.record.get(FILES, ()), *OF_ALL_IMAGES)
            if self.record.get(FILES):
                self.note(**{FILES: []})
        return left

    def discard(self, *names: str) -> None:
        """Take files of the run away. Errors: those of a store."""
        if self._delivery is not None:
            self._delivery.discard(names)
        else:
            discard((self.folder / name for name in names), self.folder)

    def done(self) -> Lines:
        """The lines of images that need no more work: done, and every file of theirs still there."""
        return self._lines.of(name for name, line in self._lines.items() if self._is_done(line))

    def _is_done(self, line: Mapping[str, Any]) -> bool:
        holds = (lambda name: (self.folder / name).is_file()) if self._delivery is None else self._delivery.holds
        return line["status"] == "done" and all(map(holds, line["files"]))


def _is_of(line: Mapping[str, Any], source: Source) -> bool:
    """Whether a line is of the image's present content; it stays where that cannot be read now."""
    version, content = version_of_source(source), None
    if version:
        same = line.get("version") == version
    else:
        content = sha256_of(source.path)
        if not content:
            log.warning("%s cannot be read now: what was made of it before stays.", source.id)
        same = content in ("", line["sha256"])
    mask = sha256_of_mask(source)
    if source.mask is not None and not mask:
        log.warning("The region mask of %s cannot be read now: what was made by it before stays.", source.id)
    if source.mask is None or mask:
        same = same and mask == line.get("mask_sha256", "")
    if not same or content == "" or (source.mask is not None and not mask):
        return same
    if sha256_of_beside(source.path, source.mask) == line.get("beside_sha256", ""):
        return True
    missing = [file for file in files_beside(source.path, source.mask) if not is_file(file)]
    if missing:
        log.warning("%s: %s cannot be read now: what was made of it before stays.", source.id, missing[0])
    return bool(missing)


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Keys of mappings within joined by dots, so that a difference is named where it is.

    >>> _flat({"draws": 8, "card": {"input": {"white": None}}})
    {'draws': 8, 'card.input.white': None}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat


def _refuse_other_settings(
    folder: Path, there: Mapping[str, Any], asked: Mapping[str, Any], same: Mapping[str, Sequence[Any]]
) -> None:
    def shown(key: str, value: Any) -> str:
        return repr(value) if value is not None else "all" if key == "draws" else "none given"

    there, asked = _flat(there), _flat(asked)
    pairs = {key: (there.get(key), asked.get(key)) for key in {**there, **asked}}
    pairs = {
        key: (old, new)
        for key, (old, new) in pairs.items()
        if old != new and not (old in same.get(key, ()) and new in same.get(key, ()))
    }
    if pairs:
        differences = "; ".join(
            f"{key.removesuffix(HASH).replace('_', ' ')}: other files"
            if key.endswith(HASH)
            else f"{key} is {shown(key, old)} there, {shown(key, new)} asked"
            for key, (old, new) in pairs.items()
        )
        raise WrongUse(
            f"{str(folder)!r} was made with other settings: {differences}. Ask the same, or choose another folder."
        )
