"""The image files below a folder, by their names; DICOM files without a suffix by their bytes.

Must not know how many images a file holds.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from segment.errors import first_of, warn_once
from segment.images.formats.dicom import has_dicom_mark, is_dicom
from segment.images.formats.kinds import IMAGE_SUFFIXES, NOT_TAKEN, suffix_of
from segment.stores.urls import url_of

log = logging.getLogger(__name__)

OnError = Callable[[OSError], object]

LEFT_OUT = (
    "%d DICOM files without a suffix are left out, because images of other kinds lie in the same folder: %s. Move "
    "those images away, or name all by a glob."
)

NOT_READ = "%r holds pictures that are left out, because their kind is not taken: %s. Convert them, as to PNG."


def warn_of_folder(error: OSError) -> None:
    log.warning("Folder %r cannot be read, and its images are left out: %s.", str(error.filename), error.strerror)


def image_files(folder: Path, on_error: OnError = warn_of_folder) -> list[Path]:
    """The image files below a folder, sorted by their POSIX path. on_error: called for a folder that cannot be read.

    DICOM files without a suffix are taken where no image of another kind lies in the same folder. Warnings count those
    that are left out, and pictures of other kinds.
    """
    images: list[Path] = []
    left_out: dict[str, int] = {}
    others: Counter[str] = Counter()
    for where, files in _by_folder(folder, on_error).items():
        named = [path for path in files if suffix_of(path) in IMAGE_SUFFIXES]
        bare = [path for path in files if has_dicom_mark(path)]
        images += named
        others.update(suffix for path in files if (suffix := suffix_of(path)) in NOT_TAKEN)
        if all(map(is_dicom, named)):
            images += bare
        elif bare:
            left_out[str(where)] = len(bare)
    if others and images:  # where there are none, an error names what is there
        counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        warn_once(log, NOT_READ, url_of(folder), counts)
    if left_out:
        warn_once(log, LEFT_OUT, sum(left_out.values()), first_of(map(repr, left_out)))
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix())


def _by_folder(folder: Path, on_error: OnError) -> dict[Path, list[Path]]:
    files: dict[Path, list[Path]] = defaultdict(list)
    for path in files_below(folder, on_error):
        files[path.parent].append(path)
    return files


def files_below(folder: Path, on_error: OnError = warn_of_folder) -> Iterator[Path]:
    """Links are followed; a folder reached by two links is read once. Hidden files and folders are left out."""
    seen = {os.path.realpath(folder)}
    for where, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        fresh = []
        for name in sorted(folders):
            real = os.path.realpath(Path(where, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        yield from (Path(where, name) for name in files if not name.startswith("."))
