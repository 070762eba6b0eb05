"""How a mask keeps its class indices: their type, and the index of a pixel that has no class.

Must not know a file.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse

LARGEST = 2**16 - 1
"""The largest index that is kept."""


def index_type(count: int) -> np.dtype[Any]:
    """The smallest type of the indices 0..count - 1. Errors: WrongUse above 16 bits.

    >>> index_type(256), index_type(257)
    (dtype('uint8'), dtype('uint16'))
    """
    if count > LARGEST + 1:
        raise WrongUse(
            f"Class indices up to {count - 1} do not fit in 16 bits; a mask has at most {LARGEST} classes, "
            "and one index for pixels that have none."
        )
    return np.dtype(np.uint8 if count <= 256 else np.uint16)


def mask_type(classes: int) -> np.dtype[Any]:
    """The type of a mask of `classes` classes, which always has room for `no_class`. Errors: WrongUse above 65535.

    >>> mask_type(255), mask_type(256)
    (dtype('uint8'), dtype('uint16'))
    """
    return index_type(classes + 1)


def no_class(classes: int) -> int:
    """The index of a pixel without data in a mask of `classes` classes: the largest of its type, never a class.

    >>> no_class(255), no_class(256)
    (255, 65535)
    """
    return int(np.iinfo(mask_type(classes)).max)


def likeliest_label(
    claimed: NDArray[np.bool_], probability: NDArray[Any] | None = None
) -> NDArray[np.int64]:  # K H W, K H W -> H W
    """One mask of a multi-label head: the likeliest label that is set in a pixel, K where none is.

    probability: the mean probability, within [0, 1]; None: the first label that is set stands for the likeliest

    >>> claimed, p = np.array([[[True, False]], [[True, False]]]), np.array([[[0.6, 0.1]], [[0.9, 0.3]]])
    >>> likeliest_label(claimed, p), likeliest_label(claimed)
    (array([[1, 2]]), array([[0, 2]]))
    """
    likely = claimed if probability is None else probability
    return np.where(claimed.any(axis=0), likely.argmax(axis=0), len(claimed))
