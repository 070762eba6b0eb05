"""How much memory the tensors of a pass take at once, counted allocation by allocation.

Must not know what the pass is for. What a call takes for itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segment.networks.preserve_state import preserve_state
from segment.tracing.sources import tensors_in


class Counted(TorchFunctionMode):
    """Counts the bytes of storages that torch calls inside give: alive now, and the most at once.

    No TorchDispatchMode, which would see what a call makes for itself too: it loads 150 MiB of torch.
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
        given = {_place(tensor) for tensor in tensors_in((args, kwargs or {}))}
        for tensor in tensors_in(result):
            place = _place(tensor)
            if tensor.device.type == "meta" or place in given or place in self._seen:
                continue  # a shape takes nothing
            holder = tensor if tensor.is_mkldnn else tensor.untyped_storage()
            size = tensor.numel() * tensor.element_size() if isinstance(holder, Tensor) else holder.nbytes()
            self._seen.add(place)
            self.alive += size
            self.peak = max(self.peak, self.alive)
            weakref.finalize(holder, self._freed, place, size)
        return result

    def _freed(self, place: int, size: int) -> None:
        self._seen.discard(place)
        self.alive -= size


def _place(tensor: Tensor) -> int:
    """What tells one piece of memory from another; weights that oneDNN has packed show no storage."""
    return id(tensor) if tensor.is_mkldnn else tensor.untyped_storage()._cdata


def ran_out_of_memory(error: Exception) -> bool:
    """Whether torch raised this because memory could not be had, on a CPU or a card."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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


PROBED = 256
"""Side of the piece of an image that is measured."""


def bytes_a_pixel(forward: Callable[[Tensor], Any], module: nn.Module, image: Tensor) -> float:
    """Most bytes alive at once in an eval pass of `forward`, which runs `module`, over an image's pixels (1 C H W).

    A piece of the image is measured, or all of it where the network does not take the piece: activations grow with the
    area, and what does not grow makes this err upwards.
    """
    device = next((tensor.device for tensor in module.parameters()), image.device)
    for piece in (image[..., :PROBED, :PROBED], image):
        try:
            with preserve_state(module):
                return peak_bytes(forward, piece.to(device)) / (piece.shape[-2] * piece.shape[-1])
        except Exception:  # whatever an unknown network raises at a size that it does not take
            if piece.shape == image.shape:
                raise
    raise AssertionError("the whole image was tried")
