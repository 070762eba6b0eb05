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

    Memory is identified by its storage, which views share; a storage that was freed has a dead weak reference. A view
    of a constant is known by its object too: which part of the constant it is, as in `table[k]`, may depend on more.
    """

    def __init__(self, constants: Iterable[Tensor]) -> None:
        self._registered = {id(tensor): tensor for tensor in constants}
        # a storage that is freed would leave its address to a result of the pass
        self._held = [tensor.untyped_storage() for tensor in self._registered.values() if memory_id(tensor)]
        registered = self._registered.values()
        self._constants = {memory: version_of(tensor) for tensor in registered if (memory := memory_id(tensor))}
        self._written: dict[int, tuple[weakref.ref[torch.UntypedStorage], int, int | None]] = {}
        self._views: dict[int, tuple[Tensor, int, int | None]] = {}  # of constants; kept, so that no id comes again
        self._chosen: set[int | None] = set()  # memory of constants of which a view depends on other tensors

    def note(self, tensors: Iterable[Tensor], source: int, reads: Iterable[int] = ()) -> None:
        """Record the source of these tensors, the results of a call that reads these sources.

        A view of a constant that was not written into is a constant too, where its call reads constants only.
        """
        chosen = any(each != CONSTANT for each in reads)
        for tensor in tensors:
            memory, version = memory_id(tensor), version_of(tensor)
            if memory is None:
                continue
            if memory not in self._constants or self._constants[memory] != version:
                self._written[memory] = (weakref.ref(tensor.untyped_storage()), source, version)
            elif id(tensor) not in self._registered:
                self._views[id(tensor)] = (tensor, source if chosen else CONSTANT, version)
                self._chosen.update((memory,) if chosen else ())

    def of(self, tensor: Tensor) -> int:
        """The index of the call that last wrote a tensor, or IMAGE, CONSTANT, UNKNOWN."""
        view = self._views.get(id(tensor))
        if view is not None and view[2] == version_of(tensor):
            return view[1]
        source = self.of_memory(tensor)
        if source == CONSTANT and id(tensor) not in self._registered and memory_id(tensor) in self._chosen:
            return UNKNOWN  # no call made this view
        return source

    def of_memory(self, tensor: Tensor) -> int:
        """As `of`, of the memory that a tensor lies in, whatever part of it the tensor is."""
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
