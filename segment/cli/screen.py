"""What a person sees: progress on a terminal, quiet in a pipe; tables; one line for a refusal."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

WIDE = 120
"""Columns where there is no terminal to ask."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False)

UNITS = {"recording draws": "draws", "training": "steps"}
"""What a stage counts, where that is not images."""


class _LogHandler(logging.Handler):
    """What the jobs log, above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        warned = record.levelno >= logging.WARNING
        _message(err, Text.assemble(("Warning: " if warned else "", "bold yellow"), record.getMessage()))


def set_up(*, verbose: bool = False) -> None:
    """Warnings of ours in one line each on stderr; other libraries' stay out of the way unless asked for."""
    ours = logging.getLogger("segment")
    ours.handlers = [_LogHandler()]
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    ours.propagate = False
    if not verbose:
        warnings.simplefilter("ignore")


class ProgressBars:
    """A job's progress as bars, with images/s or draws/s and the time left; nothing where stderr is no terminal."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self._tasks: dict[str, tuple[Any, float, int, int]] = {}

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if stage not in self._tasks:
            self._tasks[stage] = (self._bar.add_task(stage, total=total, rate=""), now, done, draws)
        task, start, done_before, draws_before = self._tasks[stage]
        rates = []
        if done > done_before:
            seconds = max(now - start, 1e-6)
            unit = UNITS.get(stage, "images")
            rates.append(f"{_short((done - done_before) / seconds)} {unit}/s")
            if draws > draws_before and unit == "images":
                rates.append(f"{_short((draws - draws_before) / seconds)} draws/s")
        self._bar.update(task, completed=done, total=total, rate="  ".join(rates))


def _short(rate: float) -> str:
    """Two digits, and no power of ten.

    >>> _short(1234.5), _short(3.14159), _short(0.0314)
    ('1234', '3.1', '0.031')
    """
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


@contextmanager
def progress() -> Iterator[ProgressBars]:
    """Bars for the time of a job."""
    if not err.is_terminal:
        yield ProgressBars(None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Bar(*columns, console=err, transient=True) as bar:
        yield ProgressBars(bar)


def table(title: str, columns: list[str], rows: list[list[str]], *, words: Collection[str] = ()) -> None:
    """A table: numbers right; the first column and those named in `words` left."""
    shown = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        left = number == 0 or column in words
        shown.add_column(Text(column), justify="left" if left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    out.print(shown)


def print_text(text: str) -> None:
    _message(out, Text(text))


def as_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def refuse(text: str) -> None:
    _message(err, Text.assemble(("Error: ", "bold red"), text))


def _message(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=not console.is_terminal)  # one line in a pipe, however long
