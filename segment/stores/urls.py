"""Paths that are URLs of a store: pathlib folds `s3://bucket/a.png` to `s3:/bucket/a.png`, whose first part tells.

Such a path is joined, listed and named as any other. Must not know how a store is asked.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from segment.errors import WrongUse

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")  # of two letters at least: a drive has one
_HERE = frozenset({"file", "local"})


def is_url(path: str | PurePath) -> bool:
    """Whether a path is the URL of something on a store that fsspec knows.

    >>> is_url("s3://bucket/a.png"), is_url(PurePath("gs:/bucket")), is_url("data/a.png"), is_url("c:/a.png")
    (True, True, False, False)
    """
    parts = PurePath(path).parts
    if not parts or not (scheme := _SCHEME.fullmatch(parts[0])):
        return False
    from fsspec.registry import known_implementations

    return scheme[1] in known_implementations and scheme[1] not in _HERE


def refuse_file_url(path: str | PurePath) -> None:
    """Refuse to write to `file://...`, of which pathlib makes a folder `file:`. Errors: WrongUse."""
    parts = PurePath(path).parts
    if len(parts) > 1 and parts[0].endswith(":") and parts[0][:-1] in _HERE:
        raise WrongUse(f"{str(path)!r} is written as a URL of a file here. Give its path, without '{parts[0]}//'.")


def scheme_of(path: PurePath) -> str:
    """What stands before the colon.

    >>> scheme_of(PurePath("s3://bucket/a.png"))
    's3'
    """
    return path.parts[0][:-1]


def url_of(path: str | PurePath) -> str:
    """The path as a URL, its `..` resolved; any other path as it is.

    >>> url_of(PurePath("s3://bucket/lists/../a.png")), url_of("images/../a.png")
    ('s3://bucket/a.png', 'images/../a.png')
    """
    if not is_url(path):
        return str(path)
    first, *others = PurePath(path).parts
    kept: list[str] = []
    for part in others:
        if part != "..":
            kept.append(part)
        elif len(kept) > 1:  # the bucket stays
            kept.pop()
    return f"{first}//{'/'.join(kept)}"


def beside(folder: Path, name: str) -> Path:
    """A path that is relative to a folder, unless it is a URL of its own.

    >>> print(beside(Path("lists"), "s3://bucket/a.png"), beside(Path("lists"), "a.png"))
    s3:/bucket/a.png lists/a.png
    """
    return Path(name) if is_url(name) else folder / name
