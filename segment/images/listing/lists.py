"""Text, CSV, TSV and Parquet lists → rows of an image, and its label map, id and region mask where the list has them.

Must not know what a file holds.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from segment.errors import WrongUse, imported, near, one_line
from segment.images.formats.kinds import IMAGE_SUFFIXES, suffix_of
from segment.images.listing.ids import from_text
from segment.stores.copies import here
from segment.stores.urls import beside, is_url, url_of

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".parquet")

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "source", "path", "file", "filename"),
    "label": ("label",),
    "id": ("id",),
    "mask": ("mask",),
    "axis": ("axis",),
}
"""What a row holds, and the headings that it is looked for under; `segment select` writes `id`, `source` and `axis`."""


@dataclass(frozen=True)
class ListLine:
    """One line of a list. id: as written; "": none. more: cells of the other columns, by their headings.

    axis: that slices of the file lie along; None: as the listing says
    version: of the image on its store, where a listing has told it
    """

    image: Path
    label: Path | None = None
    id: str = ""
    mask: Path | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    version: str = ""
    axis: int | None = None


def read_list(path: Path) -> list[ListLine]:
    """The rows of a list, in its order; paths are relative to its folder, else to the working folder.

    Errors: WrongUse for a list that is not readable, names no image, or whose images are all missing.
    """
    suffix = path.suffix.lower()
    with _here(path) as copy:
        if suffix == ".txt":
            rows = _of_text(path, _text(copy))
        else:
            table = _parquet(copy) if suffix == ".parquet" else _separated(path, _text(copy), suffix)
            rows = _of_table(path, table)
    if not rows:
        raise WrongUse(f"The list {str(path)!r} names no image. Write one on each line, relative to the list's folder.")
    if not any(is_url(row.image) or _is_there(row.image) for row in rows):
        raise WrongUse(
            f"None of the {len(rows)} images in the list {str(path)!r} is there, first {str(rows[0].image)!r}. "
            "Paths are relative to the list's folder, else to the working folder."
        )
    return rows


@contextmanager
def _here(path: Path) -> Iterator[Path]:
    try:
        with here(path) as copy:
            yield copy
    except OSError as error:
        raise WrongUse(f"The list {url_of(path)!r} is not readable: {error.strerror or error}.") from None


def _of_table(path: Path, table: Sequence[Mapping[str, str]]) -> list[ListLine]:
    if not table:
        return []
    headings = {heading.strip().lower(): heading for heading in table[0]}
    named = {key: next((headings[name] for name in names if name in headings), None) for key, names in COLUMNS.items()}
    if named["image"] is None:
        close = near("image", headings)
        raise WrongUse(
            f"The list {str(path)!r} has no column `image`.{close} It has {', '.join(table[0]) or 'none'}. Known: "
            "image (or source, path, file), label, id, mask, axis."
        )
    rows = []
    others = [heading for heading in table[0] if heading not in named.values()]
    for number, line in enumerate(table, start=2):
        cells = {key: (line.get(name) or "").strip() if name is not None else "" for key, name in named.items()}
        if not any(value for value in cells.values()):
            continue
        if not cells["image"]:
            raise WrongUse(f"Line {number} of the list {str(path)!r} names no image.")
        rows.append(
            ListLine(
                _beside(path, cells["image"]),
                _beside(path, cells["label"]) if cells["label"] else None,
                cells["id"],
                _beside(path, cells["mask"]) if cells["mask"] else None,
                {heading: line[heading].strip() for heading in others},
                axis=_axis(cells["axis"], f"Line {number} of the list {str(path)!r}"),
            )
        )
    return rows


def _axis(cell: str, where: str) -> int | None:
    if cell not in ("", "0", "1", "2"):
        raise WrongUse(f"{where} has axis {cell!r}: slices of a volume lie along axis 0, 1 or 2 of its voxels.")
    return int(cell) if cell else None


def _beside(path: Path, name: str) -> Path:
    """Relative to the list's folder; to the working folder where only that is there, as `segment select` writes it.

    A name that is not UTF-8 may be written as `in_text` writes it.
    """
    there, named = beside(path.parent, name), from_text(name)
    if is_url(there) or _is_there(there):
        return there
    return next(filter(_is_there, (Path(name), beside(path.parent, named), Path(named))), there)


def _is_there(path: Path) -> bool:
    """Also of a text that no system takes as a path; a URL is not asked for."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises for a name that is too long


def _separated(path: Path, text: str, suffix: str) -> list[dict[str, str]]:
    first = text.partition("\n")[0]
    delimiter = "\t" if suffix == ".tsv" or "\t" in first else ";" if first.count(";") > first.count(",") else ","
    try:
        lines = [line for line in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(line)]
    except csv.Error as error:
        raise WrongUse(f"The list {str(path)!r} is not readable as {suffix[1:].upper()}: {error}.") from None
    if not lines:
        return []
    if _is_image(_beside(path, lines[0][0].strip())):  # there is no line of headings
        lines.insert(0, ["image", "label"][: len(lines[0])])
    if uneven := next((number for number, line in enumerate(lines, 1) if len(line) != len(lines[0])), 0):
        raise WrongUse(
            f"Line {uneven} of the list {str(path)!r} has {len(lines[uneven - 1])} cells, not {len(lines[0])}."
        )
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def _is_image(path: Path) -> bool:
    """Whether a cell names an image; a URL is not asked for."""
    return suffix_of(path) in IMAGE_SUFFIXES if is_url(path) else os.path.isfile(path)  # noqa: PTH113 - as above


def _parquet(path: Path) -> list[dict[str, str]]:
    parquet = imported("pyarrow.parquet", extra="tables", what="Parquet lists")
    try:
        columns = parquet.read_schema(path).names
        wanted = [name for name in columns if any(name.lower() in names for names in COLUMNS.values())]
        table = parquet.read_table(path, columns=wanted or columns[:5]).to_pylist()
    except Exception as error:  # Arrow raises of many classes
        raise WrongUse(f"The list {str(path)!r} is not readable as Parquet: {one_line(error, 200)}.") from None
    return [{key: "" if value is None else str(value) for key, value in row.items()} for row in table]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"The list {str(path)!r} is not readable: {error}. Save it as UTF-8 text.") from None


def _of_text(path: Path, text: str) -> list[ListLine]:
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = _fields(line.strip(), path)
        if len(fields) > 2:
            raise WrongUse(
                f"Line {number} of the list {str(path)!r} has {len(fields)} fields. Write an image, or an image and "
                "its label map with a tab between them."
            )
        image, label = fields[0], fields[1] if len(fields) > 1 else None
        rows.append(ListLine(_beside(path, image), None if label is None else _beside(path, label)))
    return rows


def _fields(line: str, path: Path) -> list[str]:
    """Split at a tab; else keep a line that is a file; else split where both parts are files; else at white space."""
    if "\t" in line:
        return [field.strip() for field in line.split("\t") if field.strip()]
    if len(line.split()) == 1 or _is_there(_beside(path, line)):
        return [line]
    for gap in re.finditer(r"\s+", line):
        image, label = line[: gap.start()], line[gap.end() :]
        if _is_there(_beside(path, image)) and _is_there(_beside(path, label)):
            return [image, label]
    return line.split()
