"""A pass compared with an earlier trace of the same network, call by call.

Must not know what is done where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from segment.networks.modules import version_of
from segment.tracing.replay import NotReplayable
from segment.tracing.scripted_calls import reported_scripted_values
from segment.tracing.sources import CONSTANT, IMAGE, Sources, tensors_in
from segment.tracing.trace import Call

OWN_AUTOCAST = "it changes the precision of its calls itself, as by torch.autocast(enabled=False)"


class Diverged(BaseException):
    """The network made other calls than its trace lists; no refusal, the network is traced again or passed plainly.

    No Exception, for a network may catch those.
    """


def literals_in(value: Any) -> Any:
    """The numbers, strings and types in nested lists, tuples, dicts and slices; of anything else its class."""
    if isinstance(value, list | tuple):
        return [literals_in(item) for item in value]
    if isinstance(value, Mapping):
        return {key: literals_in(item) for key, item in value.items()}
    if isinstance(value, slice):
        return [literals_in(part) for part in (value.start, value.stop, value.step)]
    return value if isinstance(value, int | float | complex | str | torch.dtype | torch.device) else type(value)


def refuse_scripted_values() -> AbstractContextManager[None]:
    """A block in which scripted code that gives values to Python raises Diverged: a pass with such code is plain."""
    return reported_scripted_values(_diverge)


def _diverge(function: Callable[..., Any]) -> None:
    raise Diverged(f"{function.__name__} gives values to Python")


class TraceCursor:
    """A pass compared with a trace, call by call: the same functions on tensors of the same sources.

    A branch that depends on the image's size or values changes one of them.
    """

    def __init__(self, calls: Sequence[Call], image: Tensor, constants: Iterable[Tensor]) -> None:
        self._calls = calls
        self._next = 0
        self._sources = Sources(constants)
        self._sources.note([image], IMAGE)
        self._autocast: tuple[torch.dtype | None, ...] | None = None
        self._tensors: list[Tensor] = []  # of the call that is made now, and their versions before it
        self._versions: list[int | None] = []

    def next(self, function: Callable[..., Any], args: Any, kwargs: Any) -> int:
        """The index of the call that is made now.

        Errors: Diverged where the trace has another; NotReplayable where the network has changed autocast for it, as by
        `torch.autocast(enabled=False)`, of which a trace in float32 says nothing and which no replay would do.
        """
        autocast = _autocast()
        if self._autocast is None:
            self._autocast = autocast
        elif autocast != self._autocast:
            raise NotReplayable(OWN_AUTOCAST)
        if torch.is_inference_mode_enabled():
            raise Diverged("its own inference mode, in which what calls write into is not known")
        if self._next >= len(self._calls):
            raise Diverged(f"more than the {len(self._calls)} calls of the trace")
        call = self._calls[self._next]
        with torch._C.DisableTorchFunction():
            tensors = list(tensors_in((args, kwargs)))
            same = call.function == function and len(tensors) == len(call.sources)
            same = same and all(
                self._sources.of(tensor) == source and self._sources.registered(tensor) is constant
                if source == CONSTANT
                else self._sources.of(tensor) == source
                for tensor, source, constant in zip(tensors, call.sources, call.registered, strict=True)
            )
            self._tensors, self._versions = tensors, [version_of(tensor) for tensor in tensors]
            if same and call.arguments is not None and function is not torch.conv2d:
                same = literals_in((tuple(args[1:]), kwargs)) == literals_in(call.arguments)
        if not same:
            raise Diverged(f"call {self._next} is not {call.name} on the same tensors")
        self._next += 1
        return self._next - 1

    def record(self, index: int, result: Any, *, made: bool = True) -> None:
        """Record the sources of the result of call `index`, and of the tensors that it wrote into.

        made: False where an earlier fused call has done its work
        Errors: Diverged where it wrote into other tensors than in the trace.
        """
        with torch._C.DisableTorchFunction():
            call = self._calls[index]
            if made:
                versions = zip(self._tensors, self._versions, call.sources, strict=True)
                written = {source for tensor, version, source in versions if version_of(tensor) != version}
                if written != set(call.writes):
                    raise Diverged(f"call {index}, {call.name}, writes into other tensors")
            into = [tensor for tensor, source in zip(self._tensors, call.sources, strict=True) if source in call.writes]
            self._sources.note((*into, *tensors_in(result)), index, call.sources)
            self._tensors = []

    def end(self, output: Any, expected: int) -> None:
        """Errors: Diverged where calls of the trace were left out, or another call made the output."""
        if self._next != len(self._calls):
            raise Diverged(f"{self._next} of the {len(self._calls)} calls of the trace")
        with torch._C.DisableTorchFunction():
            if [self._sources.of(tensor) for tensor in tensors_in(output)] != [expected]:
                raise Diverged("its output comes from another call")


def _autocast() -> tuple[torch.dtype | None, ...]:
    """The type of autocast on each kind of device, None where it is off."""
    return tuple(
        torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None for device in ("cpu", "cuda")
    )
