"""SHA-256 of files, kept so that a file is not read again while nothing about it has changed.

Must not know what a file holds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from segment.errors import SegmentError
from segment.files.writing import write_text
from segment.images.contents.hashes import sha256_of_file
from segment.images.contents.states import FileState, state_in, state_of
from segment.images.formats.belonging import files_of
from segment.stores.copies import here
from segment.stores.urls import is_url

log = logging.getLogger(__name__)

MOST = 200_000
"""Files that are remembered; of more, those hashed last."""

SETTLED = 2 * 10**9
"""Nanoseconds that a file must lie unchanged before its hash is kept: a file system's clock may be that coarse, and a
second write within one tick leaves every time as it was."""


def sha256_of_files(paths: Sequence[Path], memory: Path) -> list[str]:
    """SHA-256 of each file's bytes, in order; a file that cannot be read has that of its name and the error.

    memory: a JSON file of hashes. A file here is read unless its path, size, mtime, ctime and inode are all those that
    it had when it was hashed.
    """
    known = _read(memory)
    fresh: dict[str, tuple[FileState, str]] = {}
    hashes = []
    for path in paths:
        name = os.path.abspath(path)  # noqa: PTH100 - a link stays a link: its target's inode is in the state
        try:
            if is_url(path):
                hashes.append(_of_url(path))
                continue
            state = state_in(path.stat())
            digest = known[name][1] if name in known and known[name][0] == state else ""
            if not digest:
                digest, settled = _hashed(path)
                if settled is not None:
                    fresh[name] = (settled, digest)
        except OSError as error:  # the reader of the image says so
            digest = hashlib.sha256(f"{name}: {error}".encode(errors="surrogateescape")).hexdigest()
        hashes.append(digest)
    if fresh:
        _write(memory, known, fresh)
    return hashes


def hashes_beside(paths: Sequence[Path], memory: Path) -> list[str]:
    """SHA-256 of the files that belong to image files, as world files and the sources of a `.vrt`, and to which each.

    paths, memory: as `sha256_of_files` takes them
    """
    beside = [(number, file) for number, path in enumerate(dict.fromkeys(paths)) for file in files_of(path)]
    hashes = sha256_of_files([file for _, file in beside], memory) if beside else []
    return [f"{file_hash} of {number}" for (number, _), file_hash in zip(beside, hashes, strict=True)]


def _of_url(path: Path) -> str:
    with here(path) as copy:
        return _hashed(copy)[0]


def _hashed(path: Path) -> tuple[str, FileState | None]:
    """The hash, and the state that it is of; None where the file is or may be being written to."""
    state = state_in(path.stat())
    digest = sha256_of_file(path)
    settled = state_of(path) == state and time.time_ns() - max(state[1:3]) > SETTLED
    return digest, state if settled else None


def _read(memory: Path) -> dict[str, tuple[FileState, str]]:
    try:
        content = json.loads(memory.read_bytes())
        return {
            str(name): ((int(size), int(content_time), int(entry_time), int(inode)), str(digest))
            for name, ((size, content_time, entry_time, inode), digest) in content.items()
            if len(digest) == 64
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        log.info("%s is not used: %s", memory, error)
        return {}


def _write(memory: Path, known: dict[str, tuple[FileState, str]], fresh: dict[str, tuple[FileState, str]]) -> None:
    kept = {name: entry for name, entry in known.items() if name not in fresh} | fresh
    newest = dict(list(kept.items())[-MOST:])
    try:
        write_text(memory, json.dumps(newest))  # ASCII: a name that is no UTF-8 is escaped
    except (SegmentError, OSError) as error:
        log.info("Hashes are not kept: %s", error)
