"""How much memory the tensors of a pass take at once, counted allocation by allocation.

Must not know what the pass is for. Memory that a call takes for its own work and frees again is not counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segment.networks.modules import parameters_and_buffers
from segment.networks.preserve_state import preserve_state
from segment.tracing.sources import memory_id, tensors_in


class MemoryCounter(TorchFunctionMode):
    """Counts the bytes of the storages that torch calls inside return: alive now, and the most at once.

    It is no TorchDispatchMode, which would count the work memory of calls too, because that loads 150 MiB of torch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.peak = 0
        self._seen: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        arguments = {_memory_id(tensor) for tensor in tensors_in((args, kwargs or {}))}
        for tensor in tensors_in(result):
            storage = _memory_id(tensor)
            if storage is None or tensor.device.type == "meta" or storage in arguments or storage in self._seen:
                continue  # a meta tensor has no memory
            holder = tensor if tensor.is_mkldnn else tensor.untyped_storage()
            size = tensor.numel() * tensor.element_size() if isinstance(holder, Tensor) else holder.nbytes()
            self._seen.add(storage)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(holder, self._freed, storage, size)
        return result

    def _freed(self, storage: int, size: int) -> None:
        self._seen.discard(storage)
        self.alive -= size


def _memory_id(tensor: Tensor) -> int | None:
    """The `memory_id` of any tensor; weights that oneDNN has packed have no storage, and are their own memory."""
    return id(tensor) if tensor.is_mkldnn else memory_id(tensor)


def peak_bytes(forward: Callable[[Tensor], Any], images: Tensor) -> int:
    """Most bytes of tensors alive at once in one pass over images (N C H W), these not counted."""
    with torch.no_grad(), MemoryCounter() as counter:
        forward(images)
    return counter.peak


PROBED = 256
"""Rows and columns of the part of an image that is measured."""


def bytes_a_pixel(forward: Callable[[Tensor], Any], module: nn.Module, image: Tensor) -> float:
    """Most bytes alive at once in an eval pass of `forward`, which runs `module`, over an image's pixels (1 C H W).

    A part of the image is measured, or all of it where the network does not accept the part: activations grow with the
    area, and what does not grow makes the figure too large.
    """
    device = next(parameters_and_buffers(module), image).device
    for part in (image[..., :PROBED, :PROBED], image):
        try:
            with preserve_state(module):
                return peak_bytes(forward, part.to(device, copy=True)) / (part.shape[-2] * part.shape[-1])
        except Exception:  # whatever an unknown network raises at a size that it does not accept
            if part.shape == image.shape:
                raise
    raise AssertionError("the whole image was tried")
