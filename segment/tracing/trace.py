"""The torch calls that one pass of a network makes, in order, and where each tensor that they read comes from.

A TorchFunctionMode sees every torch call inside a pass, so unmodified networks of any library can be traced. What it
does not see (a scripted function, a tensor made from NumPy) leaves a tensor of unknown origin, which counts as
depending on the draw: the most careful answer. Must not know what a draw is.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from segment.networks.modules import named_modules, parameters_and_buffers
from segment.networks.preserve_state import preserve_state, version_of

IMAGE, CONSTANT, UNKNOWN = -1, -2, -3
"""Sources that are no earlier call: the image; a parameter, buffer or tensor attribute; a tensor of unknown origin."""

Origin = Literal["constant", "image", "draw"]


@dataclass(frozen=True)
class Call:
    """One torch call of a pass.

    function: what was called; module: name of the innermost module that made it ("" outside any)
    sources: of each tensor that it reads, in order: the earlier call that last wrote it, or IMAGE, CONSTANT, UNKNOWN
    registered: of each, the parameter, buffer or attribute itself where it is one, else None
    origin: "constant", "image", or "draw" where it is random or reads what is of unknown origin
    writes: sources of the tensors that it writes into
    leaves: it gives values of tensors to Python, or a result whose shape depends on values
    shape, dtype: of its first tensor; None where it has none
    arguments: positional (after the first) and named ones, for the functions that were asked about; None for others
    """

    function: Callable[..., Any]
    module: str
    sources: tuple[int, ...] = ()
    registered: tuple[Tensor | None, ...] = ()
    origin: Origin = "constant"
    writes: tuple[int, ...] = ()
    leaves: bool = False
    random: bool = False
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
    """The calls of one pass, and the source of its output."""

    calls: tuple[Call, ...]
    output: int


class Diverged(Exception):
    """The network made other calls than its trace has; no refusal, the pass is run again in another way."""


GIVES_VALUES = (
    "__bool__",
    "__int__",
    "__float__",
    "__complex__",
    "__index__",
    "__contains__",
    "__array__",
    "__dlpack__",
    "item",
    "tolist",
    "numpy",
    "equal",
    "allclose",
    "is_nonzero",
    "data_ptr",
    "storage",
    "untyped_storage",
)
"""Names of calls that give a tensor's values, or its memory, to Python."""

SHAPED_BY_VALUES = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount")
"""Names of calls whose result has a shape that depends on values. So has an index of booleans."""

ASKING = (
    "__get__",
    "__len__",
    "dim",
    "ndimension",
    "size",
    "stride",
    "numel",
    "nelement",
    "element_size",
    "is_contiguous",
    "is_floating_point",
    "is_complex",
    "is_signed",
    "get_device",
    "storage_offset",
    "is_same_size",
    "result_type",
    "is_inference",
    "is_pinned",
    "is_conj",
    "is_neg",
    "has_names",
    "type",
    "is_sparse",
    "is_cuda",
)
"""Names of calls that ask a tensor for its shape, type or place, not for its values."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested lists, tuples (torch's named results too), dicts, slices and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
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


def literals_in(value: Any) -> Any:
    """The numbers, words and types in nested lists, tuples, dicts and slices; of anything else its class."""
    if isinstance(value, list | tuple):
        return [literals_in(item) for item in value]
    if isinstance(value, Mapping):
        return {key: literals_in(item) for key, item in value.items()}
    if isinstance(value, slice):
        return [literals_in(part) for part in (value.start, value.stop, value.step)]
    return value if isinstance(value, int | float | complex | str | torch.dtype | torch.device) else type(value)


def constants_of(module: nn.Module) -> list[Tensor]:
    """Parameters, buffers, and the tensors that modules hold as plain attributes."""
    attributes = (vars(part) for _, part in named_modules(module))
    held = (value for each in attributes for name, value in each.items() if name not in ("_parameters", "_buffers"))
    return [*parameters_and_buffers(module), *(tensor for value in held for tensor in _attribute_tensors(value))]


def _attribute_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor | list | tuple | dict):
        yield from tensors_in(value)


class Sources:
    """Which call last wrote each piece of memory of the pass that is running, and whether anything unseen wrote it.

    Memory is told apart by its storage, which views share; a storage that is gone is known by a dead weak reference.
    """

    def __init__(self, constants: Iterable[Tensor]) -> None:
        self._registered = {id(tensor): tensor for tensor in constants}
        self._constants = {place: version_of(tensor) for tensor in constants if (place := _place(tensor))}
        self._written: dict[int, tuple[weakref.ref[torch.UntypedStorage], int, int | None]] = {}

    def note(self, tensors: Iterable[Tensor], source: int) -> None:
        """Remember who wrote these tensors; views of constants stay constants unless they were written into."""
        for tensor in tensors:
            place, version = _place(tensor), version_of(tensor)
            if place is None or (place in self._constants and self._constants[place] == version):
                continue
            self._written[place] = (weakref.ref(tensor.untyped_storage()), source, version)

    def of(self, tensor: Tensor) -> int:
        place = _place(tensor)
        if place is None:
            return UNKNOWN
        last = self._written.get(place)
        if last is not None and last[0]() is tensor.untyped_storage():
            return last[1] if last[2] == version_of(tensor) else UNKNOWN
        if place in self._constants and self._constants[place] == version_of(tensor):
            return CONSTANT
        return UNKNOWN

    def registered(self, tensor: Tensor) -> Tensor | None:
        return self._registered.get(id(tensor))


def _place(tensor: Tensor) -> int | None:
    """The identity of a tensor's memory; None where it has none that can be asked for (sparse, inside vmap)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


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

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunction():
            given = list(tensors_in((args, kwargs)))
            reads = tuple(self.sources.of(tensor) for tensor in given)
            versions = [version_of(tensor) for tensor in given]
            state = _random_state(kwargs)
            shape, dtype = (given[0].shape, given[0].dtype) if given else (None, None)
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            random = state is None or not torch.equal(state, torch.default_generator.get_state())
            changed = [tensor for tensor, was in zip(given, versions, strict=True) if version_of(tensor) != was]
            writes = tuple(
                dict.fromkeys(
                    source
                    for source, tensor, was in zip(reads, given, versions, strict=True)
                    if version_of(tensor) != was
                )
            )
            registered = tuple(
                self.sources.registered(tensor) if source == CONSTANT else None
                for tensor, source in zip(given, reads, strict=True)
            )
            leaves = bool(given) and gives_values(func, given, result)
            self.sources.note((*changed, *tensors_in(result)), len(self.calls))
        self.calls.append(
            Call(
                func,
                self._module_name(),
                reads,
                registered,
                self._origin(reads, random=random),
                writes,
                leaves,
                random,
                shape,
                dtype,
                (tuple(args[1:]), kwargs) if func in self._keep_arguments else None,
            )
        )
        return result

    def _origin(self, sources: Sequence[int], *, random: bool) -> Origin:
        origins = {self.calls[source].origin for source in sources if source >= 0}
        if random or UNKNOWN in sources or "draw" in origins:
            return "draw"
        return "image" if IMAGE in sources or "image" in origins else "constant"


def _random_state(kwargs: Mapping[str, Any]) -> Tensor | None:
    """The state of torch's generator; None where the call uses a generator of its own."""
    if isinstance(kwargs.get("generator"), torch.Generator):
        return None
    return torch.default_generator.get_state()


def gives_values(function: Callable[..., Any], given: Sequence[Tensor], result: Any) -> bool:
    """Whether a call gives values of its tensors to Python, as numbers or as the shape of a result."""
    name = getattr(function, "__name__", "")
    if name in ASKING:
        return False
    indexed = name == "__getitem__" and any(tensor.dtype in (torch.bool, torch.uint8) for tensor in given[1:])
    return indexed or name in GIVES_VALUES or name in SHAPED_BY_VALUES or _holds_numbers(result)


def _holds_numbers(value: Any) -> bool:
    if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
        return any(_holds_numbers(item) for item in value)
    return isinstance(value, bool | int | float | complex | np.ndarray | np.generic)


def trace(
    module: nn.Module,
    forward: Callable[[Tensor], Any],
    image: Tensor,
    keep_arguments: Collection[Callable[..., Any]] = (),
) -> Trace:
    """One eval pass of `forward`, which runs `module`, over `image` (N C H W).

    keep_arguments: functions whose arguments are wanted later
    """
    stack: list[str] = [""]
    handles = []

    def leave(*_: Any) -> None:  # a hook that returns something replaces the module's result
        stack.pop()

    try:
        for name, part in named_modules(module):
            handles.append(part.register_forward_pre_hook(lambda _m, _a, name=name: stack.append(name)))
            handles.append(part.register_forward_hook(leave, always_call=True))
        with torch.inference_mode(mode=False), torch.no_grad(), preserve_state(module):
            image = image.clone()  # an inference tensor counts no versions; the caller's image is not ours to write
            sources = Sources(constants_of(module))
            sources.note([image], IMAGE)
            with _Tracing(sources, lambda: stack[-1], keep_arguments) as tracing:
                output = forward(image)
            outputs = [sources.of(tensor) for tensor in tensors_in(output)]
    finally:
        for handle in handles:
            handle.remove()
    return Trace(tuple(tracing.calls), outputs[0] if len(outputs) == 1 else UNKNOWN)


class TraceCursor:
    """A pass compared with a trace, call by call: the same functions on tensors of the same sources.

    A branch that the image's size or values decide changes one of them.
    """

    def __init__(self, calls: Sequence[Call], image: Tensor, constants: Iterable[Tensor]) -> None:
        self._calls = calls
        self._next = 0
        self._sources = Sources(constants)
        self._sources.note([image], IMAGE)

    def next(self, function: Callable[..., Any], args: Any, kwargs: Any) -> int:
        """The index of the call that is made now. Error: Diverged where the trace has another."""
        if self._next >= len(self._calls):
            raise Diverged(f"more than the {len(self._calls)} calls of the trace")
        call = self._calls[self._next]
        with torch._C.DisableTorchFunction():
            given = list(tensors_in((args, kwargs)))
            same = call.function == function and len(given) == len(call.sources)
            same = same and all(
                self._sources.of(tensor) == source and self._sources.registered(tensor) is constant
                if source == CONSTANT
                else self._sources.of(tensor) == source
                for tensor, source, constant in zip(given, call.sources, call.registered, strict=True)
            )
            if same and call.arguments is not None and function is not torch.conv2d:
                same = literals_in((tuple(args[1:]), kwargs)) == literals_in(call.arguments)
        if not same:
            raise Diverged(f"call {self._next} is not {call.name} on the same tensors")
        self._next += 1
        return self._next - 1

    def made(self, index: int, args: Any, kwargs: Any, result: Any) -> None:
        """Note the result of call `index`, and what it wrote into."""
        with torch._C.DisableTorchFunction():
            call = self._calls[index]
            written = [
                tensor
                for tensor, source in zip(tensors_in((args, kwargs)), call.sources, strict=True)
                if source in call.writes
            ]
            self._sources.note((*written, *tensors_in(result)), index)

    def end(self, output: Any, expected: int) -> None:
        """Error: Diverged where calls of the trace were left out, or another call made the output."""
        if self._next != len(self._calls):
            raise Diverged(f"{self._next} of the {len(self._calls)} calls of the trace")
        with torch._C.DisableTorchFunction():
            if [self._sources.of(tensor) for tensor in tensors_in(output)] != [expected]:
                raise Diverged("its output comes from another call")


def depends_on_draw(calls: Sequence[Call], stochastic: Collection[int | None]) -> tuple[bool, ...]:
    """Of each call, whether a draw can change its result; `stochastic`: the calls that a draw replaces."""
    depends: list[bool] = []
    for index, call in enumerate(calls):
        drawn = index in stochastic or call.origin == "draw"
        depends.append(drawn or any(parent >= 0 and depends[parent] for parent in call.parents))
    return tuple(depends)


def writes_over_shared(calls: Sequence[Call], depends: Sequence[bool]) -> int | None:
    """The first call after which a later draw would not find what the calls it shares have left; None: there is none.

    depends[i]: call i is made again for each draw. Not so where one of those writes into what is shared, or reads what
    is overwritten later; nor where anything writes into the image or a constant.
    """
    read: set[int] = set()
    for index, call in enumerate(calls):
        if depends[index]:
            read.update(parent for parent in call.parents if parent < 0 or not depends[parent])
        for target in call.writes:
            if target < 0 or (not depends[target] and (depends[index] or target in read)):
                return index
    return None
