"""Folder, glob, image or list → images, and their label maps and region masks, in a stable order.

Must not know what an image shows: of a file with several images only its header is read.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segment.errors import WrongUse, near
from segment.images.formats.arrays import LABEL_KEYS
from segment.images.formats.dicom import is_dicom, slices_of
from segment.images.formats.kinds import IMAGE_SUFFIXES, suffix_of
from segment.images.listing.folders import files_below, image_files
from segment.images.listing.ids import folded, free_id, given_id, safe, unique, valid_id
from segment.images.listing.ids import in_text as in_text
from segment.images.listing.lists import LIST_SUFFIXES, ListLine, read_list
from segment.images.listing.on_store import above_glob, rows_on_store
from segment.images.listing.parts import Listing, Part, part_name, parts_in
from segment.images.placing.geometry import Geometry
from segment.stores.urls import is_url

_SHOWN = 5  # names in one message
_EVERYTHING = Listing()
ALONG = " along axis "
"""Between the number of a slice and its axis, where `part_in_text` says that."""


@dataclass(frozen=True)
class Source:
    """One image and its label files.

    id: a relative POSIX path without suffix, unique among the images of a run
    path: the image file
    label: the label map's file
    masks: for a multi-label head, one file a label
    mask: the region mask's file: outside it (0) nothing of the image counts
    annotators: of each further annotator, the file of its label map and which image of that; None where it has none
    label_part, mask_part: which image of the label's or the mask's file, where that has several
    more: cells of the other columns of a table that lists it, by their headings
    sample: gives an image and its label map that a caller holds, in place of the files
    part: which image of a file with several: the number of a frame, page or slice, or a key of an .npz
    version: of the image on its store, where a listing has told it
    axis: of a volume: the voxel axis that its slices lie along
    wanted: the id before it was made unique; "" where that is the id
    geometry: where the file alone does not say it (a slice of a DICOM series); else `where.geometry_of` reads it
    """

    id: str
    path: Path
    label: Path | None = None
    masks: tuple[Path, ...] = ()
    part: int | str | None = None
    axis: int = 2
    geometry: Geometry | None = None
    mask: Path | None = None
    version: str = field(default="", compare=False)
    annotators: tuple[tuple[Path, int | str | None] | None, ...] = ()
    label_part: int | str | None = None
    mask_part: int | str | None = None
    more: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    sample: Callable[[], tuple[Any, Any]] | None = field(default=None, compare=False, repr=False)
    wanted: str = field(default="", compare=False, repr=False)


def find_images(src: str | Path, listing: Listing = _EVERYTHING) -> tuple[Source, ...]:
    """The images of a folder (with its sub-folders), a glob, one image file or a list.

    Folder and glob: files of `IMAGE_SUFFIXES`, and DICOM files without a suffix (`image_files` says which of a folder),
    hidden ones (".name") left out, sorted by their POSIX path; DICOM slices of a series by their place in it. A file
    with several images (a video, a stack, a volume) gives one source each, of id "file/0123". List (.txt, .csv, .tsv,
    .parquet): `listing.lists` says what a row may hold; in a text list a tab separates image and label, or white space
    where the whole line is not a file; blank lines and "#" are skipped. Its ids are relative to its folder, where all
    its images are below that, else to their common folder.
    """
    source = Path(src)
    rows: list[ListLine]
    listed = source.suffix.lower() in LIST_SUFFIXES
    if is_url(source) and not listed:
        root, rows = rows_on_store(source, _kinds)
    elif source.is_dir():
        root, rows = source, [ListLine(path) for path in _images_below(source)]
    elif is_url(source) or source.is_file():
        rows = read_list(source) if listed else [ListLine(source)]
        root = _root_of(rows, source.parent)
    elif glob.has_magic(str(src)):
        root, images = _matched(str(src))
        rows = [ListLine(path) for path in images]
    else:
        raise WrongUse(f"{str(src)!r} is not there.{_hint(source)} Give a folder, a glob, an image or a list.")
    return _sources(rows, root, listing)


def _root_of(rows: Sequence[ListLine], folder: Path) -> Path:
    """The folder that a list's ids are relative to: its own, or where an image is outside, the images' common one."""
    parents = {os.path.dirname(os.path.abspath(row.image)) for row in rows if not row.id}  # noqa: PTH100, PTH120
    above = os.path.abspath(folder)  # noqa: PTH100 (Path.resolve would follow links)
    try:
        if not parents or os.path.commonpath([*parents, above]) == above:
            return folder
        return Path(os.path.commonpath(parents))
    except ValueError:  # two drives
        return folder


def images_among(paths: Sequence[Path], root: Path, listing: Listing = _EVERYTHING) -> tuple[Source, ...]:
    """The images of some of a folder's files, with the ids that they have below that folder."""
    return _sources([ListLine(path) for path in paths], root, listing)


def _sources(rows: Sequence[ListLine], root: Path, listing: Listing) -> tuple[Source, ...]:
    return with_unique_ids(_in_series([source for row in rows for source in _sources_of(row, root, listing)]))


def with_unique_ids(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The sources, of which no two have one id: the second "a" becomes "a-2", as `listing.ids.unique` says."""
    ids = unique(source.id for source in sources)
    return tuple(
        source if id == source.id else replace(source, id=id, wanted=source.wanted or source.id)
        for id, source in zip(ids, sources, strict=True)
    )


def _sources_of(row: ListLine, root: Path, listing: Listing) -> Iterator[Source]:
    """The images of a row's file; one of them, where the row's id names it as `file/000123`."""
    path, listing = row.image, listing if row.axis is None else replace(listing, axis=row.axis)
    id = given_id(row.id) if row.id else safe(os.path.relpath(path, root))
    parts = parts_in(path, listing)
    label_parts, mask_parts = (_parts_beside(other, parts, listing) for other in (row.label, row.mask))
    of_file, _, wanted = row.id.rpartition("/")
    names = {part_name(path, part) for part in parts if part is not None}
    before, _, number = wanted.rpartition("-")
    if wanted not in names and number.isdecimal() and of_file.rpartition("/")[2] == safe(path.name):
        wanted = before  # that of an image of a file called alike, as scan.nii beside scan.nii.gz
    single = bool(of_file) and wanted in names
    for part, label_part, mask_part in zip(parts, label_parts, mask_parts, strict=True):
        name = "" if part is None else part_name(path, part)
        if single and name != wanted:
            continue
        of_part = id if part is None or single else f"{id}/{valid_id(name)}"
        yield Source(
            of_part,
            path,
            row.label,
            part=part,
            axis=listing.axis,
            mask=row.mask,
            label_part=label_part,
            mask_part=mask_part,
            more=row.more,
            version=row.version,
        )


def _parts_beside(path: Path | None, parts: Sequence[Part], listing: Listing) -> Sequence[Part]:
    """For each image of a file, the image of another file that belongs to it: of its key or place, or one of all."""
    others = parts_in(path, listing, single_key=True) if path is not None and len(parts) > 1 else (None,)
    keys = all(isinstance(part, str) for part in (*parts, *others))
    if keys and (len(others) > 1 or (others[0] in parts and others[0] not in LABEL_KEYS)):
        return parts  # a key that the other file lacks is reported where it is read
    return others if len(others) == len(parts) else [None] * len(parts)


def _in_series(sources: Sequence[Source]) -> list[Source]:
    """DICOM slices in the order of their series, each with its place in it; a series stands where its first file does.

    A series may lie in several folders.
    """
    of_path: dict[Path, list[Source]] = {}
    for source in sources:
        if is_dicom(source.path):
            of_path.setdefault(source.path, []).append(source)
    volumes: dict[str, list[Source]] = {}
    volume_of: dict[Path, str] = {}
    for path, frame, geometry in slices_of(of_path):
        volume_of[path] = geometry.volume or str(path)
        for source in of_path[path]:
            id = source.id if frame is None else f"{source.id}/{frame:04d}"
            placed = replace(source, id=id, part=frame, geometry=geometry)
            volumes.setdefault(volume_of[path], []).append(placed)
    ordered: list[Source] = []
    for source in sources:
        ordered += volumes.pop(volume_of[source.path], []) if source.path in volume_of else [source]
    return ordered


def _images_below(folder: Path) -> list[Path]:
    images = image_files(folder)
    if not images:
        raise WrongUse(f"No image in folder {str(folder)!r}. {_kinds(list(files_below(folder)))}")
    return images


def _matched(pattern: str) -> tuple[Path, list[Path]]:
    root = above_glob(Path(pattern))
    names = set(glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern, shows hidden)
    files = [path for path in map(Path, names) if path.is_file()]
    images = [path for path in files if suffix_of(path) in IMAGE_SUFFIXES or is_dicom(path)]
    if not images:
        raise WrongUse(
            f"No image matches {pattern!r}. {_kinds(files)} Quote a glob, so that the shell leaves it alone."
        )
    return root, sorted(images, key=lambda path: path.as_posix())


def keep_ids(sources: Sequence[Source], known: Mapping[str, str]) -> tuple[Source, ...]:
    """The sources, each with the id that it has already; a new one gets an id that no other has had.

    sources: of unique ids. known: id -> image, as `images_by_id` writes them

    >>> keep_ids([Source("x", Path("x.bmp")), Source("x-2", Path("x.png"))], {"x": "x.png"})[0].id
    'x-2'
    """
    # runs of before did not say which part
    same = {one.id for one in sources if known.get(one.id) in (image_in_text(one), in_text(one.path))}
    earlier_ids: dict[str, list[str]] = {}
    for id, image in known.items():
        if id not in same:
            earlier_ids.setdefault(image, []).append(id)
    given = {folded(id) for id in known}
    kept = []
    for source in sources:
        earlier = earlier_ids.get(image_in_text(source), [])
        id = source.id if source.id in same else earlier.pop(0) if earlier else free_id(source.id, given, ())
        given.add(folded(id))
        kept.append(replace(source, id=id))
    return tuple(kept)


def images_by_id(sources: Sequence[Source]) -> dict[str, str]:
    """Each image as `image_in_text` writes it, by its id."""
    return {source.id: image_in_text(source) for source in sources}


def part_in_text(source: Source) -> str:
    """What `image_in_text` writes behind the path: which image of the file it is; "" where that has one only."""
    along = f"{ALONG}{source.axis}" if source.axis != Listing().axis else ""
    return "" if source.part is None else f"::{source.part}{along}"


def image_in_text(source: Source) -> str:
    """The path of an image's file, as `in_text` writes it, and which image of the file, where that has several.

    >>> image_in_text(Source("v/0004", Path("v.nii"), part=4)), image_in_text(Source("a", Path("a.png")))
    ('v.nii::4', 'a.png')
    """
    return in_text(source.path) + part_in_text(source)


def _kinds(files: Sequence[Path]) -> str:
    """The kinds of files present, for a message.

    >>> _kinds([Path("a.xyz"), Path("b.xyz"), Path("c")])  # doctest: +ELLIPSIS
    'Found 2 .xyz, 1 without suffix. Known: ...'
    """
    counts = Counter(suffix_of(path) or "without suffix" for path in files).most_common(_SHOWN)
    present = ", ".join(f"{count} {suffix}" for suffix, count in counts) or "no file"
    return f"Found {present}. Known: {' '.join(sorted(IMAGE_SUFFIXES))}."


def _hint(missing: Path) -> str:
    if not missing.parent.is_dir():
        return f" Nor is its folder {str(missing.parent)!r}."
    return near(missing.name, [path.name for path in missing.parent.iterdir()])
