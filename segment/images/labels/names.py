"""Which label map, mask or annotation belongs to which image, by names: those that could belong to two are refused.

Must not know what any of them holds.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath, PurePosixPath

from segment.errors import WrongUse
from segment.images.find import Source
from segment.images.formats.kinds import without_suffix
from segment.images.listing.ids import folded, valid_id
from segment.images.listing.parts import part_name

_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]+://|data/upload/")
"""Label Studio's names of files that were not on the annotator's disk: their folders are none of the images'."""

_UPLOAD = 9
"""Letters that Label Studio puts before the names of uploads, the last a dash."""

_SHOWN = 5

Parts = tuple[str, ...]


@dataclass(frozen=True)
class _Name:
    """text: as the file has it; parts: of that path, without suffix; alone: its folders say nothing."""

    text: str
    parts: Parts
    suffix: str
    alone: bool = False


@dataclass(frozen=True)
class _Image:
    """forms: the parts of its path and of its id, without suffix; depth: how many of them its id has."""

    id: str
    forms: tuple[Parts, Parts]
    suffix: str
    depth: int

    @property
    def folder(self) -> Parts:
        return self.forms[0][:-1]


def matching(names: Sequence[str], sources: Sequence[Source]) -> Mapping[str, str]:
    """The annotated name of each image, by the image's id; none of an image that no name fits, or several alike.

    A name fits if it is the end of the image's path or id, its folders included. Folders that all names lie in may be
    called otherwise, above the folder of the images. First come names that share the most folders with its path, then
    those with its suffix; what is one image's whole name is no other's in its folder.

    >>> from pathlib import Path
    >>> day, night = Source("day/a", Path("set/day/a.png")), Source("night/a", Path("set/night/a.png"))
    >>> matching(["day/a.jpg"], [day, night]), matching(["a.jpg"], [day])
    ({'day/a': 'day/a.jpg'}, {'day/a': 'a.jpg'})
    >>> matching(["/home/x/day/a.jpg", "/home/x/night/a.jpg"], [night]), matching(["3f2a9c1d-a.png"], [night])
    ({'night/a': '/home/x/night/a.jpg'}, {'night/a': '3f2a9c1d-a.png'})
    """
    known, images = [_name(name) for name in names], [_image(source) for source in sources]
    folders = [name.parts[:-1] for name in known] or [()]
    above = _same_end(min(folders)[::-1], max(folders)[::-1])  # from their beginning: what is least and most agrees on
    uploads = [
        _Name(name.text, (name.parts[-1][_UPLOAD:],), name.suffix)
        for name in known
        if len(name.parts[-1]) > _UPLOAD and name.parts[-1][_UPLOAD - 1] == "-"
    ]
    text_of: dict[str, str] = {}
    for candidates in (known, uploads):
        taken, by_last = set(text_of.values()), defaultdict[str, list[_Name]](list)
        for name in candidates:
            if name.text not in taken:
                by_last[name.parts[-1]].append(name)
        for whole in (True, False):
            owned = {(text_of[image.id], image.folder) for image in images if image.id in text_of}
            for image in images:
                last = {form[-1] for form in image.forms}
                near = [name for end in last for name in by_last[end] if (name.text, image.folder) not in owned]
                best = None if image.id in text_of else _best(image, near, above)
                if best is not None and (not whole or best.suffix == image.suffix):
                    text_of[image.id] = best.text
    return text_of


def original_id(source: Source) -> tuple[str, str]:
    """The id of an image's file before it was made unique, and "/0003" of an image in it."""
    renamed = source.id.startswith(f"{source.wanted}-")  # it may have been given another id since
    return split(replace(source, id=source.wanted) if source.wanted and renamed else source)


def split(source: Source) -> tuple[str, str]:
    """The id of a file, and "/0003" of an image in it."""
    if source.part is None:
        return source.id, ""
    name, slash, part = source.id.rpartition("/")
    return name, slash + part


def by_name(sources: Sequence[Source]) -> Mapping[tuple[str, str], list[Source]]:
    """By the id of a file before it was made unique, in one case of letters, and "/0003" of an image in it."""
    groups: dict[tuple[str, str], list[Source]] = defaultdict(list)
    for source in sources:
        name, part = original_id(source)
        groups[folded(name), part].append(source)
    return groups


def refuse_shared(names: Mapping[str, str], sources: Sequence[Source], labels: str) -> None:
    """Errors: WrongUse where two images would have the same labels. names: id -> what belongs to it.

    A list may hold an image twice.
    """
    of_id = {source.id: source for source in sources}
    first: dict[str, Source] = {}
    for id, name in names.items():
        source = of_id[id]
        other = first.setdefault(name, source)
        if (other.path, other.part, other.axis) != (source.path, source.part, source.axis):
            raise WrongUse(
                f"In {labels!r}, {name!r} would belong to two images, {other.id!r} and {source.id!r}. Give the labels "
                "the names of the images, with their folders, or name both in a CSV."
            )


def refuse_several(id: str, files: Sequence[Source], root: str) -> None:
    """Errors: WrongUse where several files could be an image's label map, or its mask."""
    if len(paths := {file.path for file in files}) > 1:
        names = ", ".join(repr(path.name) for path in sorted(paths)[:_SHOWN])
        raise WrongUse(
            f"In {root!r}, several files could belong to {id!r}: {names}. Keep one of them, give a glob that matches "
            "one, or name it in a CSV."
        )


def unclear(file: Path, alike: Sequence[Source], root: str) -> WrongUse:
    return WrongUse(
        f"In {root!r}, {file.name!r} could belong to {alike[0].path.name!r} or to {alike[1].path.name!r}: without "
        "suffix and case of letters, they have one name. Rename one, or name each image and what belongs to it in a "
        "CSV."
    )


def _best(image: _Image, names: Sequence[_Name], above: int) -> _Name | None:
    """The name that fits best. above: how many of the first parts of names may be called otherwise."""
    fits: dict[tuple[int, bool], list[_Name]] = {}
    for name in names:
        alike = max(_same_end(name.parts, form) for form in image.forms)
        least = max(image.depth, 1 if name.alone else max(len(name.parts) - above, 2))
        if alike == len(name.parts) or alike >= least:
            fits.setdefault((alike, name.suffix == image.suffix), []).append(name)
    longest = fits[max(fits)] if fits else []
    return longest[0] if len(longest) == 1 else None


def _name(text: str) -> _Name:
    path = PurePosixPath(text.replace("\\", "/"))
    stem = without_suffix(path)
    return _Name(text, _valid(stem.parts), path.name[len(stem.name) :], bool(_ELSEWHERE.match(text)))


def _image(source: Source) -> _Image:
    path = PurePath(os.path.abspath(source.path))  # noqa: PTH100 (Path.resolve would follow links)
    stem, id = without_suffix(path), "".join(original_id(source)).split("/")
    suffix, parts = path.name[len(stem.name) :], _valid(stem.parts)
    if source.part is not None:
        suffix, parts = "", (*parts, valid_id(part_name(source.path, source.part)))
    return _Image(source.id, (parts, tuple(id)), suffix, len(id))


def _valid(parts: Iterable[str]) -> Parts:
    """The parts as ids have them, which hold fewer letters than a path may."""
    return tuple(valid_id(part) for part in parts if part.strip("/\\") not in ("", "..")) or ("_",)


def _same_end(parts: Parts, others: Parts) -> int:
    """How many parts are equal, from the last."""
    pairs = zip(reversed(parts), reversed(others), strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(parts), len(others)))
