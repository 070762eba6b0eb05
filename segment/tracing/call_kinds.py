"""Which torch calls read only a tensor's metadata, and which give its values to Python.

Must not know a pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def names_in(text: str) -> frozenset[str]:
    """The words of a text, as a set."""
    return frozenset(text.split())


GIVES_VALUES = names_in(
    """
    __bool__ __int__ __float__ __complex__ __index__ __contains__ __array__ __dlpack__ item tolist numpy equal
    allclose is_nonzero __format__ __repr__ __str__ data_ptr storage untyped_storage
    """
)
"""Names of calls that give a tensor's values, or its memory, to Python."""

SHAPED_BY_VALUES = frozenset(("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount"))
"""Names of calls whose result has a shape that depends on values. So has an index of booleans."""

READS_METADATA = names_in(
    """
    __get__ __len__ dim ndimension size stride numel nelement element_size is_contiguous is_floating_point is_complex
    is_signed get_device storage_offset is_same_size result_type is_inference is_pinned is_conj is_neg has_names type
    is_sparse is_cuda
    """
)
"""Names of calls that read a tensor's shape, type or device, not its values."""


_ALIASES = tuple(getattr(Tensor, name).__get__ for name in ("data", "T", "mT", "H", "mH", "real", "imag"))
"""Attributes that are tensors with the same values."""


def reads_values(function: Callable[..., Any]) -> bool:
    """Whether a call may read a tensor's values, or gives a tensor that holds them."""
    return getattr(function, "__name__", "") not in READS_METADATA or function in _ALIASES


def call_gives_values(function: Callable[..., Any], tensors: Sequence[Tensor], result: Any) -> bool:
    """Whether a call gives values of its tensors to Python, as numbers or as the shape of a result."""
    name = getattr(function, "__name__", "")
    if name in READS_METADATA:
        return False
    indexed = name == "__getitem__" and any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])
    return indexed or name in GIVES_VALUES or name in SHAPED_BY_VALUES or _holds_numbers(result)


def _holds_numbers(value: Any) -> bool:
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return any(_holds_numbers(item) for item in value)
    return isinstance(value, bool | int | float | complex | np.ndarray | np.generic)
