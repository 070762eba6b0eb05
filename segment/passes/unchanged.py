"""Whether tensors are as they were, however they were written to. Must not know what they are."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from segment.networks.preserve_state import version_of


class Unchanged:
    """Tensors with their versions, addresses and sums: `.data` and NumPy write without a new version.

    versions: False for buffers that a pass may write to, and that are given back after it
    """

    def __init__(self, tensors: Iterable[Tensor], *, versions: bool = True) -> None:
        self._tensors, self._versions = list(tensors), versions
        self._before = self._now()

    def _now(self) -> tuple[list[tuple[int | None, int]], Tensor]:
        with torch.no_grad():
            sums = torch.stack([torch.zeros(()), *(tensor.sum(dtype=torch.float32).cpu() for tensor in self._tensors)])
        marks = [(version_of(tensor) if self._versions else 0, tensor.data_ptr()) for tensor in self._tensors]
        return marks, sums

    def __bool__(self) -> bool:
        versions, sums = self._now()
        return versions == self._before[0] and torch.equal(sums, self._before[1])
