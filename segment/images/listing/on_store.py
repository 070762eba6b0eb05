"""What a URL names on an object store: a folder, a glob or one image → rows. Must not know what a file holds."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

from segment.errors import WrongUse
from segment.images.formats.kinds import IMAGE_SUFFIXES, suffix_of
from segment.images.listing.lists import ListLine
from segment.stores.requests import files_below, is_file_there, matching
from segment.stores.urls import url_of


def rows_on_store(src: Path, kinds: Callable[[Sequence[Path]], str]) -> tuple[Path, list[ListLine]]:
    """The folder that ids are relative to, and the images of a folder, a glob or one file.

    kinds: a sentence on what there is in place of images. Errors: WrongUse without an image.
    """
    if is_file_there(src):
        return src.parent, [ListLine(src)]
    root, files = src, files_below(src)
    if not files and glob.has_magic(str(src)):  # a name may hold brackets itself
        root, files = above_glob(src), dict.fromkeys(matching(src), "")
    shown = {path: version for path, version in files.items() if not _is_hidden(path.relative_to(root))}
    images = sorted((path for path in shown if suffix_of(path) in IMAGE_SUFFIXES), key=lambda path: path.as_posix())
    if not files:
        raise WrongUse(f"{url_of(src)} is not there. Give a folder, a glob, an image or a list.")
    if not images:
        raise WrongUse(f"No image at {url_of(src)}. {kinds(list(shown))}")
    return root, [ListLine(path, version=shown[path]) for path in images]


def above_glob(pattern: Path) -> Path:
    """What stands before the first part of a glob that matches names."""
    fixed = next(number for number, part in enumerate(pattern.parts) if glob.has_magic(part))
    return Path(*pattern.parts[:fixed])


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)
