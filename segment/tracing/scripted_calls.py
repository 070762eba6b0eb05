"""Calls of scripted code that give Python something other than tensors: no TorchFunctionMode intercepts them.

A tensor that scripted code has made is of unknown origin, which shows; a decision or a number does not. Must not know
what is done with such a call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

SCRIPTED: tuple[Any, ...] = (torch._C.ScriptFunction, torch._C.ScriptMethod)
_CALLS = [kind.__call__ for kind in SCRIPTED]

Report = Callable[[Callable[..., Any]], object]
"""Is called with `torch.jit.ScriptFunction`, or what else was called."""

_LOCK = threading.Lock()
_REPORTS: list[tuple[int, Report]] = []
"""The thread and the report of each open block."""


@contextmanager
def reported_scripted_values(report: Report) -> Iterator[None]:
    """A block in which `report` is called after each call of scripted code, by this thread, that gives other values."""
    entry = threading.get_ident(), report
    with _LOCK:
        _REPORTS.append(entry)
        for kind, call in zip(SCRIPTED, _CALLS, strict=True):
            kind.__call__ = _reporting(kind, call)
    try:
        yield
    finally:
        with _LOCK:
            _REPORTS.remove(entry)
            if not _REPORTS:
                for kind, call in zip(SCRIPTED, _CALLS, strict=True):
                    kind.__call__ = call


def _reporting(kind: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    def reporting(*args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        if not _only_tensors(result):
            for thread, report in tuple(_REPORTS):
                if thread == threading.get_ident():
                    report(kind)
        return result

    return reporting


def _only_tensors(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_only_tensors, value))
    if isinstance(value, dict):
        return all(map(_only_tensors, value.values()))
    return value is None or isinstance(value, Tensor)
