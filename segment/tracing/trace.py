"""The calls that one pass of a network makes, in order, and which of them feed which.

Every torch call inside a pass is seen by a TorchFunctionMode, so unmodified networks of any library can be followed.
Must not know what a draw is: it tells which calls an image reaches and which call a module made, nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Call:
    """One torch call of a pass.

    function: what was called
    parents: indices of the earlier calls whose results it reads (-1: the image itself)
    module: name of the innermost module that made it ("" outside any)
    in_place: it writes into storage that an earlier call (or the image) made, or into a parameter or buffer
    writes: indices of the earlier calls into whose results it writes (-1: the image itself)
    aliases: indices of the earlier calls whose results lie in the memory that it gives or writes (-1: the image)
    leaves: it gives a number or an array, or a shape that values decide, whose further way is not followed
    reads_image: its result depends on the image's values or shape
    facts: shape and dtype of its first tensor argument, None where it has none
    arguments: what a function asked about was called with, besides its first argument; None for all others
    """

    function: Callable[..., Any]
    parents: tuple[int, ...]
    module: str
    in_place: bool
    reads_image: bool
    facts: tuple[torch.Size, torch.dtype] | None
    arguments: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
    writes: tuple[int, ...] = ()
    aliases: tuple[int, ...] = ()
    leaves: bool = False


class Diverged(Exception):
    """The network made other calls than on its tape; no refusal, the pass is run again without it."""


class Along:
    """A pass held against its tape, call by call."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._at = 0

    def next(self, function: Callable[..., Any]) -> int:
        """The number of the call that is made now. Error: Diverged where the tape has another."""
        if self._at >= len(self._calls) or self._calls[self._at].function != function:
            raise Diverged
        self._at += 1
        return self._at - 1

    def end(self) -> None:
        """Error: Diverged where calls of the tape were left out."""
        if self._at != len(self._calls):
            raise Diverged


LEAVING = (
    "__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__", "__array__", "item", "tolist",
    "numpy", "equal", "allclose", "is_nonzero",
)  # fmt: skip
"""Names of calls that give a tensor's values to Python."""

CHOOSING = ("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount")
"""Names of calls that give them to Python too: in the shape of their result. So does an index of booleans."""


ASKING = (
    "__get__", "__len__", "dim", "ndimension", "size", "stride", "numel", "nelement", "element_size", "is_contiguous",
    "is_floating_point", "is_complex", "is_signed", "get_device", "storage_offset",
)  # fmt: skip
"""Names of calls that ask a tensor for its shape, type or place, not for its values."""


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested lists, tuples and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)


class Loan:
    """A module that can be borrowed again and again; what is listed once is not looked for at every pass."""

    def __init__(self, module: nn.Module) -> None:
        self._children = tuple(module.modules())
        self._devices = sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
        self._copies: dict[int, tuple[Tensor, int | None, Tensor]] = {}

    def _copy(self, buffer: Tensor) -> tuple[Tensor, int | None, Tensor]:
        """A buffer, its version, its values; the last copy where nobody has written since."""
        held = self._copies.get(id(buffer))
        version = _version(buffer)
        if held is None or held[0] is not buffer or version is None or held[1] != version:
            held = buffer, version, buffer.detach().clone()
        return held

    def random(self) -> AbstractContextManager[None]:
        """The RNG comes back as it was after a block; nothing else does."""
        return torch.random.fork_rng(devices=self._devices)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Eval mode for the time of a block; flags, buffers and RNG come back as they were, whatever happens.

        Flags are set one module at a time: `.train()` and `.eval()` may be overridden to skip a frozen encoder.
        """
        flags = [(child, child.training) for child in self._children]
        registered = [(child, dict(child._buffers)) for child in self._children if child._buffers]
        buffers = {id(each): each for _, by_name in registered for each in by_name.values() if each is not None}
        held = self._copies = {key: self._copy(buffer) for key, buffer in buffers.items()}
        try:
            with self.random():
                for child, training in flags:
                    if training:  # to set an attribute of a module is slow, and most are in eval mode already
                        child.training = False
                yield
        finally:
            for child, training in flags:
                if child.training != training:
                    child.training = training
            for child, by_name in registered:
                child._buffers.clear()  # a network may put another tensor in a buffer's place
                child._buffers.update(by_name)
            for buffer, version, value in held.values():
                if version is None or buffer._version != version:  # a network may count in its own forward
                    _put_back(buffer, value)


def _put_back(buffer: Tensor, value: Tensor) -> None:
    if not buffer.is_inference():
        with torch.no_grad():
            buffer.copy_(value)
    elif not torch.equal(buffer, value):
        with torch.inference_mode():  # nowhere else may an inference tensor be written
            buffer.copy_(value)


def lent(module: nn.Module) -> AbstractContextManager[None]:
    """Borrow a module once; see `Loan`."""
    return Loan(module)()


class _Following(TorchFunctionMode):
    """Writes the tape of one pass; keeps every result alive meanwhile, so that storage addresses stay unique."""

    def __init__(
        self, image: Tensor, constants: set[int], module: Callable[[], str], about: Collection[Callable[..., Any]]
    ) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._alive: list[Any] = [image]
        self._writer: dict[int, int] = {_storage(image): -1}
        self._constants = constants
        self._module = module
        self._about = about

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(tensors_in((args, kwargs)))
        before = [(_storage(tensor), _version(tensor)) for tensor in given]
        parents = tuple(dict.fromkeys(self._writer[place] for place, _ in before if place in self._writer))
        facts = (given[0].shape, given[0].dtype) if given else None
        result = func(*args, **kwargs)
        changed = {place for (place, version), tensor in zip(before, given, strict=True) if _version(tensor) != version}
        index = len(self.calls)
        reads = any(parent < 0 or self.calls[parent].reads_image for parent in parents)
        in_place = any(place in self._writer or place in self._constants for place in changed)
        arguments = (tuple(args[1:]), kwargs) if func in self._about else None
        writes = tuple(dict.fromkeys(self._writer[place] for place in changed if place in self._writer))
        touched = changed | {_storage(tensor) for tensor in tensors_in(result)}
        aliases = tuple(dict.fromkeys(self._writer[place] for place in touched if place in self._writer))
        name = getattr(func, "__name__", "")
        chosen = name == "__getitem__" and any(tensor.dtype in (torch.bool, torch.uint8) for tensor in given[1:])
        leaves = bool(given) and (chosen or name in LEAVING or name in CHOOSING)
        self.calls.append(
            Call(func, parents, self._module(), in_place, reads, facts, arguments, writes, aliases, leaves)
        )
        for place in touched:
            if place and (place not in self._constants or place in changed):
                self._writer[place] = index
        self._alive.append(result)
        return result


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version  # inference tensors do not count their changes


def _storage(tensor: Tensor) -> int:
    with torch._C.DisableTorchFunction():
        return tensor.untyped_storage().data_ptr()


def follow(
    module: nn.Module, forward: Callable[[Tensor], Any], image: Tensor, about: Collection[Callable[..., Any]] = ()
) -> tuple[Call, ...]:
    """The tape of one eval pass of `forward`, which runs `module`, over `image` (N C H W).

    about: functions whose arguments are to be kept on the tape
    """
    names = {child: name for name, child in module.named_modules()}
    stack: list[str] = [""]
    handles = []

    def leave(*_: Any) -> None:  # a hook that returns something replaces the module's result
        stack.pop()

    constants = {_storage(tensor) for tensor in (*module.parameters(), *module.buffers())}
    try:
        for child, name in names.items():
            handles.append(child.register_forward_pre_hook(lambda _m, _a, name=name: stack.append(name)))
            handles.append(child.register_forward_hook(leave, always_call=True))
        with torch.inference_mode(mode=False), torch.no_grad(), lent(module):
            image = image.clone()  # an inference tensor counts no versions; the caller's image is not ours to write
            with _Following(image, constants, lambda: stack[-1], about) as following:
                forward(image)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(following.calls)


def shared_results(calls: Sequence[Call], depends: Sequence[bool]) -> tuple[tuple[bool, ...], bool]:
    """Which results must be kept so that only the calls that `depends` need to be made again.

    depends[i]: call i is made again. Gives kept[i]: call i is not, but one that is reads its result; and whether that
    is safe: not so where a call that is made again writes over what is kept, or reads what was overwritten later
    """
    kept = [False] * len(calls)
    first_reader: dict[int, int] = {}
    safe = True
    for index, call in enumerate(calls):
        if depends[index]:
            for parent in call.parents:
                if parent < 0 or not depends[parent]:
                    first_reader.setdefault(parent, index)
                    kept[parent] = kept[parent] or parent >= 0
        for target in call.writes:
            # what is written into again, or what is overwritten after it was read, cannot be kept for the next time
            shared_target = target < 0 or not depends[target]
            if target < 0 or (shared_target and (depends[index] or target in first_reader)):
                safe = False
    kept = [flag and not depends[index] for index, flag in enumerate(kept)]
    for index in reversed(range(len(calls))):
        for earlier in calls[index].aliases if kept[index] else ():
            # the network may go on with the tensor that was written into, or that this is a view of
            if earlier >= 0 and not depends[earlier]:
                kept[earlier] = True
    return tuple(kept), safe


def hollow(result: Any) -> Any:
    """The shape of a result without its memory, where no later call reads its values."""
    if isinstance(result, Tensor):
        return result.new_empty(()).expand(result.shape)
    if type(result) in (list, tuple):
        return type(result)(hollow(item) for item in result)
    return result
