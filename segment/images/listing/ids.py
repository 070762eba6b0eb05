"""Ids of images: relative POSIX paths without suffix, valid on any system, unique among the images of a run.

Must not know what an image is.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path, PurePath

from segment.images.formats.kinds import IMAGE_SUFFIXES, suffix_of, without_suffix
from segment.stores.urls import url_of

_ILLEGAL = re.compile(
    r'[<>:"|?*\\\x00-\x1f\x7f-\x9f\ud800-\udfff'  # in a Windows name, or in UTF-8
    "\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]"  # turn text around, break lines, take no room
)
_LONGEST = 200
"""Bytes of a folder's name: systems take 255, and suffixes are added."""
_BYTE = re.compile(r"[\udc80-\udcff]")  # of a name that is not UTF-8, as os.fsdecode gives it
_ESCAPE = re.compile(r"\\x[0-9a-f]{2}")
_WRITTEN = re.compile(r"\\\\|\\x([0-9a-f]{2})")  # a backslash, or a byte, in a path that `in_text` escapes
_RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", re.IGNORECASE)  # there, with any suffix
_OF_RESULTS = {
    *(".csv", ".geojson", ".html", ".json", ".jsonl", ".lock", ".md", ".nii.gz", ".npz", ".parquet", ".png", ".svg"),
    *(".tif", ".watch", ".zarr"),
}
"""Suffixes of files and folders of results, among which the folder of an image lies."""


def in_text(path: str | Path) -> str:
    r"""A path for JSON and a terminal: the bytes of a name that is not UTF-8 as \xNN; no two paths have one text.

    >>> print(in_text("Straße.png"), in_text(os.fsdecode(b"caf\xe9.png")))
    Straße.png caf\xe9.png
    """
    text = url_of(path)
    if os.name == "posix" and (_BYTE.search(text) or _ESCAPE.search(text)):
        text = text.replace("\\", "\\\\")
    return _BYTE.sub(lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", text)


def from_text(text: str) -> str:
    r"""The path that `in_text` wrote so.

    >>> from_text("Straße.png"), from_text(r"caf\xe9.png") == os.fsdecode(b"caf\xe9.png")
    ('Straße.png', True)
    """
    if os.name != "posix" or not _ESCAPE.search(text):
        return text
    return _WRITTEN.sub(lambda one: chr(0xDC00 + int(one[1], 16)) if one[1] else "\\", text)


def safe(relative: str) -> str:
    r"""The id of a file: its relative POSIX path without suffix, as `valid_id` makes it.

    >>> safe("../day 1/Straße:2.png"), safe("con.jpg"), safe("img.v1.png"), safe("scan.nii.gz")
    ('day 1/Straße_2', 'con_', 'img.v1', 'scan')
    """
    return valid_id(str(without_suffix(PurePath(relative))))


def given_id(id: str) -> str:
    """The id that a list gives, where it names an image file without that suffix.

    >>> given_id("img.v1"), given_id("patient.12"), given_id("day/a.PNG")
    ('img.v1', 'patient.12', 'day/a')
    """
    return safe(id) if suffix_of(id) in IMAGE_SUFFIXES else valid_id(id)


def valid_id(text: str) -> str:
    r"""A relative POSIX path that is valid on any system; letters of any script stay, other bytes become %NN.

    Its last part is not called as files of results may be: `a/raw`, `run.json`.

    >>> valid_id(os.fsdecode(b"caf\xe9")), valid_id("a/raw"), valid_id("run.json")
    ('caf%E9', 'a/raw_', 'run.json_')
    >>> valid_id("a\u202egnp"), len(valid_id("é" * 126).encode())
    ('a_gnp', 199)
    """
    path = PurePath(_BYTE.sub(lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", text))
    parts = [_ILLEGAL.sub("_", part).rstrip(". ") or "_" for part in path.parts if part not in {"..", path.anchor}]
    parts = [_RESERVED.sub(r"\1_\2", part) if _RESERVED.match(part) else part for part in parts]
    if parts and (suffix_of(parts[-1]) in _OF_RESULTS or (len(parts) > 1 and parts[-1].casefold() == "raw")):
        parts[-1] += "_"
    parts = [part if len(part.encode()) <= _LONGEST else _shortened(part) for part in parts]
    return "/".join(parts) or "_"


def _shortened(part: str) -> str:
    """The beginning of a long part of an id, and digits of its hash."""
    digits = hashlib.sha256(part.encode()).hexdigest()[:8]
    return f"{part.encode()[: _LONGEST - 9].decode(errors='ignore')}-{digits}"


def unique(ids: Iterable[str]) -> list[str]:
    """The second "a" becomes "a-2"; ids that differ in case alone are equal, as file names on Windows and macOS.

    >>> unique(["a", "A", "a-2", "b"])
    ['a', 'A-3', 'a-2', 'b']
    """
    wanted = list(ids)
    reserved = {folded(id) for id in wanted}
    given: set[str] = set()
    result = []
    for id in wanted:
        free = free_id(id, given, reserved)
        given.add(folded(free))
        result.append(free)
    return result


def wanted_id(id: str, name: str, ids: Collection[str]) -> str:
    """The id that a file wanted before `unique` gave it another; "" where it has it. ids: of all its run, folded.

    >>> wanted_id("day/a-2", "a.png", {"day/a", "day/a-2"}), wanted_id("a-2", "a.png", {"a-1", "a-2"})
    ('day/a', '')
    """
    wanted, _, number = id.rpartition("-")
    renamed = number.isdecimal() and folded(wanted) in ids and wanted.rpartition("/")[2] == safe(name)
    return wanted if renamed else ""


def free_id(id: str, given: Collection[str], reserved: Collection[str]) -> str:
    """The id, or the first of "id-2", "id-3", ... that is neither given nor reserved."""
    free, number = id, 1
    while folded(free) in given or (number > 1 and folded(free) in reserved):
        number += 1
        free = f"{id}-{number}"
    return free


def natural_order(id: str) -> tuple[str | int, ...]:
    """What sorts ids by the numbers in them: `frame10` after `frame2`.

    >>> sorted(["frame10", "frame2", "frame1b"], key=natural_order)
    ['frame1b', 'frame2', 'frame10']
    """
    parts = re.split(r"([0-9]+)", id)  # a text and a number by turns
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts))


def folded(id: str) -> str:
    return unicodedata.normalize("NFC", id).casefold()
