"""The letters of the axes, and what a head's channels mean; checked once, where arrays enter.

N images, C channels, H rows, W columns, K classes, T draws, M images in one statistics mini-batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

Head = Literal["softmax", "sigmoid", "multilabel"]
"""softmax: K >= 2 channels, one class a pixel; sigmoid: 1 channel, two classes; multilabel: K labels, each its own."""

HEADS: tuple[Head, ...] = ("softmax", "sigmoid", "multilabel")


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
