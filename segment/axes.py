"""The letters of the axes, and what a head's channels mean; checked once, where arrays enter.

N images, C channels, H rows, W columns, K classes, T draws, M images in one statistics mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Head = Literal["softmax", "sigmoid", "multilabel"]
"""softmax: K >= 2 channels, one class a pixel; sigmoid: 1 channel, two classes; multilabel: K labels, each its own."""

HEADS: tuple[Head, ...] = ("softmax", "sigmoid", "multilabel")

ROWS, PIXELS = 256, 2**20
"""The most rows and pixels of an image or a map that are in work at a time, so that a large one is not copied whole."""


class Plane(Protocol):
    """An array (... H W), or a picture (H W 3), of any size, in memory or not: what reads it asks for some rows.

    [rows] of an H W or H W 3, [k] of a K H W for one of its planes, [..., rows, columns] of any map; as NumPy's.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, window: Any, /) -> Any: ...


class WritablePlane(Plane, Protocol):
    """A plane that is written a window at a time: [..., rows, columns], or [planes, rows, columns] of a K H W."""

    def __setitem__(self, window: Any, values: Any, /) -> None: ...


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """The rows of an array of that shape (H W or H W 3) in order, a strip of at most `ROWS` and `PIXELS` at a time.

    >>> [(rows.start, rows.stop) for rows in strips((300, 8))]
    [(0, 256), (256, 300)]
    """
    step = max(1, min(ROWS, PIXELS // max(1, shape[1])))
    for start in range(0, shape[0], step):
        yield slice(start, min(shape[0], start + step))


def size_text(shape: Iterable[int]) -> str:
    """A size as it is written for a reader.

    >>> size_text((360, 480))
    '360x480'
    """
    return "x".join(map(str, shape))


def size_in(text: str) -> tuple[int, int] | None:
    """H and W of a size that a reader wrote, each from 1 up; None where it is none.

    >>> size_in("360x480"), size_in("512 X 1024"), size_in("0x10"), size_in("360")
    ((360, 480), (512, 1024), None, None)
    """
    sides = [side.strip() for side in text.lower().split("x")]
    if len(sides) != 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        return None
    return int(sides[0]), int(sides[1])


def classes_of(head: Head, outputs: int) -> int:
    """K, the number of probabilities a pixel gets from that many logits.

    >>> classes_of("sigmoid", 1), classes_of("softmax", 11), classes_of("multilabel", 3)
    (2, 11, 3)
    """
    return 2 if head == "sigmoid" else outputs
