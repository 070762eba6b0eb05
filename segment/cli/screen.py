"""What a person sees: progress on a terminal, quiet in a pipe; tables; one line for a refusal."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

WIDE = 120
"""Columns where there is no terminal to ask."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())


def set_up(*, verbose: bool = False) -> None:
    """Warnings of ours in one line each on stderr; other libraries' stay out of the way unless asked for."""
    handler = RichHandler(console=err, show_time=False, show_path=False, markup=False)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("segment")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    ours.propagate = False
    if not verbose:
        warnings.simplefilter("ignore")


class Shown:
    """A job's progress as bars, with images/s or draws/s and the time left; nothing where stderr is no terminal."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self._tasks: dict[str, tuple[Any, float, int]] = {}

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None:
        if self._bar is None:
            return
        now = time.monotonic()
        if stage not in self._tasks:
            self._tasks[stage] = (self._bar.add_task(stage, total=total, rate=""), now, done - 1)
        task, start, before = self._tasks[stage]
        seconds = max(now - start, 1e-6)
        counted = "draws" if draws and draws == done else "images"
        rate = f"{(done - before) / seconds:.1f} {counted}/s" if done - before > 1 else ""
        if draws and counted == "images" and rate:
            rate += f"  {draws / seconds:.0f} draws/s"
        self._bar.update(task, completed=done, total=total, rate=rate)


@contextmanager
def progress() -> Iterator[Shown]:
    """Bars for the time of a job."""
    if not err.is_terminal:
        yield Shown(None)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=err, transient=True) as bar:
        yield Shown(bar)


def table(title: str, columns: list[str], rows: list[list[str]], caption: str = "") -> None:
    """A table: the first column left, numbers right."""
    shown = Table(title=title, title_justify="left", caption=caption, caption_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        shown.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        shown.add_row(*row)
    out.print(shown)


def say(text: str) -> None:
    out.print(text, markup=False)


def as_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def refuse(text: str) -> None:
    err.print(f"[bold red]Error:[/] {text.replace('[', chr(92) + '[')}")
