"""The boxes that a JPEG 2000 file consists of (ISO/IEC 15444-1, annex I, and 15444-2, annex M).

Must not know what the pixels are, nor who decodes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from segment.errors import ImageUnreadable

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
OF_BOXES = (b"jp2h", b"asoc", b"uinf", b"res ", b"jpch", b"jplh", b"ftbl", b"cgrp")
"""Boxes that hold boxes."""
DEEPEST = 16


def check_boxes(path: Path) -> None:
    """Refuse a JPEG 2000 file whose boxes do not fit into each other: GDAL never ends at some.

    Any other file passes. Errors: ImageUnreadable; OSError.
    """
    with path.open("rb") as stream:
        if stream.read(len(SIGNATURE)) == SIGNATURE and (why := _wrong(stream, 0, path.stat().st_size, 0)):
            raise ImageUnreadable(f"{str(path)!r} is a damaged JPEG 2000 file: {why}. Replace or remove it.")


def _wrong(stream: BinaryIO, place: int, end: int, depth: int) -> str:
    """What is wrong with the boxes between two places of a file; "" where nothing is."""
    if depth > DEEPEST:
        return "its boxes are nested too deep"
    while place + 8 <= end:
        stream.seek(place)
        length, kind, head = int.from_bytes(stream.read(4), "big"), stream.read(4), 8
        if length == 1:  # of more than 4 GiB: its length follows
            length, head = int.from_bytes(stream.read(8), "big"), 16
        if length == 0 and depth == 0:  # the last one, to the end of the file
            length = end - place
        if not head <= length <= end - place:
            return f"a box at byte {place} says that it has {length} bytes"
        if kind in OF_BOXES and (why := _wrong(stream, place + head, place + length, depth + 1)):
            return why
        place += length
    return ""
