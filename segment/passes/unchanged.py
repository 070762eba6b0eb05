"""Whether tensors are as they were, however they were written to. Must not know what they are."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from segment.networks.modules import checksums, version_of


class Unchanged:
    """Tensors with their versions, addresses and checksums: `.data` and NumPy write without a new version.

    versions: False for buffers that a pass may write to, and that are given back after it
    """

    def __init__(self, tensors: Iterable[Tensor], *, versions: bool = True) -> None:
        self._tensors, self._versions = list(tensors), versions
        self._before = self._now()

    def _now(self) -> tuple[list[tuple[int | None, int]], list[float]]:
        marks = [(version_of(tensor) if self._versions else 0, tensor.data_ptr()) for tensor in self._tensors]
        return marks, checksums(self._tensors)

    def __bool__(self) -> bool:
        return self._now() == self._before
