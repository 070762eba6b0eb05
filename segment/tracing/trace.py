"""The torch calls that one pass of a network makes, in order, and what each depends on: constants, the image, the draw.

A TorchFunctionMode intercepts every torch call inside a pass, so unmodified networks of any library can be traced. A
tensor that no intercepted call made (by a scripted function, or from NumPy) is of unknown origin: it counts as
depending on the draw, which is always safe. So does scripted code that gives Python a decision or a number. Must not
know what a draw is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segment.networks.modules import named_modules, version_of
from segment.networks.preserve_state import (
    StateKeeper,
    moved_since,
    preserve_state,
    random_states,
    restore_random_states,
)
from segment.tracing.call_kinds import call_gives_values
from segment.tracing.scripted_calls import reported_scripted_values
from segment.tracing.sources import CONSTANT, IMAGE, UNKNOWN, Sources, constants_of, tensors_in

Origin = Literal["constant", "image", "draw"]

CONFIRMING = 2
"""Further passes in which a call must draw random numbers to count as random."""


@dataclass(frozen=True)
class Call:
    """One torch call of a pass.

    function: what was called; module: name of the innermost module that made it ("" outside any)
    sources: of each tensor that it reads, in order: the earlier call that last wrote it, or IMAGE, CONSTANT, UNKNOWN
    registered: of each, the parameter, buffer or attribute itself where it is one, else None
    origin: "constant", "image", or "draw" where it is random or reads a tensor of unknown origin
    writes: sources of the memory that it writes into
    gives_values: it gives values of tensors to Python, or a result whose shape depends on values
    random: it draws random numbers; autocast: the network runs it in another precision than its caller asked for
    inference: the network runs it in its own inference mode, in which torch does not count what is written into
    shape, dtype: of its first tensor; None where it has none
    arguments: positional (after the first) and named ones, of the functions in `keep_arguments`; None of others
    """

    function: Callable[..., Any]
    module: str
    sources: tuple[int, ...] = ()
    registered: tuple[Tensor | None, ...] = ()
    origin: Origin = "constant"
    writes: tuple[int, ...] = ()
    gives_values: bool = False
    random: bool = False
    autocast: bool = False
    inference: bool = False
    shape: torch.Size | None = None
    dtype: torch.dtype | None = None
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None

    @property
    def parents(self) -> tuple[int, ...]:
        """The earlier calls that it reads, and IMAGE where it reads that, each once."""
        return tuple(dict.fromkeys(source for source in self.sources if source >= IMAGE))

    @property
    def name(self) -> str:
        """The function's name, and the module that called it, for messages."""
        name = getattr(self.function, "__name__", str(self.function))
        return f"{name} in {self.module!r}" if self.module else name


@dataclass(frozen=True)
class Trace:
    """The calls of one pass, the source of its output, and the names of the modules that ran."""

    calls: tuple[Call, ...]
    output: int
    entered: frozenset[str] = frozenset()


class _Tracing(TorchFunctionMode):
    """Records the calls of one pass."""

    def __init__(
        self, sources: Sources, module_name: Callable[[], str], keep_arguments: Collection[Callable[..., Any]]
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.sources = sources
        self._module_name = module_name
        self._keep_arguments = keep_arguments
        self._autocast = _autocast()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            tensors = list(tensors_in((args, kwargs)))
            reads = tuple(self.sources.of(tensor) for tensor in tensors)
            owners = [self.sources.of_memory(tensor) for tensor in tensors]
            versions = [version_of(tensor) for tensor in tensors]
            states = None if isinstance(kwargs.get("generator"), torch.Generator) else random_states()
            shape, dtype = (tensors[0].shape, tensors[0].dtype) if tensors else (None, None)
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            random = states is None or moved_since(states)
            changed = [tensor for tensor, was in zip(tensors, versions, strict=True) if version_of(tensor) != was]
            writes = tuple(
                dict.fromkeys(
                    owner
                    for owner, tensor, was in zip(owners, tensors, versions, strict=True)
                    if version_of(tensor) != was
                )
            )
            registered = tuple(
                self.sources.registered(tensor) if source == CONSTANT else None
                for tensor, source in zip(tensors, reads, strict=True)
            )
            gives_values = bool(tensors) and call_gives_values(func, tensors, result)
            self.sources.note((*changed, *tensors_in(result)), len(self.calls), reads)
        self.calls.append(
            Call(
                func,
                self._module_name(),
                reads,
                registered,
                _origin(self.calls, reads, random=random),
                writes,
                gives_values,
                random,
                self._autocast != _autocast(),
                torch.is_inference_mode_enabled(),
                shape,
                dtype,
                (tuple(args[1:]), kwargs) if func in self._keep_arguments else None,
            )
        )
        return result

    def add_scripted(self, function: Callable[..., Any]) -> None:
        """Add a call of scripted code that gave values to Python; what it reads is not known."""
        unknown = (UNKNOWN,)
        origin = _origin(self.calls, unknown, random=False)
        self.calls.append(Call(function, self._module_name(), unknown, (None,), origin, gives_values=True))


def _origin(calls: Sequence[Call], sources: Sequence[int], *, random: bool) -> Origin:
    """The origin of a call that follows these and reads these sources."""
    origins = {calls[source].origin for source in sources if source >= 0}
    if random or UNKNOWN in sources or "draw" in origins:
        return "draw"
    return "image" if IMAGE in sources or "image" in origins else "constant"


def _autocast() -> tuple[bool, ...]:
    return tuple(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


def trace(
    module: nn.Module,
    forward: Callable[[Tensor], Any],
    image: Tensor,
    keep_arguments: Collection[Callable[..., Any]] = (),
) -> Trace:
    """One eval pass of `forward`, which runs `module`, over `image` (N C H W).

    A call is random where the process's generator moved while it was made, in several passes: it moves too where
    another thread draws at that moment.
    keep_arguments: functions whose arguments the trace keeps
    """
    states = random_states()
    try:
        traced = _confirmed(module, forward, image, _trace(module, forward, image, keep_arguments))
    except BaseException:  # whether it drew is not known
        restore_random_states(states)
        raise
    if may_draw(traced):
        restore_random_states(states)
    return traced


def _confirmed(module: nn.Module, forward: Callable[[Tensor], Any], image: Tensor, traced: Trace) -> Trace:
    """The trace, those of its calls random that are so in further passes too."""
    for _ in range(CONFIRMING):
        if not any(call.random for call in traced.calls):
            break
        again = _trace(module, forward, image, ())
        if [call.function for call in again.calls] != [call.function for call in traced.calls]:
            break
        calls: list[Call] = []
        for call, other in zip(traced.calls, again.calls, strict=True):
            random = call.random and other.random
            calls.append(replace(call, random=random, origin=_origin(calls, call.sources, random=random)))
        traced = replace(traced, calls=tuple(calls))
    return traced


def _trace(
    module: nn.Module,
    forward: Callable[[Tensor], Any],
    image: Tensor,
    keep_arguments: Collection[Callable[..., Any]],
) -> Trace:
    stack: list[str] = [""]
    handles, thread = [], threading.get_ident()
    entered: set[str] = set()

    def enter(name: str) -> None:
        if threading.get_ident() == thread:  # the module may run in others too
            stack.append(name)
            entered.add(name)

    def leave(*_: Any) -> None:  # a hook that returns something replaces the module's result
        if threading.get_ident() == thread:
            stack.pop()

    try:
        for name, part in named_modules(module):
            handles.append(part.register_forward_pre_hook(lambda _m, _a, name=name: enter(name)))
            handles.append(part.register_forward_hook(leave, always_call=True))
        with torch.inference_mode(mode=False), torch.no_grad(), preserve_state(module, random=False):
            image = image.clone()  # an inference tensor counts no versions; a network may write into its image
            sources = Sources(constants_of(module))
            sources.note([image], IMAGE)
            tracing = _Tracing(sources, lambda: stack[-1], keep_arguments)
            with tracing, reported_scripted_values(tracing.add_scripted):
                output = forward(image)
            outputs = [sources.of(tensor) for tensor in tensors_in(output)]
    finally:
        for handle in handles:
            handle.remove()
    return Trace(tuple(tracing.calls), outputs[0] if len(outputs) == 1 else UNKNOWN, frozenset(entered))


def may_draw(traced: Trace) -> bool:
    """Whether a pass like this may draw random numbers: by a call, unseen, or on another way that values lead to."""
    unseen = traced.output == UNKNOWN or any(UNKNOWN in call.sources for call in traced.calls)
    return unseen or any(call.random or call.gives_values for call in traced.calls)


def state_keeper(module: nn.Module, traced: Trace) -> StateKeeper:
    """For a module whose passes are like this one."""
    return StateKeeper(module, random=may_draw(traced))


def depends_on_draw(calls: Sequence[Call], stochastic: Collection[int | None]) -> tuple[bool, ...]:
    """For each call, whether it depends on the draw; stochastic: indices of the BN calls whose statistics are drawn."""
    depends: list[bool] = []
    for index, call in enumerate(calls):
        drawn = index in stochastic or call.origin == "draw"
        depends.append(drawn or any(parent >= 0 and depends[parent] for parent in call.parents))
    return tuple(depends)


def writes_over_shared(calls: Sequence[Call], depends: Sequence[bool]) -> int | None:
    """The first call that prevents draws from sharing results, because it writes over one of them; None: there is none.

    depends[i]: call i is made again for each draw. A call prevents sharing where it depends on the draw and writes into
    a shared result, where it writes into a shared result that a draw has read before, and where it writes into the
    image or a constant.
    """
    read: set[int] = set()
    for index, call in enumerate(calls):
        if depends[index]:
            read.update(parent for parent in call.parents if parent < 0 or not depends[parent])
        for target in call.writes:
            if target < 0 or (not depends[target] and (depends[index] or target in read)):
                return index
    return None
