"""The modules, parameters and buffers of a network, read from torch's own dictionaries.

A network may override `named_modules`, `parameters` or `train`, or keep a list in `self.modules`: torch's methods
cannot be called then. Must not know batch normalisation.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from segment.errors import ModelRefused, one_line

log = logging.getLogger(__name__)


class Wrapper(nn.Module):
    """A module around a network, which it keeps as `network`."""

    network: nn.Module


def named_modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module, the root first under the name "", each once, with torch's order and names.

    The parts of a wrapped network have the names that they have in the network itself.
    """
    seen: set[int] = set()
    waiting: list[tuple[str, nn.Module]] = [("", module)]
    while waiting:
        name, part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield name, part
        for key, child in reversed(part._modules.items()):
            if child is not None:
                own = name if isinstance(part, Wrapper) else f"{name}.{key}" if name else key
                waiting.append((own, child))


def module_named(module: nn.Module, name: str) -> nn.Module:
    """The part that `named_modules` names so."""
    return dict(named_modules(module))[name]


def parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Every parameter of all modules, each once."""
    seen: set[int] = set()
    for _, part in named_modules(module):
        for value in part._parameters.values():
            if value is not None and id(value) not in seen:
                seen.add(id(value))
                yield value


def buffers(module: nn.Module) -> Iterator[Tensor]:
    """Every buffer of all modules."""
    for _, part in named_modules(module):
        yield from (value for value in part._buffers.values() if value is not None)


def parameters_and_buffers(module: nn.Module) -> Iterator[Tensor]:
    """Every parameter, then every buffer, of all modules."""
    yield from parameters(module)
    yield from buffers(module)


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written to; None for an inference tensor, which has no counter."""
    return None if tensor.is_inference() else tensor._version


def checksums(tensors: Iterable[Tensor]) -> list[float]:
    """Of each tensor a weighted sum: another for other values, and in another order."""
    sums = list(map(_weighted_sum, tensors))
    if len({each.device for each in sums}) > 1:
        sums = [each.cpu() for each in sums]
    return torch.stack(sums).tolist() if sums else []  # a GPU is waited for once


def _weighted_sum(tensor: Tensor) -> Tensor:
    values = tensor.detach()
    values = torch.view_as_real(values) if values.is_complex() else values
    # a buffer may be a mask that holds -inf or -1e9, beside which other values would not count
    values = values.float() if isinstance(tensor, nn.Parameter) else values.double().nan_to_num(7.0, 5.0, -3.0)
    rows = values.flatten(1) if values.ndim > 1 else values.reshape(1, -1)
    weights = [
        (_sines if length <= LONGEST_KEPT else _sines.__wrapped__)(length, factor, rows.dtype, rows.device)
        for length, factor in zip(rows.shape, (1.0, math.sqrt(2)), strict=True)
    ]
    with torch.autocast(rows.device.type, enabled=False):
        return (weights[0] @ (rows @ weights[1])).double()


LONGEST_KEPT = 2**14
"""Numbers of a vector of weights that is kept for the next checksum."""


@lru_cache(maxsize=256)
def _sines(length: int, factor: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights of a sum: no sum of sines of whole numbers is that of others, so that masks of as many ones differ."""
    with torch.inference_mode(mode=False), torch.no_grad():
        values = torch.arange(1, length + 1, dtype=torch.float64, device=device)
        return (2 + values.mul_(factor).sin_()).to(dtype)


def values_state(module: nn.Module) -> tuple[list[tuple[int, int | None]], list[float]]:
    """What differs once a parameter or a buffer has other values.

    The addresses of parameters and how often they were written to, and the checksums of all: `.data` and NumPy write
    without counting. A pass may write to a buffer and restore it, which counts as written twice.
    """
    written = [(value.data_ptr(), version_of(value)) for value in parameters(module)]
    return written, checksums(parameters_and_buffers(module))


def first_tensor(module: nn.Module) -> Tensor:
    """The first parameter, else the first buffer, else a float32 on the CPU: images have its device and its type."""
    return next(parameters_and_buffers(module), torch.zeros((), device="cpu"))


def device_of(module: nn.Module) -> torch.device:
    """Where the first parameter or buffer is; the CPU for a module that has none."""
    return next((value.device for value in parameters_and_buffers(module)), torch.device("cpu"))


def copied(module: nn.Module) -> nn.Module:
    """A copy, so that the caller's stays as it is; warns of hooks that hold the original. Errors: ModelRefused."""
    if held := _hooks_that_hold(module):
        log.warning(
            "A hook of %r holds the %s that you gave, and not the copy that is used: what it keeps is of other images. "
            "Let it use the module that it is called with, or name a factory: py:package.module:factory.",
            held[0],
            type(module).__name__,
        )
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ModelRefused(
            f"{type(module).__name__} cannot be copied ({one_line(error, 160)}), and yours is not to be "
            "changed. If it keeps results of its last training step, as weight_norm and spectral_norm do, run it once "
            "under torch.no_grad() before; else name a factory that makes another: py:package.module:factory."
        ) from error


def _hooks_that_hold(module: nn.Module) -> list[str]:
    """Names of the parts with a hook whose closure, which no copy reaches, holds a part or what a part keeps."""
    parts = dict(named_modules(module))
    own = {id(part) for part in parts.values()}
    own |= {id(value) for part in parts.values() for value in vars(part).values() if isinstance(value, dict | list)}
    return [
        name or "(root)"
        for name, part in parts.items()
        for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
        if any(id(value) in own for value in _closed_over(hook))
    ]


def _closed_over(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # an empty cell
            yield cell.cell_contents


def to_eval_mode(module: nn.Module) -> None:
    """Eval mode for a module that is nobody else's, every part of it.

    `eval()` first: a network may override `train` to merge weights or to harden gates. Then each flag: another skips a
    frozen encoder.
    """
    try:
        module.eval()
    except Exception as error:  # whatever the override raises
        log.warning(
            "eval() of %s fails (%s: %s): its parts are set to eval mode one by one, and what its `train` does besides "
            "is not done.",
            type(module).__name__,
            type(error).__name__,
            one_line(error, 160),
        )
    for _, part in named_modules(module):
        part.training = False
