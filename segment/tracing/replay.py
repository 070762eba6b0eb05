"""Recorded calls of one pass, made again on other values without the network's own code.

A pass of a network is some hundred torch calls. Results that do not depend on the draw are kept in the recording. Must
not know what a call does under a draw: the caller of `run` makes each call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from segment.tracing.call_kinds import READS_METADATA
from segment.tracing.sources import memory_id, tensors_in

MakeCall = Callable[[int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""Makes call number i of the trace: number, function, arguments, named arguments -> its result."""


def reads_metadata(function: Callable[..., Any], result: Any) -> bool:
    """Whether a call only read a tensor's shape, type or device: it need not be recorded."""
    return getattr(function, "__name__", "") in READS_METADATA and not any(True for _ in tensors_in(result))


class OtherShapes(Exception):
    """A call gave another shape than when it was recorded, so the network might make other calls."""


class NotReplayable(BaseException):
    """A call reads a recorded tensor in a form that cannot be replaced; no Exception, for a network may catch those."""


@dataclass(frozen=True)
class _Slot:
    """The place of the tensor of that number in recorded arguments."""

    number: int


@dataclass(frozen=True)
class _Nested:
    """A list, tuple, dict or slice that holds slots; kind: makes it of its items."""

    kind: Callable[[list[Any]], Any]
    items: tuple[Any, ...]


@dataclass
class _Step:
    """A call; first: number of its result's first tensor; shapes: of all; last_use: what no later step reads."""

    index: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    first: int
    shapes: tuple[torch.Size, ...]
    last_use: tuple[int, ...] = ()


class Recording:
    """`add` each call that depends on the draw, in order, then `finish`; then `run`, once a draw.

    Tensors that no recorded call has made are kept as they are.
    calls: the indices of the recorded calls in the trace
    """

    def __init__(self, images: Tensor | None = None) -> None:
        """images: the input of the pass, tensor number 0, where it changes from run to run."""
        self.calls: list[int] = []
        self._steps: list[_Step] = []
        self._numbers: Any = WeakIdKeyDictionary()  # tensor -> number, as long as it lives
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}  # of the numbered tensors
        self._count = 0
        self._output: Any = None
        if images is not None:
            self._number(images)

    def add(self, index: int, function: Callable[..., Any], arguments: Any, named: Any, result: Any) -> None:
        positional = tuple(self._slotted(value) for value in arguments)
        by_name = {name: self._slotted(value) for name, value in named.items()}
        results = list(tensors_in(result))
        shapes = tuple(tensor.shape for tensor in results)
        self.calls.append(index)
        self._steps.append(_Step(index, function, positional, by_name, self._count, shapes))
        for tensor in results:
            self._number(tensor)

    def _number(self, tensor: Tensor) -> None:
        self._numbers[tensor] = self._count
        self._count += 1
        if (memory := memory_id(tensor)) is not None:
            self._storages[memory] = weakref.ref(tensor.untyped_storage())

    def _is_alias(self, tensor: Tensor) -> bool:
        """Whether a tensor without a number lies in the memory of one that has one: no recorded call made it."""
        memory = memory_id(tensor)
        storage = self._storages.get(-1 if memory is None else memory)
        return storage is not None and storage() is tensor.untyped_storage()

    def finish(self, output: Tensor | None) -> bool:
        """Whether the whole pass that ended in this output can be run again; output None: parts of it only are run."""
        self._output = self._slotted(output)
        read = set(_slots(self._output))
        for step in reversed(self._steps):
            own = range(step.first, step.first + len(step.shapes))
            used = {*_slots((*step.arguments, *step.named.values())), *own}
            step.last_use = tuple(used - read)
            read |= used
        self._numbers, self._storages = WeakIdKeyDictionary(), {}
        return isinstance(self._output, _Slot)

    def run(self, make: MakeCall) -> Tensor:
        """The output of the pass, each call made by `make`. Errors: OtherShapes."""
        made: dict[int, Tensor] = {}
        self.advance(make, made, 0, len(self._steps))
        output = _filled(self._output, made)
        assert isinstance(output, Tensor)
        return output

    def advance(self, make: MakeCall, made: dict[int, Tensor], start: int, stop: int) -> None:
        """Make the recorded calls number start to stop - 1; `made`: number -> tensor, read and added to.

        Errors: OtherShapes.
        """
        for step in self._steps[start:stop]:
            arguments = tuple([_filled(value, made) for value in step.arguments])
            named = {name: _filled(value, made) for name, value in step.named.items()} if step.named else {}
            result = make(step.index, step.function, arguments, named)
            shapes = step.shapes
            if isinstance(result, Tensor):
                if len(shapes) != 1 or result.shape != shapes[0]:
                    raise OtherShapes
                made[step.first] = result
            else:
                tensors = list(tensors_in(result))
                if tuple(tensor.shape for tensor in tensors) != shapes:
                    raise OtherShapes
                made.update(enumerate(tensors, step.first))
            for number in step.last_use:
                del made[number]

    def arguments_of(self, number: int, made: dict[int, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What recorded call `number` is called with: arguments and named ones."""
        step = self._steps[number]
        named = {name: _filled(value, made) for name, value in step.named.items()}
        return tuple([_filled(value, made) for value in step.arguments]), named

    def _slotted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            number = self._numbers.get(value)
            if number is None and self._is_alias(value):
                raise NotReplayable("a call reads a recorded tensor through another that no recorded call made")
            return value if number is None else _Slot(number)
        if isinstance(value, list | tuple):
            kind: Callable[[list[Any]], Any] = list if type(value) is list else tuple
            nested = _Nested(kind, tuple(self._slotted(item) for item in value))
        elif isinstance(value, dict):
            keys = tuple(value)
            nested = _Nested(
                lambda items: dict(zip(keys, items, strict=True)), tuple(self._slotted(item) for item in value.values())
            )
        elif isinstance(value, slice):
            parts = (value.start, value.stop, value.step)
            nested = _Nested(lambda items: slice(*items), tuple(self._slotted(item) for item in parts))
        elif any(self._numbers.get(tensor) is not None for tensor in tensors_in(value)):
            raise NotReplayable(f"a {type(value).__name__} that holds tensors")
        else:
            return value
        return nested if any(True for _ in _slots(nested)) else value


def _slots(value: Any) -> Iterator[int]:
    if type(value) is _Slot:
        yield value.number
    elif type(value) in (_Nested, tuple):
        for item in value.items if type(value) is _Nested else value:
            yield from _slots(item)


def _filled(value: Any, made: dict[int, Tensor]) -> Any:
    if type(value) is _Slot:
        return made[value.number]
    return value.kind([_filled(item, made) for item in value.items]) if type(value) is _Nested else value
