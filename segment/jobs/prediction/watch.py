"""A folder that is watched: its images as they are dropped, each once its file is whole.

The folder is listed again and again, which works on network file systems too. Must not know what is done with an image.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG

from segment.errors import WrongUse
from segment.files.runs.places import STOP
from segment.files.runs.run import Run
from segment.images.contents.states import FileState, state_in, state_of
from segment.images.find import Source, images_among
from segment.images.formats.belonging import may_belong
from segment.images.listing.folders import image_files, warn_of_folder
from segment.images.listing.parts import Listing
from segment.images.outside_runs import paths_outside_runs

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks at a folder."""

Signature = tuple[tuple[str, FileState | None], ...]
"""Name and state of a file, None where it cannot be asked; the same of the files beside it that belong to it."""


@dataclass(frozen=True, kw_only=True)
class WatchPlan:
    """How a folder is watched. A file is whole when two looks see the same state.

    every: seconds between two looks; listing: which frames and slices of its files are taken
    """

    every: float = EVERY
    listing: Listing = field(default_factory=Listing)

    def __post_init__(self) -> None:
        if not 0 < self.every < 86400:
            raise WrongUse(f"A folder is looked at every {self.every:g} seconds; give more than 0.")


def watched(run: Run, folder: Path, plan: WatchPlan) -> Iterator[list[Source]]:
    """The images of the run that are to be made, as they are dropped into the folder. Errors: WrongUse."""
    if not folder.is_dir() or folder.resolve() == run.folder.resolve():
        raise WrongUse(f"{str(folder)!r} cannot be watched: give a folder of its own, beside the run's.")
    for arrived in arrivals(folder, run.folder / STOP, plan):
        if pending := run.pending(run.add_sources(arrived)):
            yield pending


def arrivals(folder: Path, stop: Path, plan: WatchPlan) -> Iterator[tuple[Source, ...]]:
    """The images of files that are whole and new, or were replaced, as a look finds them; those there already first.

    Ends when there is a file `stop`, which goes then; whole files that were dropped before it are given first. An empty
    file is not whole. An image is given again where a file that belongs to it, as a world file, came or changed. Runs
    below the folder are left out.
    """
    before: dict[Path, Signature] = {}
    given: dict[Path, Signature] = {}
    unreadable = _Unreadable()
    looks_left = 2
    while looks_left:
        looked = time.monotonic()
        looks_left -= stop.exists()  # one more look tells whether what came last is whole
        now = _signatures(folder, unreadable)
        whole = [path for path, signature in now.items() if before.get(path) == signature != given.get(path)]
        given = {path: signature for path, signature in given.items() if path in now}
        given |= {path: now[path] for path in whole}
        before = now
        if whole:
            yield images_among(whole, folder, plan.listing)
        if looks_left:
            time.sleep(max(0.0, looked + plan.every - time.monotonic()))
    if left := sum(1 for path in paths_outside_runs(image_files(folder), folder) if path not in given):
        log.warning("%d files in %r were still being written, or are empty; --resume does them.", left, str(folder))
    stop.unlink(missing_ok=True)


class _Unreadable:
    """Warns of a folder that cannot be read once, and again only after it could be in between."""

    def __init__(self) -> None:
        self._before, self._now = set[str](), set[str]()

    def __call__(self, error: OSError) -> None:
        self._now.add(str(error.filename))
        if str(error.filename) not in self._before:
            warn_of_folder(error)

    def end_look(self) -> None:
        self._before, self._now = self._now, set()


def _signatures(folder: Path, unreadable: _Unreadable) -> dict[Path, Signature]:
    """Signatures of the files below a folder that are named as images and are not empty, ordered by name."""
    signatures: dict[Path, Signature] = {}
    names: dict[Path, set[str]] = {}  # of each folder, so that few of the files that may belong are asked for
    files = image_files(folder, unreadable)
    unreadable.end_look()
    for path in paths_outside_runs(files, folder):
        try:
            status = path.stat()
            if path.parent not in names:
                names[path.parent] = set(os.listdir(path.parent))  # noqa: PTH208 (of names alone)
        except FileNotFoundError:  # renamed or taken away in this moment
            continue
        except OSError:  # it fails by its name
            signatures[path] = ((path.name, None),)
            continue
        if status.st_size or not S_ISREG(status.st_mode):  # a pipe, too, fails by its name
            beside = (other for other in may_belong(path) if other.name in names[path.parent])
            states = ((other.name, state_of(other)) for other in beside)  # None: taken away, or a link to nothing
            signatures[path] = ((path.name, state_in(status)), *states)
    return signatures
