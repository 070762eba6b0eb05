"""Requests to a store, asked again while it does not answer, is throttled or fails.

What a store says for good (no such file, no permission) is raised at once. Credentials, regions and endpoints are those
of the environment and of fsspec's configuration files. Must not know what the files hold.
"""

from __future__ import annotations

import errno
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path, PurePath
from typing import Any, TypeVar

from segment.errors import (
    MissingExtra,
    StoreRefuses,
    StoreUnreachable,
    WrongUse,
    count_of,
    first_of,
    imported,
    one_line,
)
from segment.stores.urls import is_url, scheme_of, url_of

log = logging.getLogger(__name__)

R = TypeVar("R")

PATIENCE = 180.0
"""Seconds for which a store may fail before a run ends."""

FIRST_WAIT, LONGEST_WAIT = 0.25, 10.0
"""Seconds between two tries of a request: doubled from the first to the longest, less a random half."""

EXTRAS = {"s3": ("s3fs", "s3"), "s3a": ("s3fs", "s3")}
"""Library and extra of a scheme; others are installed as fsspec says."""

_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "sha", "blob_id")
_TIMES = (
    *("LastModified", "Last-Modified", "last_modified", "updated", "mtime", "modify", "modificationTime", "modified"),
    "created",
)
"""Keys of what the file systems of fsspec say of a file; the first of them that there is tells its content."""

_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_SAYS: dict[type[OSError], tuple[int, str]] = {
    FileNotFoundError: (errno.ENOENT, "it is not there"),
    PermissionError: (errno.EACCES, "the store does not allow it"),
}
_HERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENAMETOOLONG)
"""Errors of the disk here, not of a store."""
_USE = (ValueError, TypeError, AttributeError, NotImplementedError, LookupError)
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "GoogleAuthError", "RefreshError")

_INVALID = ("ParamValidationError", "InvalidRegionError", "NoRegionError", "ConfigParseError")
"""Errors of boto, in words that no store was asked with."""
_LATER = (408, 425, 429)
"""What web servers answer below 500 to whom may ask again."""

_waiting = threading.Lock()
_warned: set[str] = set()


@cache
def store_of(scheme: str) -> Any:
    """The file system of fsspec. Errors: MissingExtra without its library."""
    import fsspec

    if scheme in EXTRAS:
        library, extra = EXTRAS[scheme]
        imported(library, extra=extra, what=f"{scheme}:// URLs")
    try:
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise MissingExtra(f"{scheme}:// URLs need another library: {one_line(error)}.") from None


def name_of(path: PurePath) -> str:
    """What its store calls a path."""
    return str(store_of(scheme_of(path))._strip_protocol(url_of(path)))


def asked(path: PurePath, request: Callable[[Any], R]) -> R:
    """What a request to the store of a path gives.

    Args:
        path: A URL, for the store and the messages.
        request: Called with fsspec's file system, again and again while the store fails; must give the same each time.

    Raises:
        FileNotFoundError, PermissionError: It is not there, or the store does not allow it; others of the kind.
        StoreRefuses: There are no credentials, or the store cannot do that.
        StoreUnreachable: It failed for `PATIENCE` seconds.

    """
    scheme, url = scheme_of(path), url_of(path)
    store = store_of(scheme)
    begun, wait = time.monotonic(), FIRST_WAIT
    while True:
        try:
            result = request(store)
        except Exception as raised:  # each store's library has classes of its own
            error = _meant(raised)
            _raise_if_final(error, scheme, url)
            if time.monotonic() - begun + wait > PATIENCE:
                raise StoreUnreachable(
                    f"{url} cannot be reached: {_reason(error)}, for {time.monotonic() - begun:.0f} seconds. The same "
                    "command with --resume goes on once the store answers."
                ) from error
            _tell(scheme, url, error)
        else:
            if _warned:
                _forget(scheme)
            return result
        time.sleep(wait * random.uniform(0.5, 1))
        wait = min(2 * wait, LONGEST_WAIT)


def _meant(error: Exception) -> Exception:
    """The error of a web server that did not answer, of which fsspec says that the file is not there; else itself."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    if isinstance(cause, Exception) and (isinstance(cause, TimeoutError) or _of_web(cause)) and not _refuses(cause):
        return cause
    return error


def _of_web(error: Exception) -> bool:
    return type(error).__module__.startswith("aiohttp")


def _refuses(error: Exception) -> bool:
    """Whether a web server answered what it will answer again."""
    status = getattr(error, "status", None)
    return _of_web(error) and isinstance(status, int) and 400 <= status < 500 and status not in _LATER


def _raise_if_final(error: Exception, scheme: str, url: str) -> None:
    """Raise what asking again would not change, as `asked` does."""
    if isinstance(error, _FINAL) or _refuses(error):
        kind = next((each for each in _FINAL if isinstance(error, each)), PermissionError)
        code, text = _SAYS.get(kind, (getattr(error, "errno", None) or errno.EIO, _reason(error)))
        raise kind(code, text, url) from error
    if isinstance(error, OSError) and error.errno in _HERE:
        raise WrongUse(f"{url} has no place here ({error.strerror}): TMPDIR names another folder.") from error
    if isinstance(error, _USE) or type(error).__name__ in (*_CREDENTIALS, *_INVALID):
        raise StoreRefuses(f"{url} is refused: {_reason(error)}. {_advice(scheme)}") from error


def _tell(scheme: str, url: str, error: Exception) -> None:
    """Once for all requests that fail at the same time."""
    with _waiting:
        if scheme in _warned:
            return
        _warned.add(scheme)
    log.warning("%s fails (%s); it is asked again for up to %.0f seconds.", url, _reason(error), PATIENCE)


def _forget(scheme: str) -> None:
    with _waiting:
        _warned.discard(scheme)


def _reason(error: Exception) -> str:
    return one_line(error, 200) or type(error).__name__


def _advice(scheme: str) -> str:
    if scheme in ("s3", "s3a"):
        return "Check bucket and name, and the credentials that AWS_PROFILE or AWS_ACCESS_KEY_ID give."
    return "Check bucket and name, and the store's credentials."


def info_of(path: Path) -> Mapping[str, Any]:
    """What its store says of a file or folder, as fsspec gives it. Errors: FileNotFoundError."""
    info: Mapping[str, Any] = asked(path, lambda store: store.info(name_of(path)))
    return info


def version_of(path: Path) -> str:
    """What tells a file's content on its store from any other: its ETag or checksum, or its size and time.

    "" where the store says none of these, or the file is not there.
    """
    try:
        return _version(info_of(path))
    except FileNotFoundError:
        return ""


def is_there(path: Path) -> bool:
    """Whether it is a file, here or on its store."""
    return is_file_there(path) if is_url(path) else path.is_file()


def is_file_there(path: Path) -> bool:
    """Whether it is a file on its store, not a folder and not nothing."""
    try:
        return bool(info_of(path)["type"] == "file")
    except FileNotFoundError:
        return False


def size_of_file(path: Path) -> int:
    """Bytes of a file, here or on its store. Errors: FileNotFoundError."""
    if not is_url(path):
        return path.stat().st_size
    return int(info_of(path)["size"])


def _version(info: Mapping[str, Any]) -> str:
    if info.get("type") == "directory":
        return ""
    mark = next((info[key] for key in (*_CHECKSUMS, *_TIMES) if info.get(key)), None)
    text = str(mark).strip('"')
    return "" if mark is None else f"{info.get('size')}-{text}"


def files_below(folder: Path) -> dict[Path, str]:
    """Every file below a folder, and its version; none where the folder is not there."""
    try:
        found = asked(folder, lambda store: store.find(name_of(folder), detail=True))
    except FileNotFoundError:
        return {}
    above = name_of(folder).rstrip("/") + "/"
    below = {name.removeprefix(above): info for name, info in found.items() if name.startswith(above)}
    keys = [key for key in below if key and not key.endswith("/")]  # others mark folders
    if strange := {key for key in keys if {"", ".", ".."} & set(key.split("/"))}:
        log.warning(
            "Left out below %s: %s whose keys have an empty part, . or .. in them, as no path has (%s).",
            url_of(folder),
            count_of(len(strange), "file"),
            first_of(map(repr, sorted(strange)), 3),
        )
    return {folder / key: _version(below[key]) for key in keys if key not in strange}


def matching(pattern: Path) -> list[Path]:
    """The files that a glob matches."""
    scheme = scheme_of(pattern)
    found = asked(pattern, lambda store: store.glob(name_of(pattern), detail=True))
    return [Path(f"{scheme}:/{name}") for name, info in found.items() if info.get("type") != "directory"]


def fetch(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Copy files of a store, each (there, here). Errors: FileNotFoundError."""
    if pairs:
        there, here = [name_of(path) for path, _ in pairs], [str(place) for _, place in pairs]
        asked(pairs[0][0], lambda store: store.get(there, here))


def put(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Copy files here to a store, each (here, there) whole or not at all; those that are there are replaced."""
    if pairs:
        here, there = [str(place) for place, _ in pairs], [name_of(path) for _, path in pairs]
        asked(pairs[0][1], lambda store: store.put(here, there))


def remove(paths: Sequence[Path]) -> None:
    """Take files away, here or on their stores; those that are not there are gone already."""
    for path in paths:
        if not is_url(path):
            path.unlink(missing_ok=True)
            continue
        try:
            asked(path, lambda store, path=path: store.rm_file(name_of(path)))  # type: ignore[misc]
        except FileNotFoundError:
            continue
