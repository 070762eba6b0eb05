"""Masks as run lengths, in the two codings that annotation tools read. Must not know what a mask shows.

Sources: COCO's `maskApi.c` (Lin, Dollár) for the first, thi.ng/rle-pack for the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BITS = (3, 4, 8, 16)
"""Bits of a run's length in the second coding: the shortest that fits is used."""


def coco_counts(mask: NDArray[np.bool_], left: int, top: int, shape: tuple[int, int]) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, down the columns of an H W image, beginning with 0.

    mask: the pixels of a box whose corner lies at (left, top)

    >>> coco_counts(np.array([[True], [True]]), 1, 0, (2, 3)), coco_counts(np.array([[False]]), 1, 0, (2, 3))
    ([2, 2, 2], [6])
    """
    columns, rows = np.nonzero(mask.T)
    counts = _runs_of((columns + left) * shape[0] + rows + top, shape[0] * shape[1])
    return counts if counts[-1] else counts[:-1]


def _runs_of(places: NDArray[np.int64], total: int) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, beginning with 0. places: of 1, ascending, in `total`."""
    starts = places[np.diff(places, prepend=-2) != 1]
    ends = places[np.diff(places, append=total + 1) != 1] + 1
    edges = np.stack([starts, ends], axis=1).reshape(-1)
    lengths: list[int] = np.diff(edges, prepend=0, append=total).tolist()
    return lengths


def coco_text(counts: Sequence[int]) -> str:
    """COCO's compressed string: each length less the one two before, 5 bits a letter.

    >>> coco_text([2, 2, 2])
    '222'
    """
    letters = []
    for index, count in enumerate(counts):
        rest = count - (counts[index - 2] if index > 2 else 0)
        more = True
        while more:
            bits, rest = rest & 0x1F, rest >> 5
            more = rest != (-1 if bits & 0x10 else 0)
            letters.append(chr((bits | (0x20 if more else 0)) + 48))
    return "".join(letters)


def brush(mask: NDArray[np.bool_], left: int, top: int, shape: tuple[int, int]) -> list[int]:
    """Label Studio's brush: the bytes of a packed H W 4 picture, 255 in the mask and 0 elsewhere, row by row."""
    rows, columns = np.nonzero(mask)
    total = shape[0] * shape[1]
    parts = [f"{4 * total:032b}", f"{7:05b}", *(f"{bits - 1:04b}" for bits in BITS)]
    for number, length in enumerate(_runs_of((rows + top) * shape[1] + columns + left, total)):
        parts += _packed(4 * length, 255 if number % 2 else 0)
    text = "".join(parts)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _packed(length: int, value: int) -> list[str]:
    """A run as flag, size of its length, length - 1, and value; a very long one in several."""
    codes = []
    while length > 0:
        part = min(length, 1 << BITS[-1])
        size = next(index for index, bits in enumerate(BITS) if part <= 1 << bits)
        codes.append(f"1{size:02b}{part - 1:0{BITS[size]}b}{value:08b}")
        length -= part
    return codes
