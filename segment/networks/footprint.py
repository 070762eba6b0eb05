"""How much memory the tensors of a pass take at once, counted allocation by allocation.

Must not know what the pass is for. Kernels' own scratch space is not seen; a meta tensor takes nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from segment.networks.tracing import tensors_in


class Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its __init_subclass__ untyped
    """Counts the bytes of storages made inside: alive now, and the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # untyped in torch too
        self.alive = 0
        self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs or {}))}
        for tensor in tensors_in(result):
            storage = tensor.untyped_storage()
            if tensor.device.type != "meta" and storage._cdata not in given and storage not in self._seen:
                self._seen.add(storage)
                self.alive += storage.nbytes()
                self.peak = max(self.peak, self.alive)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return result

    def _freed(self, size: int) -> None:
        self.alive -= size


@contextmanager
def counted() -> Iterator[Counted]:
    """Count the tensors made in this block."""
    with Counted() as counter:
        yield counter


def peak_bytes(forward: Callable[[Tensor], Any], images: Tensor) -> int:
    """Most bytes of tensors alive at once in one pass over images (N C H W), their own not counted."""
    with torch.no_grad(), counted() as counter:
        forward(images)
    return counter.peak
