"""What a library that runs processes does to a command's terminal, signals and log, and how that is undone.

Must not import that library.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_DEDUP_LOGS_SKIP_REGEX": ".", "RAY_USAGE_STATS_ENABLED": "0"}
"""A part of Ray's environment, read when it is imported: else it prints, also on stdout, that actors ended."""

LOGGER_OF_TASKS = "ray.data._internal.execution.streaming_executor_state"
"""Where Ray Data logs the errors of tasks that it goes on without; were it another, they would be told less exactly."""


class _LoggedErrors(logging.Filter):
    """Keeps the errors that are logged, and lets nothing through to a handler."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[BaseException] = []

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])
        return False


@contextmanager
def configured(context: Any) -> Iterator[list[BaseException]]:
    """Ray Data without bars and notes; a block whose process ended leaves the others alone.

    Gives the errors of such blocks, which Ray Data only logs; the list grows within the block.
    How often a task is tried again has no parameter of its own yet: the warning that it will is not for users.
    """
    wanted = {"enable_progress_bars": False, "max_errored_blocks": -1, "print_on_execution_start": False}
    before = {name: getattr(context, name) for name in wanted}
    everything, tasks = logging.getLogger("ray.data"), logging.getLogger(LOGGER_OF_TASKS)
    levels = everything.level, tasks.level
    everything.setLevel(logging.CRITICAL)
    tasks.setLevel(logging.ERROR)
    logged = _LoggedErrors()
    tasks.addFilter(logged)
    for name, value in wanted.items():
        setattr(context, name, value)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            yield logged.errors
    finally:
        tasks.removeFilter(logged)
        everything.setLevel(levels[0])
        tasks.setLevel(levels[1])
        for name, value in before.items():
            setattr(context, name, value)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment for processes that are started in the block; those that are set already stay."""
    added = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def same_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself when it starts; it is given back."""
    main = threading.current_thread() is threading.main_thread()
    handler: Callable[..., Any] | int | None = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """What Ray's own library prints while it starts goes nowhere; its errors are raised too."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
