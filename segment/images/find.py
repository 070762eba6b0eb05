"""Folder, glob, image or text list → images, and their label maps, in a stable order.

Must not know what a file holds: nothing is opened but a text list.
"""

from __future__ import annotations

import glob
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import TypeAlias

from segment.errors import WrongUse, near
from segment.images.geometry import Geometry
from segment.images.read import IMAGE_SUFFIXES

_LIST_SUFFIX = ".txt"
_SHOWN = 5  # names in one message
_ILLEGAL = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f\ud800-\udfff]')  # in a Windows name, or in UTF-8
_BYTE = re.compile(r"[\udc80-\udcff]")  # of a name that is not UTF-8, as os.fsdecode gives it
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", re.IGNORECASE)  # there, with any suffix
_WITHIN = {"raw", "maps.zarr"}  # folders in the folder of an image's results: no image "a/raw" beside an image "a"

_Line: TypeAlias = tuple[Path, Path | None]  # an image, and its label map


@dataclass(frozen=True)
class Source:
    """One image and its label files.

    id: a relative POSIX path without suffix, unique among the images of a run
    path: the image file
    label: the label map's file
    masks: for a multi-label head, one file a label
    part: which image of a file with several: the number of a frame, page or slice, or a key of an .npz
    axis: of a volume: the voxel axis that its slices lie along
    geometry: where the file alone does not say it (a slice of a DICOM series); else `where.geometry_of` reads it
    """

    id: str
    path: Path
    label: Path | None = None
    masks: tuple[Path, ...] = ()
    part: int | str | None = None
    axis: int = 2
    geometry: Geometry | None = None


def find_images(src: str | Path) -> tuple[Source, ...]:
    """The images of a folder (with its sub-folders), a glob, one image file or a text list.

    Folder and glob: files of `IMAGE_SUFFIXES`, hidden ones (".name") left out, sorted by their POSIX path. List (.txt,
    UTF-8): an image, or an image and its label map, on each line, in the list's order, relative to the list's folder;
    blank lines and lines that start with "#" are skipped. A tab separates image and label, or white space where the
    whole line is not a file.
    """
    source = Path(src)
    lines: list[_Line]
    if source.is_dir():
        root, lines = source, [(path, None) for path in _images_below(source)]
    elif source.is_file():
        root = source.parent
        lines = _listed(source) if source.suffix.lower() == _LIST_SUFFIX else [(source, None)]
    elif glob.has_magic(str(src)):
        root, images = _matched(str(src))
        lines = [(path, None) for path in images]
    else:
        raise WrongUse(f"{str(src)!r} is not there.{_hint(source)} Give a folder, a glob, an image or a text list.")
    ids = _unique(_safe(os.path.relpath(path, root)) for path, _ in lines)
    return tuple(Source(id, path, label) for id, (path, label) in zip(ids, lines, strict=True))


def find_pairs(images: str | Path, labels: str | Path | None = None) -> tuple[Source, ...]:
    """The images, each with its label map: the file of the same id below `labels`.

    Either may be a text list. A list with labels needs no `labels`; passed as `labels`, its second column is used.
    """
    sources = find_images(images)
    if labels is not None:
        maps = {source.id: source.label or source.path for source in find_images(labels)}
        sources = tuple(replace(source, label=maps.get(source.id)) for source in sources)
    missing = [source.id for source in sources if source.label is None]
    if missing:
        where = f"below {str(labels)!r}" if labels is not None else f"in {str(images)!r}"
        raise WrongUse(
            f"{len(missing)} of {len(sources)} images have no label map {where}: {_first_names(missing)}. A label map "
            "has its image's name, with any suffix, in the same sub-folder; or give a text list with image and label a "
            "line."
        )
    return sources


def _images_below(folder: Path) -> list[Path]:
    files = list(_files_below(folder))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise WrongUse(f"No image in folder {str(folder)!r}. {_kinds(files)}")
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix())


def _files_below(folder: Path) -> Iterator[Path]:
    """Links are followed; a folder reached by two links is read once."""
    seen = {os.path.realpath(folder)}
    for where, folders, files in os.walk(folder, followlinks=True):
        fresh = []
        for name in sorted(folders):
            real = os.path.realpath(Path(where, name))
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        yield from (Path(where, name) for name in files if not name.startswith("."))


def _matched(pattern: str) -> tuple[Path, list[Path]]:
    parts = PurePath(pattern).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    names = set(glob.glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern, shows hidden)
    files = [path for path in map(Path, names) if path.is_file()]
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise WrongUse(
            f"No image matches {pattern!r}. {_kinds(files)} Quote a glob, so that the shell leaves it alone."
        )
    return root, sorted(images, key=lambda path: path.as_posix())


def _listed(path: Path) -> list[_Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"The list {str(path)!r} is not readable: {error}. Save it as UTF-8 text.") from None
    pairs: list[_Line] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = _fields(line.strip(), path.parent)
        if len(fields) > 2:
            raise WrongUse(
                f"Line {number} of the list {str(path)!r} has {len(fields)} fields. Write an image, or an image and "
                "its label map with a tab between them."
            )
        image, label = fields[0], fields[1] if len(fields) > 1 else None
        pairs.append((path.parent / image, None if label is None else path.parent / label))
    if not pairs:
        raise WrongUse(f"The list {str(path)!r} names no image. Write one on each line, relative to the list's folder.")
    if not any(image.exists() for image, _ in pairs):
        raise WrongUse(
            f"None of the {len(pairs)} images in the list {str(path)!r} is there, first {str(pairs[0][0])!r}. "
            "Paths are relative to the list's folder."
        )
    return pairs


def _fields(line: str, folder: Path) -> list[str]:
    """Split at a tab; else keep a line that is a file; else split where both parts are files; else at white space."""
    if "\t" in line:
        return [field.strip() for field in line.split("\t") if field.strip()]
    if len(line.split()) == 1 or (folder / line).exists():
        return [line]
    for gap in re.finditer(r"\s+", line):
        image, label = line[: gap.start()], line[gap.end() :]
        if (folder / image).exists() and (folder / label).exists():
            return [image, label]
    return line.split()


def in_text(path: str | Path) -> str:
    r"""A path for JSON and a terminal: the bytes of a name that is not UTF-8 as \xNN; no two paths have one text.

    >>> print(in_text("Straße.png"), in_text(os.fsdecode(b"caf\xe9.png")))
    Straße.png caf\xe9.png
    """
    text = os.fspath(path)
    if os.name == "posix" and (_BYTE.search(text) or _ESCAPE.search(text)):
        text = text.replace("\\", "\\\\")
    return _BYTE.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", text)


def _safe(relative: str) -> str:
    r"""A relative POSIX path that is valid on any system; letters of any script stay, other bytes become %NN.

    >>> _safe("../day 1/Straße:2.png"), _safe("con.jpg"), _safe(os.fsdecode(b"caf\xe9.png")), _safe("a/raw.png")
    ('day 1/Straße_2', 'con_', 'caf%E9', 'a/raw_')
    """
    escaped = _BYTE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", relative)
    path = PurePath(escaped).with_suffix("")
    parts = [_ILLEGAL.sub("_", part).rstrip(". ") or "_" for part in path.parts if part not in {"..", path.anchor}]
    parts = [_RESERVED.sub(r"\1_\2", part) if _RESERVED.match(part) else part for part in parts]
    if len(parts) > 1 and parts[-1].casefold() in _WITHIN:
        parts[-1] += "_"
    return "/".join(parts) or "_"


def _unique(ids: Iterable[str]) -> list[str]:
    """The second "a" becomes "a-2"; ids that differ in case alone are equal, as file names on Windows and macOS.

    >>> _unique(["a", "A", "a-2", "b"])
    ['a', 'A-3', 'a-2', 'b']
    """
    wanted = list(ids)
    reserved = {_folded(id) for id in wanted}
    given: set[str] = set()
    result = []
    for id in wanted:
        free = _free(id, given, reserved)
        given.add(_folded(free))
        result.append(free)
    return result


def _free(id: str, given: Collection[str], reserved: Collection[str]) -> str:
    """The id, or the first of "id-2", "id-3", ... that is neither given nor reserved."""
    free, number = id, 1
    while _folded(free) in given or (number > 1 and _folded(free) in reserved):
        number += 1
        free = f"{id}-{number}"
    return free


def keep_ids(sources: Sequence[Source], known: Mapping[str, str]) -> tuple[Source, ...]:
    """The sources, each with the id that its path has already; a new path gets an id that no other path has had.

    known: id -> path, as `in_text` writes it

    >>> keep_ids([Source("x", Path("x.bmp")), Source("x-2", Path("x.png"))], {"x": "x.png"})[0].id
    'x-2'
    """
    of_path: dict[str, list[str]] = {}
    for id, path in known.items():
        of_path.setdefault(path, []).append(id)
    given = {_folded(id) for id in known}
    kept = []
    for source in sources:
        earlier = of_path.get(in_text(source.path))
        id = earlier.pop(0) if earlier else _free(source.id, given, ())
        given.add(_folded(id))
        kept.append(replace(source, id=id))
    return tuple(kept)


def paths_by_id(sources: Sequence[Source]) -> dict[str, str]:
    """Each image's path, as `in_text` writes it."""
    return {source.id: in_text(source.path) for source in sources}


def _folded(id: str) -> str:
    return unicodedata.normalize("NFC", id).casefold()


def _kinds(files: list[Path]) -> str:
    """The kinds of files present, for a message.

    >>> _kinds([Path("a.gif"), Path("b.gif"), Path("c")])
    'Found 2 .gif, 1 without suffix. Known: .bmp .jpeg .jpg .png .tif .tiff .webp.'
    """
    counts = Counter(path.suffix.lower() or "without suffix" for path in files).most_common(_SHOWN)
    present = ", ".join(f"{count} {suffix}" for suffix, count in counts) or "no file"
    return f"Found {present}. Known: {' '.join(sorted(IMAGE_SUFFIXES))}."


def _hint(missing: Path) -> str:
    if not missing.parent.is_dir():
        return f" Nor is its folder {str(missing.parent)!r}."
    return near(missing.name, [path.name for path in missing.parent.iterdir()])


def _first_names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
