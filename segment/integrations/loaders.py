"""The batches of a trainer's loaders, read so that the generators of the process and of the loaders stay as they are.

Must not know a network or a trainer.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segment.errors import MissingExtra
from segment.networks.preserve_state import random_states, restore_random_states

try:
    from lightning.pytorch.utilities import CombinedLoader
except ImportError:
    raise MissingExtra("The callback needs Lightning: pip install 'mcbn-segment[lightning]'.") from None

RandomGenerator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

LONGEST = 1000
"""Entries of the longest list that is searched for generators: one of transforms is short, one of files is long."""

DEEPEST = 10
"""Steps from a loader to a generator: through datasets that wrap one another, compositions and their lists."""


def flat(loaders: Any) -> list[Any]:
    """The single loaders of one, of a list or dictionary of them (also nested), or of a CombinedLoader."""
    combined = loaders if isinstance(loaders, CombinedLoader) else CombinedLoader(loaders)
    return [loader for loader in combined.flattened if loader is not None]


def one_after_the_other(loaders: Sequence[Any], counts: Sequence[float]) -> Iterator[Any]:
    """The batches of the first loader, at most so many as its count says, then those of the next.

    counts: one for each loader, as a trainer gives them; infinite where a loader has no length and no limit
    """
    for loader, count in zip(loaders, counts, strict=True):
        yield from itertools.islice(_with_own_workers(loader), None if math.isinf(count) else int(count))


def in_turn(loaders: Iterable[Any]) -> Iterator[Any]:
    """The first batch of each loader, then the second of each; a loader without further batches is left out."""
    absent = object()
    for batches in itertools.zip_longest(*map(_with_own_workers, loaders), fillvalue=absent):
        yield from (batch for batch in batches if batch is not absent)


def _with_own_workers(loader: Any) -> Any:
    """The same loader with persistent workers of its own: to iterate the trainer's would begin its epoch again."""
    if not isinstance(loader, DataLoader):
        return loader
    other = copy.copy(loader)
    other._iterator = None
    return other


@contextmanager
def preserve_generators(loaders: Iterable[Any]) -> Iterator[None]:
    """Restore the random generators after a block, also after an exception.

    Those of torch (the CPU's, and the GPUs' where CUDA is in use), of NumPy and of Python; and those that the loaders
    hold, as far as attributes, lists and dictionaries lead to them: of their samplers, datasets and transforms.
    """
    own = [_restorer(generator) for generator in _generators_of(loaders)]
    states, numpy, python = random_states(), np.random.get_state(), random.getstate()  # noqa: NPY002 - kept
    with ExitStack() as restored:  # goes on where one of them fails
        for restore in own:
            restored.callback(restore)
        restored.callback(random.setstate, python)
        restored.callback(np.random.set_state, numpy)
        restored.callback(restore_random_states, states)
        yield


def _restorer(generator: RandomGenerator) -> Callable[[], object]:
    """What sets a generator back to its present state."""
    if isinstance(generator, random.Random):
        return partial(generator.setstate, generator.getstate())
    if isinstance(generator, np.random.Generator):
        return partial(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    return partial(generator.set_state, generator.get_state())  # type: ignore[arg-type]


def _generators_of(loaders: Iterable[Any]) -> list[RandomGenerator]:
    """The generators that loaders, their samplers, datasets and transforms hold, each once."""
    generators: list[RandomGenerator] = []
    level, seen = list(loaders), set[int]()
    for _ in range(DEEPEST):
        below: list[Any] = []
        for part in level:
            if id(part) in seen:
                continue
            seen.add(id(part))
            if isinstance(part, RandomGenerator):
                if not isinstance(part, random.SystemRandom):  # has no state
                    generators.append(part)
            else:
                below += _parts_of(part)
        level = below
    return generators


def _parts_of(part: Any) -> Iterable[Any]:
    if isinstance(part, str | bytes | Tensor | np.ndarray | type | ModuleType):
        return ()
    if isinstance(part, dict | list | tuple):
        held = part.values() if isinstance(part, dict) else part
        return held if len(part) <= LONGEST else ()
    if isinstance(part, MethodType):
        return (part.__self__,)
    if isinstance(part, partial):
        return (part.func, *part.args, *part.keywords.values())
    return tuple(getattr(part, "__dict__", {}).values())
