"""A contact sheet of a run: a row of thumbnails for each image, below the class key and the heat maps' legends.

Must not keep a full picture: a row holds thumbnails, so that memory grows with the number of rows only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import cv2
import numpy as np

from segment.errors import WrongUse
from segment.pictures.heatmaps import PAPER, Scale, level_legend
from segment.pictures.lettering import BOLD, INK, PALE_INK, fitting, shortened, width_of, wrapped, write
from segment.pictures.palettes import Picture

MARGIN, GAP, SMALL, PLAIN, LARGE = 32, 6, 12, 13, 24
LINE = 19
"""Pixels from one line of plain text to the next."""

NARROWEST = 640
"""Pixels of a sheet's width, at least: room for its title."""

LONE = 4
"""Columns of a sheet of one image, at most: the others stand below, so that they may be large."""

ONE_GROUP = 700
"""Pixels of a row of pictures above which rows stand below each other only."""

BAR = 240
"""Pixels of a legend's length."""


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One image of a contact sheet.

    name: the image's id, shortened in the middle where it is too long
    pictures: column title -> thumbnail, the same titles in every row ("image", "prediction", "variance", "overlay")
    note: a few words or numbers, "mean entropy 0.412"
    section: the heading of the rows that it belongs to; rows of a section follow each other
    """

    name: str
    pictures: Mapping[str, Picture] = field(repr=False)
    note: str = ""
    section: str = ""


def contact_sheet(
    rows: Sequence[SheetRow],
    *,
    title: str,
    subtitle: str = "",
    classes: Mapping[str, Sequence[int]] | None = None,
    scales: Sequence[Scale] = (),
) -> Picture:
    """Title, legends and class key, then each section's rows in reading order, on white.

    No heading is cut: columns are as wide as their titles, and long titles go on in another line.

    classes: name -> (red, green, blue)
    scales: of the heat maps, for a legend each
    """
    if not rows:
        raise WrongUse("A contact sheet needs at least one image.")
    columns = list(rows[0].pictures)
    if not columns or any(list(row.pictures) != columns for row in rows):
        raise WrongUse("Every row of a contact sheet needs the same pictures, under the same titles.")
    cell = max(
        48,
        *(picture.shape[1] for row in rows for picture in row.pictures.values()),
        *(width_of(name, PLAIN, BOLD) + GAP for name in columns),
    )
    across = -(-len(columns) // -(-len(columns) // LONE)) if len(rows) == 1 else len(columns)  # lines of one length
    block = across * (cell + GAP) - GAP
    groups = min(2 if block <= ONE_GROUP else 1, len(rows))
    width = max(groups * (block + MARGIN) + MARGIN, NARROWEST)
    parts = [_head(width, title, subtitle, scales), _key(width, classes or {})]
    if len(rows) == 1:
        parts += [_section([row], rows[0].section, width, cell, 1, titles=True) for row in _lines_of(rows[0], across)]
    else:
        for number, (section, of_section) in enumerate(groupby(rows, key=lambda row: row.section)):
            parts.append(_section(list(of_section), section, width, cell, groups, titles=number == 0 or bool(section)))
    return np.vstack([*parts, _paper(MARGIN - 2 * GAP, width)])


def legend_sheet(title: str, subtitle: str, classes: Mapping[str, Sequence[int]], scales: Sequence[Scale]) -> Picture:
    """The head of a contact sheet alone: the legends and the class key."""
    return np.vstack([_head(NARROWEST, title, subtitle, scales), _key(NARROWEST, classes)])


def _lines_of(row: SheetRow, across: int) -> Iterator[SheetRow]:
    """One image's pictures in lines of `across`; its name stands under the last."""
    pictures = list(row.pictures.items())
    for start in range(0, len(pictures), across):
        last = start + across >= len(pictures)
        some = dict(pictures[start : start + across])
        yield SheetRow(name=row.name if last else "", pictures=some, note=row.note if last else "", section=row.section)


def _paper(height: int, width: int) -> Picture:
    return np.full((height, width, 3), PAPER, np.uint8)


def _section(rows: Sequence[SheetRow], heading: str, width: int, cell: int, groups: int, *, titles: bool) -> Picture:
    columns = list(rows[0].pictures)
    tall = max(32, *(picture.shape[0] for row in rows for picture in row.pictures.values()))
    block = len(columns) * (cell + GAP) - GAP
    lines, step = -(-len(rows) // groups), tall + 2 * PLAIN + GAP
    parts = [_lines(wrapped(heading, PLAIN + 2, width - 2 * MARGIN, BOLD), width, PLAIN + 2)] if heading else []
    body = _paper((2 * PLAIN if titles else 0) + lines * step + GAP, width)
    top = 2 * PLAIN - GAP // 2 if titles else 0
    for group in range(min(groups, len(rows)) if titles else 0):
        for place, name in enumerate(columns):
            x = MARGIN + group * (block + MARGIN) + place * (cell + GAP)
            write(body, name, x, PLAIN, size=PLAIN, weight=BOLD)
    for index, row in enumerate(rows):
        x, y = MARGIN + (index % groups) * (block + MARGIN), top + (index // groups) * step
        for place, picture in enumerate(row.pictures.values()):
            _centred(body[y : y + tall, x + place * (cell + GAP) :][:, :cell], picture)
        _caption(body, row, x, y + tall + round(1.3 * SMALL), block)
    return np.vstack([*parts, body])


def _lines(texts: Sequence[str], width: int, size: int) -> Picture:
    """Bold headings with space above."""
    strip = _paper(len(texts) * (size + GAP) + 2 * GAP, width)
    for line, text in enumerate(texts):
        write(strip, text, MARGIN, (line + 1) * (size + GAP), size=size, weight=BOLD)
    return strip


def _caption(body: Picture, row: SheetRow, x: int, y: int, width: int) -> None:
    note = shortened(row.note, SMALL, width // 2)
    taken = width_of(note, SMALL)
    write(body, shortened(row.name, SMALL, width - taken - 2 * GAP), x, y, size=SMALL)
    write(body, note, x + width - taken, y, size=SMALL, colour=PALE_INK)


def _centred(cell: Picture, picture: Picture) -> None:
    y, x = (cell.shape[0] - picture.shape[0]) // 2, (cell.shape[1] - picture.shape[1]) // 2
    cell[:] = 244  # light grey shows the cell around a narrow picture
    cell[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


def _head(width: int, title: str, subtitle: str, scales: Sequence[Scale]) -> Picture:
    """Title, as large as fits; the subtitle in as many lines as it needs; legends side by side."""
    inner = width - 2 * MARGIN
    size = fitting(title, range(LARGE, PLAIN, -1), inner, BOLD)
    titles, texts = wrapped(title, size, inner, BOLD), wrapped(subtitle, PLAIN, inner)
    fit = max(1, (inner + MARGIN) // (BAR + MARGIN))
    bars = [level_legend(min(BAR, inner), scale, size=PLAIN) for scale in scales]
    high = max((bar.shape[0] for bar in bars), default=0)
    lines = -(-len(bars) // fit)
    top = MARGIN + len(titles) * (size + GAP) + len(texts) * LINE + 2 * GAP
    head = _paper(top + lines * (high + GAP) + 2 * GAP, width)
    y = MARGIN - GAP
    for text in titles:
        y += size + GAP
        write(head, text, MARGIN, y, size=size, weight=BOLD)
    for text in texts:
        y += LINE
        write(head, text, MARGIN, y, size=PLAIN, colour=PALE_INK)
    for index, bar in enumerate(bars):
        x, y = MARGIN + (index % fit) * (BAR + MARGIN), top + (index // fit) * (high + GAP)
        head[y : y + bar.shape[0], x : x + bar.shape[1]] = bar
    return head


def _key(width: int, classes: Mapping[str, Sequence[int]]) -> Picture:
    """The names of the classes beside their colours, in as many lines as they need."""
    square, inner = SMALL, width - 2 * MARGIN
    chips = list(_flowed(classes, inner, square))
    key = _paper((chips[-1][1] + 1) * LINE + PLAIN if chips else GAP, width)
    for (x, line, text), colour in zip(chips, classes.values(), strict=True):
        left, foot = MARGIN + x, LINE * line + square
        cv2.rectangle(key, (left, foot - square + 1), (left + square - 1, foot), tuple(map(int, colour)), -1)
        cv2.rectangle(key, (left, foot - square + 1), (left + square - 1, foot), INK, 1)
        write(key, text, left + square + GAP, foot, size=PLAIN)
    return key


def _flowed(names: Iterable[str], inner: int, square: int) -> Iterable[tuple[int, int, str]]:
    """Where each name stands: x, line, and the name, shortened only where a whole line is too short for it."""
    x, line = 0, 0
    for name in names:
        text = shortened(name, PLAIN, inner - 3 * square)
        need = square + GAP + width_of(text, PLAIN)
        if x and x + need > inner:
            x, line = 0, line + 1
        yield x, line, text
        x += need + 3 * GAP
