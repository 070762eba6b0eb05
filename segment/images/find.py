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
from segment.images.read import IMAGE_SUFFIXES

_LIST_SUFFIX = ".txt"
_SHOWN = 5  # names in one message
_ILLEGAL = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f\ud800-\udfff]')  # in a Windows name, or in UTF-8
_BYTE = re.compile(r"[\udc80-\udcff]")  # of a name that is not UTF-8, as os.fsdecode gives it
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", re.IGNORECASE)  # there, with any suffix

_Line: TypeAlias = tuple[Path, Path | None]  # an image, and its label map


@dataclass(frozen=True)
class Source:
    """One image: its id (a relative POSIX path without suffix, unique in its set), its file and its label map's.

    masks: of a multi-label head, one file a label
    """

    id: str
    path: Path
    label: Path | None = None
    masks: tuple[Path, ...] = ()


def find_images(src: str | Path) -> tuple[Source, ...]:
    """The images of a folder (with its sub-folders), a glob, one image file or a text list.

    Folder and glob: files of `IMAGE_SUFFIXES`, hidden ones (".name") left out, sorted by their POSIX path. List (.txt,
    UTF-8): an image, or an image and its label map, on each line, in the list's order, relative to the list's folder;
    blank lines and lines that start with "#" do not count. Image and label are parted by a tab, or by white space where
    the whole line is no file.
    """
    asked = Path(src)
    lines: list[_Line]
    if asked.is_dir():
        root, lines = asked, [(path, None) for path in _images_below(asked)]
    elif asked.is_file():
        root = asked.parent
        lines = _listed(asked) if asked.suffix.lower() == _LIST_SUFFIX else [(asked, None)]
    elif glob.has_magic(str(src)):
        root, images = _matched(str(src))
        lines = [(path, None) for path in images]
    else:
        raise WrongUse(f"{str(src)!r} is not there.{_neighbour(asked)} Give a folder, a glob, an image or a text list.")
    ids = _unique(_safe(os.path.relpath(path, root)) for path, _ in lines)
    return tuple(Source(id, path, label) for id, (path, label) in zip(ids, lines, strict=True))


def find_pairs(images: str | Path, labels: str | Path | None = None) -> tuple[Source, ...]:
    """The images, each with its label map: the file of the same id below `labels`.

    Either may be a list; one with labels on its lines needs no `labels`, and as `labels` gives its second column.
    """
    found = find_images(images)
    if labels is not None:
        maps = {source.id: source.label or source.path for source in find_images(labels)}
        found = tuple(replace(source, label=maps.get(source.id)) for source in found)
    missing = [source.id for source in found if source.label is None]
    if missing:
        where = f"below {str(labels)!r}" if labels is not None else f"in {str(images)!r}"
        raise WrongUse(
            f"{len(missing)} of {len(found)} images have no label map {where}: {_some(missing)}. A label map has its "
            "image's name, with any suffix, in the same sub-folder; or give a text list with image and label a line."
        )
    return found


def _images_below(folder: Path) -> list[Path]:
    files = list(_files_below(folder))
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise WrongUse(f"No image in folder {str(folder)!r}. {_kinds(files)}")
    return sorted(images, key=lambda path: path.relative_to(folder).as_posix())


def _files_below(folder: Path) -> Iterator[Path]:
    """Links are followed; a folder that is reached twice is read once."""
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
    except (OSError, UnicodeDecodeError) as problem:
        raise WrongUse(f"The list {str(path)!r} is not readable: {problem}. Save it as UTF-8 text.") from None
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
    """A tab parts; else the whole line where it is a file; else the split of which both parts are; else white space."""
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
    r"""A relative POSIX path that may become a folder anywhere: letters of any script stay, other bytes become %NN.

    >>> _safe("../day 1/Straße:2.png"), _safe("con.jpg"), _safe(os.fsdecode(b"caf\xe9.png"))
    ('day 1/Straße_2', 'con_', 'caf%E9')
    """
    escaped = _BYTE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", relative)
    path = PurePath(escaped).with_suffix("")
    parts = [_ILLEGAL.sub("_", part).rstrip(". ") or "_" for part in path.parts if part not in {"..", path.anchor}]
    return "/".join(_RESERVED.sub(r"\1_\2", part) if _RESERVED.match(part) else part for part in parts) or "_"


def _unique(ids: Iterable[str]) -> list[str]:
    """The second "a" becomes "a-2"; upper and lower case count as one, as on Windows and macOS.

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
    """The id, or "id-2", "id-3", ... where it is given; a number leads to none that is reserved."""
    free, number = id, 1
    while _folded(free) in given or (number > 1 and _folded(free) in reserved):
        number += 1
        free = f"{id}-{number}"
    return free


def keep_ids(sources: Sequence[Source], known: Mapping[str, str]) -> tuple[Source, ...]:
    """The sources, each under the id that its path has already; a new path gets one that no other path has had.

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


def _folded(id: str) -> str:
    return unicodedata.normalize("NFC", id).casefold()


def _kinds(files: list[Path]) -> str:
    """What is there instead.

    >>> _kinds([Path("a.gif"), Path("b.gif"), Path("c")])
    'Found 2 .gif, 1 without suffix. Known: .bmp .jpeg .jpg .png .tif .tiff .webp.'
    """
    counts = Counter(path.suffix.lower() or "without suffix" for path in files).most_common(_SHOWN)
    found = ", ".join(f"{count} {suffix}" for suffix, count in counts) or "no file"
    return f"Found {found}. Known: {' '.join(sorted(IMAGE_SUFFIXES))}."


def _neighbour(asked: Path) -> str:
    if not asked.parent.is_dir():
        return f" Nor is its folder {str(asked.parent)!r}."
    return near(asked.name, [path.name for path in asked.parent.iterdir()])


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
