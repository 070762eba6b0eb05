"""Text on a picture: measured, shortened to fit, drawn upright or rising.

Must not know the meaning of a text. The typefaces are the scalable ones inside OpenCV, the same on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np

from segment.pictures.palettes import Picture

REGULAR, BOLD = 400, 600
INK = (28, 30, 36)
PALE_INK = (110, 114, 124)


def width_of(text: str, size: int, weight: int = REGULAR) -> int:
    """Pixels from the first letter's left to the last one's right.

    >>> width_of("", 14), width_of("road", 14) < width_of("road", 28)
    (0, True)
    """
    if not text:
        return 0
    left, _, wide, _ = cv2.getTextSize((0, 0), text, (0, 0), cv2.FontFace("sans"), size, weight)
    return int(left + wide)


def shortened(text: str, size: int, width: int, weight: int = REGULAR) -> str:
    """The text, or its beginning and end around an ellipsis, so that it fits in `width` pixels.

    >>> shortened("city/0001TP_008550", 14, 90)
    'city/…08550'
    """
    kept, shown = len(text), text
    while kept > 1 and width_of(shown, size, weight) > width:
        kept -= 1
        shown = text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
    return shown


def wrapped(text: str, size: int, width: int, weight: int = REGULAR) -> list[str]:
    """The text in lines of at most `width` pixels, broken at spaces, or within a word that is too long for a line.

    >>> wrapped("the 8 most uncertain images", 14, 120)
    ['the 8 most', 'uncertain images']
    """
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(joined, size, weight) <= width:
            lines[-1] = joined
            continue
        while width_of(word, size, weight) > width and len(word) > 1:
            kept = next(
                end for end in range(len(word) - 1, 0, -1) if width_of(word[:end], size, weight) <= width or end == 1
            )
            lines.append(word[:kept])
            word = word[kept:]
        lines.append(word)
    return lines


def fitting(text: str, sizes: Iterable[int], width: int, weight: int = REGULAR) -> int:
    """The first of the sizes at which the text fits in `width` pixels, else the last."""
    size = 1
    for size in sizes:
        if width_of(text, size, weight) <= width:
            break
    return size


def write(
    picture: Picture,  # H W 3, drawn on
    text: str,
    x: int,
    y: int,
    *,
    size: int,
    weight: int = REGULAR,
    colour: tuple[int, int, int] = INK,
) -> None:
    """Draw the text in place, with its left end at x and its baseline on row y."""
    if text:
        cv2.putText(picture, text, (x, y), colour, cv2.FontFace("sans"), size, weight)


def rising(text: str, size: int, weight: int = REGULAR) -> Picture:
    """The text rotated to read from bottom to top, on a white strip of the length it needs."""
    strip = np.full((size + size // 2, width_of(text, size, weight) + 2, 3), 255, np.uint8)
    write(strip, text, 0, size + size // 8, size=size, weight=weight)
    return np.ascontiguousarray(np.rot90(strip))
