"""Use a network in eval mode and restore its flags, buffers and random state, also after an exception.

Must not know what the network is used for.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segment.networks.modules import named_modules, parameters_and_buffers, version_of

_SEEDED = threading.RLock()
"""Held while the process's random generators are seeded, or restored: another thread would take its numbers there."""


_Copy = tuple[Tensor, int | None, Tensor]
"""A buffer, its version and a copy of its values."""


_LOCKS: weakref.WeakKeyDictionary[nn.Module, threading.RLock] = weakref.WeakKeyDictionary()
"""A lock for each module, held while a block may write to its buffers: another thread would take those for its own."""

_HELD: dict[int, _InEvalMode] = {}
"""By its address, each part that is in eval mode because a block holds it there."""
_HOLDING = threading.Lock()
"""Held while `_HELD` changes."""


@dataclass
class _InEvalMode:
    """A part, whether it was in train mode before, and how many blocks hold it in eval mode."""

    part: nn.Module
    training: bool
    blocks: int = 0


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    """Eval mode while any block of a part is open, in whatever thread. The last to end restores the flag.

    Flags are set one module at a time: `.train()` and `.eval()` may be overridden to skip a frozen encoder.
    """
    held: list[_InEvalMode] = []
    try:
        with _HOLDING:
            for _, part in named_modules(module):
                held.append(_HELD.setdefault(id(part), _InEvalMode(part, part.training)))
                held[-1].blocks += 1
                if part.training:  # setting an attribute of a module is slow, and most are in eval mode already
                    part.training = False
        yield
    finally:
        with _HOLDING:
            for entry in held:
                entry.blocks -= 1
                if entry.blocks <= 0:
                    _HELD.pop(id(entry.part), None)
                    if entry.part.training != entry.training:
                        entry.part.training = entry.training


class StateKeeper:
    """A reusable context manager: a module in eval mode within each block, with the parts that it has by then.

    Blocks of a module that writes to its buffers wait for one another, also in other threads.

    random: whether a pass may draw random numbers, so that the process's generators are restored after it. Else they
    are left alone: what other threads draw meanwhile would come again.
    """

    def __init__(self, module: nn.Module, *, random: bool = True) -> None:
        self.random = random
        self._module = module
        tensors = parameters_and_buffers(module)
        self._devices = sorted({tensor.device.index or 0 for tensor in tensors if tensor.device.type == "cuda"})
        self._copies: dict[int, _Copy] = {}
        self._spare: dict[int, _Copy] = {}  # of the last block, whose memory the next one takes
        self._lock = undisturbed(module)
        self._writes: bool | None = None  # until the first block has ended well
        self._uncounted: set[int] = set()  # ids of buffers that were written to without a new version
        self._ended = False  # whether a block has ended well

    @contextmanager
    def random_state(self) -> Iterator[None]:
        """A block after which the state of the random generators is restored, and nothing else."""
        if not self.random:
            yield
            return
        with _SEEDED, torch.random.fork_rng(devices=self._devices):
            yield

    def seed(self, number: int) -> None:
        """Seed the process's generators for a pass that may draw; only inside a block of this class."""
        if not self.random:
            return
        torch.default_generator.manual_seed(number)
        for device in self._devices:
            torch.cuda.default_generators[device].manual_seed(number)

    def own(self, output: Tensor) -> Tensor:
        """An output made inside a block, copied where it lies in a buffer, which the end of the block restores."""
        if not isinstance(output, Tensor):
            return output
        with torch._C.DisableTorchFunction():
            held = {buffer.untyped_storage()._cdata for buffer, _, _ in self._copies.values()}
            return output.clone() if output.untyped_storage()._cdata in held else output

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Eval mode within a block; flags, buffers and random state are restored after it, also after an exception."""
        with nullcontext() if self._writes is False else self._lock, _eval_mode(self._module):
            yield from self._block()

    def _block(self) -> Iterator[None]:
        registered = [(part, dict(part._buffers)) for _, part in named_modules(self._module) if part._buffers]
        copies = self._copies = self._copied(value for _, by_name in registered for value in by_name.values())
        ended_well = False
        try:
            with self.random_state():
                yield
            ended_well = True
        finally:
            for part, by_name in registered:
                if not _same(part._buffers, by_name):  # a network may replace a buffer by another tensor
                    part._buffers.clear()
                    part._buffers.update(by_name)
            for key, (buffer, version, value) in copies.items():
                if version is None or buffer._version != version or self._changed_uncounted(key, buffer, value):
                    self._writes = True
                    _restore(buffer, value)  # a network may write to its buffers in forward
            self._spare = copies
            if ended_well:
                self._writes, self._ended = bool(self._writes), True

    def _changed_uncounted(self, key: int, buffer: Tensor, value: Tensor) -> bool:
        """Whether a buffer may have other values and no new version: `buffer.data` writes so, for some images only.

        On a GPU, where each comparison waits for the device, those are restored that changed in a first block.
        """
        compared = buffer.device.type == "cpu" or not self._ended
        if key not in self._uncounted and compared and not torch.equal(buffer, value):
            self._uncounted.add(key)
        return key in self._uncounted

    def _copied(self, buffers: Iterable[Tensor | None]) -> dict[int, _Copy]:
        """Each buffer with its version and a copy of its values."""
        copies: dict[int, _Copy] = {}
        spare, self._spare = self._spare, {}  # another block may be open
        with torch.inference_mode(mode=False), torch.no_grad():  # copies outlive the caller's inference mode
            for buffer in buffers:
                if buffer is not None and id(buffer) not in copies:
                    last, _, value = spare.get(id(buffer), (None, None, None))
                    if last is not buffer or value is None or not _alike(value, buffer):
                        value = torch.empty_like(buffer, requires_grad=False)
                    copies[id(buffer)] = buffer, version_of(buffer), value
            if copies:  # one call for all: a network has hundreds of small ones
                given, kept = [buffer for buffer, *_ in copies.values()], [value for *_, value in copies.values()]
                torch._foreach_copy_(kept, given)
        return copies


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device, one.layout) == (other.shape, other.dtype, other.device, other.layout)


def _same(buffers: Mapping[str, Tensor | None], others: Mapping[str, Tensor | None]) -> bool:
    return list(buffers) == list(others) and all(map(operator.is_, buffers.values(), others.values()))


def preserve_state(module: nn.Module, *, random: bool = True) -> AbstractContextManager[None]:
    """Use a module once, in eval mode; see `StateKeeper`."""
    return StateKeeper(module, random=random)()


def undisturbed(module: nn.Module) -> AbstractContextManager[object]:
    """A block in which no other thread runs a pass that writes to the module's buffers, to read them."""
    return _LOCKS.setdefault(module, threading.RLock())


def random_states() -> list[Tensor]:
    """States of the process's random generators: the CPU's, and those of GPUs where one is in use."""
    return [generator.get_state() for generator in _generators()]


def restore_random_states(states: Sequence[Tensor]) -> None:
    """What `random_states` gave."""
    for generator, state in zip(_generators(), states, strict=False):  # a GPU may be new
        generator.set_state(state)


def moved_since(states: Sequence[Tensor]) -> bool:
    """Whether random numbers have been drawn since `random_states` gave these."""
    now = random_states()
    return len(now) != len(states) or not all(map(torch.equal, now, states))


def _generators() -> tuple[torch.Generator, ...]:
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return (torch.default_generator, *(torch.cuda.default_generators if in_use else ()))


def _restore(buffer: Tensor, value: Tensor) -> None:
    if not buffer.is_inference():
        with torch.no_grad():
            buffer.copy_(value)
    elif not torch.equal(buffer, value):
        with torch.inference_mode():  # an inference tensor can be written only here
            buffer.copy_(value)
