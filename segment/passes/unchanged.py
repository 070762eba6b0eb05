"""Whether a network is as it was, however it was written to. Must not know what is kept of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from segment.networks.modules import checksums, named_modules, version_of

PLAIN = frozenset({bool, int, float, complex, str, bytes, type(None)})
"""Types of attributes that are compared by value."""

ELSEWHERE = frozenset({"training", "_modules", "_parameters", "_buffers"})
"""Attributes of every module that are no settings: passes are in eval mode, and the others are looked at elsewhere."""

LONGEST = 1000
"""Items of a list or dictionary that is compared: a longer one holds no settings."""


class Unchanged:
    """Tensors with their versions, addresses and checksums: `.data` and NumPy write without a new version.

    tensors: gives them, also those that have taken another's place since
    versions: False for buffers that a pass may write to or replace, and that are given back after it
    """

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], *, versions: bool = True) -> None:
        self._tensors, self._versions = tensors, versions
        self._before = self._now()

    def _now(self) -> tuple[list[tuple[int | None, int]], list[float]]:
        tensors = list(self._tensors())
        marks = [(version_of(tensor), tensor.data_ptr()) for tensor in tensors] if self._versions else []
        return marks, checksums(tensors)

    def __bool__(self) -> bool:
        return self._now() == self._before


class SameSettings:
    """What a network's code reads beside parameters and buffers: its parts, their hooks, and attributes.

    Tensors among these are compared by their values, other objects by what they are and not by what they hold.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = _settings(module)

    def __bool__(self) -> bool:
        now = _settings(self._module)
        return len(now) == len(self._before) and all(map(_same, now, self._before))


def _settings(module: nn.Module) -> list[Any]:
    settings: list[Any] = []
    for name, part in named_modules(module):
        settings += (name, part)
        for key, value in vars(part).items():
            if key in ELSEWHERE or value is None or value is False:
                continue
            if isinstance(value, dict | list | tuple):  # most are the empty dictionaries of hooks
                settings += (key, *_of(value, 2)) if value else ()
            else:
                settings += (key, *_of(value, 0))
    return settings


def _of(value: Any, depth: int) -> Iterator[Any]:
    """What is in an attribute, in its lists and dictionaries too."""
    if isinstance(value, nn.Parameter):
        yield value  # its values are looked at elsewhere
    elif isinstance(value, Tensor):
        yield f"{value.dtype} {tuple(value.shape)} {_content(value)}"
    elif not isinstance(value, dict | list | tuple):
        yield value
    elif depth and len(value) <= LONGEST:
        for item in value.items() if isinstance(value, dict) else value:
            yield from _of(item, depth - (not isinstance(value, tuple)))


def _content(value: Tensor) -> float | int:
    """What a tensor holds, in a number; of one without memory of its own, as a sparse one, which object it is."""
    plain = value.layout == torch.strided and not value.is_meta
    return checksums([value])[0] if plain else id(value)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and type(one) in PLAIN and one == other)
