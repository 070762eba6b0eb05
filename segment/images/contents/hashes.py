"""Identifies the content of an image file: the SHA-256 of its bytes, or its version on a store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from segment.errors import ImageUnreadable
from segment.images.contents.copied import by_ranges, image_here
from segment.images.contents.states import FileState, state_in
from segment.images.find import Source
from segment.images.formats.belonging import files_of
from segment.images.limits import is_file
from segment.stores.requests import version_of
from segment.stores.urls import is_url, url_of

_KEPT_HASHES = 16 * 2**20
"""Bytes of a file from which its SHA-256 is kept: a video or a volume is asked for once an image."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits; "" where it cannot be read."""
    if is_url(path):
        with suppress(ImageUnreadable), image_here(path) as copy:
            return sha256_of(copy)
        return ""
    if not is_file(path):
        return ""
    try:
        status = path.stat()
        return sha256_of_file(path) if status.st_size < _KEPT_HASHES else _kept_sha256(path, state_in(status))
    except OSError:
        return ""


def version_of_source(source: Source) -> str:
    """What tells the file's content on its store from any other, as the listing said; "" of a file here."""
    return (source.version or version_of(source.path)) if is_url(source.path) else ""


def sha256_of_mask(source: Source) -> str:
    """SHA-256 of the image's region mask; "" without one."""
    return "" if source.mask is None else sha256_of(source.mask)


def files_beside(*files: Path | None) -> tuple[Path, ...]:
    """What belongs to image files, label maps or region masks: `belonging.files_of` each."""
    return tuple(other for file in files if file is not None for other in files_of(file))


def sha256_of_beside(*files: Path | None) -> str:
    """SHA-256 over the names and bytes of `files_beside`; "" without any."""
    beside = files_beside(*files)
    text = "".join(f"{sha256_of(file)} {file.name}\n" for file in beside)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest() if beside else ""


def content_of(source: Source) -> tuple[str, str]:
    """What tells the image's content from any other: SHA-256, "" where it is read by ranges; version on a store.

    A store that says no version leaves the SHA-256, also where the image is read by ranges.
    """
    if by_ranges(source) and (version := version_of(source.path)):  # asked now: it may have changed since it was listed
        return "", version
    version = version_of_source(source)  # first: what changes between the two is made again
    return sha256_of(source.path), version


def refuse_changed(source: Source, line: Mapping[str, Any]) -> None:
    """Refuse an image whose file is another than a run's, whose maps and mask do not belong to it.

    line: of the manifest, which keeps what `content_of` gave; of a file that cannot be read now its reader says so
    Errors: ImageUnreadable; FileNotFoundError and those of a store.
    """
    if version := line.get("version"):
        changed = version_of_source(source) != version
    else:
        changed = bool(line.get("sha256")) and sha256_of(source.path) not in ("", line["sha256"])
    if changed:
        raise ImageUnreadable(f"{url_of(source.path)!r} has changed since the run.")


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a local file's bytes, as 64 hexadecimal digits. Errors: OSError where it cannot be read."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=4096)
def _kept_sha256(path: Path, _state: FileState) -> str:
    return sha256_of_file(path)
