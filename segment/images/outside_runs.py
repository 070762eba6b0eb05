"""The images of a SRC without the pictures of runs below it, as `predict MODEL . -o run` makes them.

One way for every command that lists images; label maps and region masks may well be files of a run.
Must not know what a run holds besides.
"""

from __future__ import annotations

import glob
import logging
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from segment.errors import WrongUse
from segment.images.find import Source, find_images
from segment.images.listing.lists import LIST_SUFFIXES
from segment.images.listing.on_store import above_glob
from segment.images.listing.parts import Listing
from segment.stores.requests import files_below, matching
from segment.stores.urls import is_url, url_of

log = logging.getLogger(__name__)

MANIFEST, RECORD = "manifest.jsonl", "run.json"
"""The two files that make a folder a run."""


def images_outside_runs(source: str | Path, listing: Listing | None = None, *, warn: bool = True) -> tuple[Source, ...]:
    """The images of a SRC, less the pictures of runs below a folder or glob; a warning counts the files.

    Region masks that a list names are reported as well, and an axis that DICOM files are not cut along.
    warn: False where the same SRC is listed once more
    Errors: WrongUse where nothing is left.
    """
    listing = listing or Listing()
    images = find_images(source, listing)
    if warn:
        _note_masks(images, source)
        _warn_of_axis(images, listing)
    top, paths = Path(source), [image.path for image in images]
    if paths and top in paths[0].parents:
        outside = set(paths_outside_runs(paths, top))
    elif glob.has_magic(str(source)) and top not in paths and top.suffix.lower() not in LIST_SUFFIXES:
        outside = set(paths_outside_runs(paths, above_glob(top), top))
    else:  # a list or a file, which names its images
        return images
    kept = tuple(image for image in images if image.path in outside)
    if warn and len(kept) < len(images):
        left_out = len({image.path for image in images} - outside)
        log.warning("%d files of runs below %r are left out.", left_out, str(source))
    if not kept:
        raise WrongUse(f"{str(source)!r} holds the pictures of runs and no other image. Give a folder of images.")
    return kept


def refuse_output_in_images(source: str | Path, output: str | Path) -> None:
    """Refuse a run in the very folder of its images: resumed, it would take its own pictures for images.

    source: a folder or a glob; anything else names its images. Errors: WrongUse.
    """
    top, folder = Path(source), Path(output)
    if glob.has_magic(str(source)) and not top.is_dir():
        if not fnmatchcase("overlay.png", top.name):  # as *.jpg, which finds no picture of a run
            return
        top = above_glob(top)
    same = url_of(top) == url_of(folder) if is_url(top) or is_url(folder) else top.resolve() == folder.resolve()
    if same:
        raise WrongUse(
            f"-o {url_of(folder)!r} is the folder of the images, among which the run's pictures would be taken for "
            f"images. Choose another folder, as {url_of(folder / 'run')!r}, whose pictures are left out."
        )


def _note_masks(images: Sequence[Source], source: str | Path) -> None:
    """Report the region masks that a list names: other programs' lists call label maps so."""
    if masks := sum(image.mask is not None for image in images):
        log.log(
            logging.INFO if any(image.label is not None for image in images) else logging.WARNING,
            "%d of %d images have a region mask in the column `mask` of %r: outside it (0) nothing is shown or "
            "counted. Label maps belong into a column `label`.",
            masks,
            len(images),
            str(source),
        )


def _warn_of_axis(images: Sequence[Source], listing: Listing) -> None:
    """Files of DICOM hold slices, along one axis only; images that `find_images` places are theirs."""
    slices = sum(image.geometry is not None and bool(image.geometry.volume) for image in images)
    if slices and listing.axis != Listing().axis:
        log.warning(
            "--axis %d cuts volumes of NIfTI: %d images of DICOM files stay the slices that the files hold. Convert a "
            "series to NIfTI to cut it along another axis.",
            listing.axis,
            slices,
        )


def paths_outside_runs(paths: Sequence[Path], top: Path, pattern: Path | None = None) -> list[Path]:
    """The paths without files of runs, whether these lie below `top` or in a folder that a link leads to.

    pattern: the glob that matched the paths, if one did; `top` is what stands before its first part that matches names
    """
    folders_of = {folder: _folders_of(folder, top) for folder in {path.parent for path in paths}}
    folders = frozenset[Path]().union(*folders_of.values())
    if is_url(top):
        there = _of_runs_on_store(top, pattern)
        runs = {folder for folder in folders if folder / MANIFEST in there and folder / RECORD in there}
    else:
        runs = {folder for folder in folders if (folder / MANIFEST).is_file() and (folder / RECORD).is_file()}
    return [path for path in paths if runs.isdisjoint(folders_of[path.parent])]


def _of_runs_on_store(top: Path, pattern: Path | None) -> Collection[Path]:
    """Files, with those of runs among them: all below a folder, or those of runs in folders that a glob matches."""
    if pattern is None:
        return files_below(top)
    above = [Path(*pattern.parts[:number]) for number in range(len(top.parts) + 1, len(pattern.parts))]
    return {path for folder in above for name in (MANIFEST, RECORD) for path in matching(folder / name)}


def _folders_of(folder: Path, top: Path) -> frozenset[Path]:
    """The folders that an image lies in below SRC; through a link, all that it leads to."""
    below = {each for each in (folder, *folder.parents) if top in each.parents}
    if is_url(folder):
        return frozenset(below)
    real = folder.resolve()
    outside = set() if real.is_relative_to(top.resolve()) else {real, *real.parents}
    return frozenset(below | outside)
