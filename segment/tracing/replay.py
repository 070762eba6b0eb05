"""The calls of one pass written down, to be made again for other draws without the network's own code.

A pass of a network is some hundred torch calls, and the Python around each costs about as much as a small call itself.
Must not know what a call does under a draw: who runs a script makes its calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from segment.tracing.trace import ASKING, tensors_in

Make = Callable[[int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
"""How call number i on the tape is made: number, function, arguments, named arguments."""


def asks(function: Callable[..., Any], result: Any) -> bool:
    """Whether a call only asked a tensor for its shape, type or place: it need not be noted."""
    return getattr(function, "__name__", "") in ASKING and not any(True for _ in tensors_in(result))


class OtherShapes(Exception):
    """A call gave another shape than when it was written down, so the network might have gone another way."""


@dataclass(frozen=True)
class _Place:
    """Stands for the tensor of that number."""

    number: int


@dataclass(frozen=True)
class _Nested:
    """Stands for a list, tuple or dict that holds places; kind: makes it of its items."""

    kind: Callable[[list[Any]], Any]
    items: tuple[Any, ...]


@dataclass
class _Step:
    """A call; first: the number of its result's first tensor; shapes: of all of them; dead: what nobody reads later."""

    index: int
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any]
    first: int
    shapes: tuple[torch.Size, ...]
    dead: tuple[int, ...] = ()


class Script:
    """A pass in the writing: `note` each call that a draw can change, in order, `finish`; then `run`, again and again.

    Tensors that no noted call has made are kept as they are. calls: the numbers of the noted calls on the tape
    """

    def __init__(self, given: Tensor | None = None) -> None:
        """given: a tensor that is another one in each run, number 0 of what it is run on."""
        self.calls: list[int] = []
        self._steps: list[_Step] = []
        self._numbers: Any = WeakIdKeyDictionary()  # tensor -> number, as long as it lives
        self._count = 0
        self._output: Any = None
        if given is not None:
            self._numbers[given] = 0
            self._count = 1

    def note(self, index: int, function: Callable[..., Any], arguments: Any, named: Any, result: Any) -> None:
        in_order = tuple(self._noted(value) for value in arguments)
        by_name = {name: self._noted(value) for name, value in named.items()}
        made = list(tensors_in(result))
        shapes = tuple(tensor.shape for tensor in made)
        self.calls.append(index)
        self._steps.append(_Step(index, function, in_order, by_name, self._count, shapes))
        for tensor in made:
            self._numbers[tensor] = self._count
            self._count += 1

    def finish(self, output: Tensor | None) -> bool:
        """Whether the whole of the pass that ended in this output can be run again; None: parts of it only."""
        self._output = self._noted(output)
        read = set(_places(self._output))
        for step in reversed(self._steps):
            mine = range(step.first, step.first + len(step.shapes))
            used = {*_places((*step.arguments, *step.named.values())), *mine}
            step.dead = tuple(used - read)
            read |= used
        self._numbers = WeakIdKeyDictionary()
        return isinstance(self._output, _Place)

    def run(self, make: Make) -> Tensor:
        """The output of the pass whose calls `make` makes. Errors: OtherShapes."""
        made: dict[int, Tensor] = {}
        self.advance(make, made, 0, len(self._steps))
        output = _filled(self._output, made)
        assert isinstance(output, Tensor)
        return output

    def advance(self, make: Make, made: dict[int, Tensor], start: int, stop: int) -> None:
        """Make the noted calls number start to stop - 1, from what the earlier ones have left in `made`, and into it.

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
            for number in step.dead:
                del made[number]

    def reads(self, number: int, made: dict[int, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What noted call `number` is called with: arguments and named ones."""
        step = self._steps[number]
        named = {name: _filled(value, made) for name, value in step.named.items()}
        return tuple([_filled(value, made) for value in step.arguments]), named

    def _noted(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            number = self._numbers.get(value)
            return value if number is None else _Place(number)
        if type(value) in (list, tuple):
            nested = _Nested(type(value), tuple(self._noted(item) for item in value))
        elif type(value) is dict:
            keys = tuple(value)
            nested = _Nested(
                lambda items: dict(zip(keys, items, strict=True)), tuple(self._noted(item) for item in value.values())
            )
        else:
            return value
        return nested if any(True for _ in _places(nested)) else value


def _places(value: Any) -> Iterator[int]:
    if type(value) is _Place:
        yield value.number
    elif type(value) in (_Nested, tuple):
        for item in value.items if type(value) is _Nested else value:
            yield from _places(item)


def _filled(value: Any, made: dict[int, Tensor]) -> Any:
    if type(value) is _Place:
        return made[value.number]
    return value.kind([_filled(item, made) for item in value.items]) if type(value) is _Nested else value
