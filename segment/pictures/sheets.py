"""A contact sheet of a run: a row of thumbnails for each image, below the class key and the heat map's legend.

Must not keep a full picture: a row holds thumbnails, so that memory grows with the number of rows only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from segment.errors import WrongUse
from segment.pictures.heatmaps import PAPER, Scale, level_legend
from segment.pictures.lettering import BOLD, INK, PALE_INK, shortened, width_of, write
from segment.pictures.palettes import Picture

HEIGHT, WIDEST = 120, 240
"""Pixels of a thumbnail: never higher, never wider."""

MARGIN, GAP, SMALL, PLAIN, LARGE = 32, 6, 12, 13, 24


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One image of a contact sheet.

    name: the image's id, shortened in the middle where it is too long
    pictures: column title -> thumbnail, the same titles in every row ("image", "prediction", "entropy", "overlay")
    note: a few words or numbers, "mean entropy 0.412"
    """

    name: str
    pictures: Mapping[str, Picture] = field(repr=False)
    note: str = ""


def thumbnail(picture: Picture, height: int = HEIGHT, widest: int = WIDEST) -> Picture:  # H W 3 -> H' W' 3
    """The whole picture, as large as fits; each side has at least 4 pixels, so that a 20000 x 20 picture stays visible.

    A small picture is enlarged by a whole factor, with pixels as squares: a 1 x 1 image is a square of its colour.

    >>> thumbnail(np.zeros((360, 480, 3), np.uint8)).shape, thumbnail(np.zeros((20, 20000, 3), np.uint8)).shape
    ((120, 160, 3), (4, 240, 3))
    """
    rows, columns = picture.shape[:2]
    scale = min(height / rows, widest / columns)
    if scale >= 1:
        return np.repeat(np.repeat(picture, int(scale), axis=0), int(scale), axis=1)
    size = (max(4, round(columns * scale)), max(4, round(rows * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def contact_sheet(
    rows: Sequence[SheetRow],
    *,
    title: str,
    subtitle: str = "",
    classes: Mapping[str, Sequence[int]] | None = None,
    scale: Scale | None = None,
    colours: str = "inferno",
    groups: int = 2,
) -> Picture:
    """Title, class key and legend, then the rows in reading order, `groups` of them side by side, on white.

    classes: name -> (red, green, blue)
    scale: of the heat maps, for the legend; None: no legend
    """
    if not rows:
        raise WrongUse("A contact sheet needs at least one image.")
    columns = list(rows[0].pictures)
    if not columns or any(list(row.pictures) != columns for row in rows):
        raise WrongUse("Every row of a contact sheet needs the same pictures, under the same titles.")
    groups = min(groups, len(rows))
    cell = max(48, *(picture.shape[1] for row in rows for picture in row.pictures.values()))
    tall = max(32, *(picture.shape[0] for row in rows for picture in row.pictures.values()))
    block = len(columns) * (cell + GAP) - GAP
    width = max(groups * (block + MARGIN) + MARGIN, 640)
    head = _head(width, title, subtitle, classes or {}, scale, colours)
    lines, step = -(-len(rows) // groups), tall + 2 * PLAIN + GAP
    body = np.full((2 * PLAIN + lines * step + MARGIN - PLAIN, width, 3), PAPER, np.uint8)
    for group in range(groups):
        left = MARGIN + group * (block + MARGIN)
        for place, name in enumerate(columns):
            x = left + place * (cell + GAP)
            write(body, shortened(name, PLAIN, cell, BOLD), x, PLAIN, size=PLAIN, weight=BOLD)
    for index, row in enumerate(rows):
        x, y = MARGIN + (index % groups) * (block + MARGIN), 2 * PLAIN - GAP // 2 + (index // groups) * step
        for place, picture in enumerate(row.pictures.values()):
            _centred(body[y : y + tall, x + place * (cell + GAP) :][:, :cell], picture)
        _caption(body, row, x, y + tall + round(1.3 * SMALL), block)
    return np.vstack([head, body])


def _caption(body: Picture, row: SheetRow, x: int, y: int, width: int) -> None:
    note = shortened(row.note, SMALL, width // 2)
    taken = width_of(note, SMALL)
    write(body, shortened(row.name, SMALL, width - taken - 2 * GAP), x, y, size=SMALL)
    write(body, note, x + width - taken, y, size=SMALL, colour=PALE_INK)


def _centred(cell: Picture, picture: Picture) -> None:
    y, x = (cell.shape[0] - picture.shape[0]) // 2, (cell.shape[1] - picture.shape[1]) // 2
    cell[:] = 244  # light grey shows the cell around a narrow picture
    cell[y : y + picture.shape[0], x : x + picture.shape[1]] = picture


def _head(
    width: int, title: str, subtitle: str, classes: Mapping[str, Sequence[int]], scale: Scale | None, colours: str
) -> Picture:
    """Title at the left, legend at the right, the class key below in as many lines as it needs."""
    inner = width - 2 * MARGIN
    bar = min(320, inner // 2) if scale else 0
    chips: list[tuple[int, int, str]] = []
    x, line, square = 0, 0, SMALL
    for name in classes:
        text = shortened(name, PLAIN, inner - 3 * square)
        need = square + GAP + width_of(text, PLAIN)
        if x and x + need > inner:
            x, line = 0, line + 1
        chips.append((x, line, text))
        x += need + 3 * GAP
    top = MARGIN + LARGE + (PLAIN + GAP if subtitle else 0)
    top = max(top, MARGIN + 4 * PLAIN if scale else 0) + PLAIN
    key = (line + 1) * 20 if chips else 0
    head = np.full((top + key + PLAIN, width, 3), PAPER, np.uint8)
    text_width = inner - bar - (MARGIN if scale else 0)
    write(head, shortened(title, LARGE, text_width, BOLD), MARGIN, MARGIN + 20, size=LARGE, weight=BOLD)
    write(
        head,
        shortened(subtitle, PLAIN, text_width),
        MARGIN,
        MARGIN + 20 + PLAIN + 2 * GAP - 2,
        size=PLAIN,
        colour=PALE_INK,
    )
    if scale:
        strip = level_legend(bar, scale, colours=colours, size=PLAIN)
        head[MARGIN : MARGIN + strip.shape[0], width - MARGIN - bar : width - MARGIN] = strip
    for (x, line, text), colour in zip(chips, classes.values(), strict=True):
        left, foot = MARGIN + x, top + 20 * line + square
        cv2.rectangle(head, (left, foot - square + 1), (left + square - 1, foot), tuple(map(int, colour)), -1)
        cv2.rectangle(head, (left, foot - square + 1), (left + square - 1, foot), INK, 1)
        write(head, text, left + square + GAP, foot, size=PLAIN)
    return head
