"""Where each tensor that a pass reads comes from: an earlier call, the image, a constant, or unknown.

Must not know what a call computes.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from segment.networks.modules import named_modules, parameters_and_buffers, version_of

IMAGE, CONSTANT, UNKNOWN = -1, -2, -3
"""Sources that are no earlier call: the image; a parameter, buffer or tensor attribute; a tensor of unknown origin."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested lists, tuples (torch's named results too), dicts, slices and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif value is None or isinstance(value, int | float | str):
        return
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, slice):
        yield from tensors_in((value.start, value.stop, value.step))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from tensors_in(vars(value) if hasattr(value, "__dict__") else ())


def constants_of(module: nn.Module) -> list[Tensor]:
    """Parameters, buffers, and the tensors that modules hold as plain attributes."""
    named = (item for _, part in named_modules(module) for item in vars(part).items())
    held = (value for name, value in named if name not in ("_parameters", "_buffers"))
    return [*parameters_and_buffers(module), *(tensor for value in held for tensor in _attribute_tensors(value))]


def _attribute_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor | list | tuple | dict):
        yield from tensors_in(value)


class Sources:
    """Which call last wrote each piece of memory of the running pass, and whether an unseen call has written it since.

    Memory is identified by its storage, which views share; a storage that was freed has a dead weak reference.
    """

    def __init__(self, constants: Iterable[Tensor]) -> None:
        self._registered = {id(tensor): tensor for tensor in constants}
        # a storage that is freed would leave its address to a result of the pass
        self._held = [tensor.untyped_storage() for tensor in self._registered.values() if memory_id(tensor)]
        registered = self._registered.values()
        self._constants = {memory: version_of(tensor) for tensor in registered if (memory := memory_id(tensor))}
        self._written: dict[int, tuple[weakref.ref[torch.UntypedStorage], int, int | None]] = {}

    def note(self, tensors: Iterable[Tensor], source: int) -> None:
        """Record the source of these tensors; views of constants stay constants unless they were written into."""
        for tensor in tensors:
            memory, version = memory_id(tensor), version_of(tensor)
            if memory is None or (memory in self._constants and self._constants[memory] == version):
                continue
            self._written[memory] = (weakref.ref(tensor.untyped_storage()), source, version)

    def of(self, tensor: Tensor) -> int:
        """The index of the call that last wrote a tensor, or IMAGE, CONSTANT, UNKNOWN."""
        memory = memory_id(tensor)
        if memory is None:
            return UNKNOWN
        last = self._written.get(memory)
        if last is not None and last[0]() is tensor.untyped_storage():
            return last[1] if last[2] == version_of(tensor) else UNKNOWN
        if memory in self._constants and self._constants[memory] == version_of(tensor):
            return CONSTANT
        return UNKNOWN

    def registered(self, tensor: Tensor) -> Tensor | None:
        """The tensor itself where it is a parameter, buffer or attribute, else None."""
        return self._registered.get(id(tensor))


def memory_id(tensor: Tensor) -> int | None:
    """An identifier of a tensor's memory; None where torch gives none (sparse, inside vmap)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None
