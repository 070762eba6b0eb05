"""What a person sees: bars on a terminal or in a notebook, lines in a log; tables; one line for a refusal.

NO_COLOR is obeyed, and a pipe gets plain text: rich sees to both.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from segment.cli import event_log
from segment.jobs.progress import Progress, silent

WIDE = 80
"""Columns where there is no terminal to ask."""
EVERY = 30.0
"""Seconds between two lines of progress in a log."""
NARROW = 30
"""Columns that a column of words may be folded to."""
GAP, EDGES = 3, 2
"""Columns between two columns of a table, and at its left and right edge together."""


def _output_to_nowhere() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Output(Console):
    """Standard output. Where its reader has gone (`| head`), the work goes on and decides the exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _output_to_nowhere()


out = _Output(highlight=False, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False)
_quiet = False
last_error = ""
"""What `refuse` showed; "" before."""

UNITS = {
    "recording draws": "draws",
    "passing the bank over": "views",
    "refining": "steps",
    "training": "steps",
    "intervals of": "settings",
    "cross-validating": "settings",
}
"""What a stage counts, where that is not images, by how its name begins."""


def set_quiet(*, quiet: bool) -> None:
    """Whether progress and text are left out from now on; JSON, warnings and errors stay."""
    global _quiet
    _quiet = quiet


class _Begun:
    """When each stage of a job began, and with how much done; anew where it begins again, as with a second bank."""

    def __init__(self) -> None:
        self._stages: dict[str, tuple[float, int, int, int]] = {}

    def __call__(self, stage: str, done: int, draws: int = 0) -> tuple[float, int, int]:
        start, done_before, draws_before, last = self._stages.get(stage, (0.0, 0, 0, done + 1))
        if done < last:
            start, done_before, draws_before = time.monotonic(), done, draws
        self._stages[stage] = start, done_before, draws_before, done
        return start, done_before, draws_before


class ProgressBars:
    """A job's progress as bars, with images/s or draws/s and the time left."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}
        self._begun = _Begun()

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total, rate="")
        start, done_before, draws_before = self._begun(stage, done, draws)
        rates = []
        if done > done_before:
            seconds = max(time.monotonic() - start, 1e-6)
            unit = _unit(stage)
            rates.append(f"{_short((done - done_before) / seconds)} {unit}/s")
            if draws > draws_before and unit == "images":
                rates.append(f"{_short((draws - draws_before) / seconds)} draws/s")
        self._bar.update(self._tasks[stage], completed=done, total=total, rate="  ".join(rates))


class ProgressLines:
    """A job's progress as a line of text every EVERY seconds, for logs and pipes; nothing for a job that is shorter."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._begun = _Begun()
        self._now = ("", 0, 0, 0.0, 0)
        self._last = time.monotonic()

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None:
        start, before, _ = self._begun(stage, done)
        self._now = (stage, done, total, start, before)
        self.line()

    def line(self) -> None:
        """Print where the job is, unless a line was printed not long ago."""
        stage, done, total, start, before = self._now
        now = time.monotonic()
        if now - self._last < self._every or not stage:
            return
        self._last = now
        unit = _unit(stage)
        rate = (done - before) / max(now - start, 1e-6)
        so_far, left = f"{_clock(now - start)} so far", (total - done) / max(rate, 1e-6)
        rest = f"{_short(rate)} {unit}/s, {_clock(left)} left" if rate > 0 else so_far
        err.print(Text(f"{stage}: {done} of {total} {unit}, {rest}"), soft_wrap=True)

    def keep_printing(self, ended: threading.Event) -> None:
        """Lines also while a step takes long, as a large raster's does, until the job has ended."""
        while not ended.wait(max(self._every, 1.0)):
            self.line()


def _unit(stage: str) -> str:
    """What a stage counts.

    >>> _unit("intervals of clean images"), _unit("refining"), _unit("evaluating")
    ('settings', 'steps', 'images')
    """
    return next((unit for begin, unit in UNITS.items() if stage.startswith(begin)), "images")


def _clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any.

    >>> _clock(75), _clock(3675)
    ('1:15', '1:01:15')
    """
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def _short(rate: float) -> str:
    """Two digits, and no power of ten.

    >>> _short(1234.5), _short(3.14159), _short(0.0314)
    ('1234', '3.1', '0.031')
    """
    return f"{rate:.0f}" if rate >= 10 else f"{rate:.2g}"


@contextmanager
def progress() -> Iterator[Progress]:
    """What shows the progress of a job to people, and where `--log-json` asks for it to programs.

    From Python: `with segment.progress() as shown: segment.predict(..., progress=shown)`.
    """
    log = event_log.current()
    if log is not None and log.on_stderr:
        yield log.progress
        return
    with _shown_progress() as shown:
        if log is None:
            yield shown
            return
        reported = log.progress

        def both(stage: str, done: int, total: int, draws: int = 0) -> None:
            shown(stage, done, total, draws)
            reported(stage, done, total, draws)

        yield both


@contextmanager
def _shown_progress() -> Iterator[Progress]:
    """Bars on a terminal and in a notebook, else a line every EVERY seconds."""
    if _quiet:
        yield silent
        return
    notebook = err.is_jupyter and find_spec("ipywidgets") is not None
    if not (err.is_terminal or notebook):
        lines, ended = ProgressLines(), threading.Event()
        thread = threading.Thread(target=lines.keep_printing, args=(ended,), daemon=True)
        thread.start()
        try:
            yield lines
        finally:
            ended.set()
            thread.join()
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


def table(
    title: str,
    columns: list[str],
    rows: list[list[str]],
    *,
    words: Collection[str] = (),
    keys: int = 1,
    ends: Collection[int] = (),
) -> None:
    """A table: numbers right; the first `keys` columns and those named in `words` left.

    ends: numbers of rows below which a section of the table ends.

    One that is wider than the screen goes on in further tables, which repeat those first columns: they name a row.
    """
    if _quiet:
        return
    for part, chosen in enumerate(_parts(columns, rows, words, out.width - EDGES, keys)):
        heading = Text(title) if part == 0 else None
        shown = Table(title=heading, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
        for number in chosen:
            left = number < keys or columns[number] in words
            how: Any = {} if left else {"justify": "right", "no_wrap": True}
            shown.add_column(Text(columns[number]), overflow="fold", **how)
        for place, row in enumerate(rows):
            shown.add_row(*(Text(row[number]) for number in chosen), end_section=place in ends)
        out.print(shown)


def _parts(
    columns: Sequence[str], rows: list[list[str]], words: Collection[str], width: int, keys: int = 1
) -> list[list[int]]:
    r"""Which columns stand side by side, each part within the width; the first `keys` columns are in each.

    >>> _parts(["name", "a", "b"], [["x" * 10, "1" * 6, "2" * 6]], (), 25), _parts(["name", "a"], [], (), 80)
    ([[0, 1], [0, 2]], [[0, 1]])
    >>> _parts(["name", "a", "b"], [["x" * 10, "1" * 6 + "\n" + "2" * 6, "3" * 6]], (), 28)
    [[0, 1, 2]]
    """
    needed = []
    for number, column in enumerate(columns):
        longest = max(len(line) for cell in (column, *(row[number] for row in rows)) for line in cell.split("\n"))
        needed.append(min(longest, NARROW) if column in words or number < keys else longest)
    first = sum(needed[:keys]) + GAP * (keys - 1)
    parts, used = [list(range(keys))], first
    for number in range(keys, len(columns)):
        if len(parts[-1]) > keys and used + GAP + needed[number] > width:
            parts.append(list(range(keys)))
            used = first
        parts[-1].append(number)
        used += GAP + needed[number]
    return parts


def print_text(text: str) -> None:
    if _quiet:
        return
    message(out, Text(text))


def as_json(value: Any) -> None:
    try:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        _output_to_nowhere()


def refuse(text: str) -> None:
    """Show the error that ends a command; `last_error` keeps it."""
    global last_error
    last_error = text
    if (log := event_log.current()) is not None and log.on_stderr:
        return
    message(err, Text.assemble(("Error: ", "bold red"), text))


def message(console: Console, text: Text) -> None:
    """Text of several styles, wrapped on a terminal alone: one line in a pipe, however long."""
    console.print(text, soft_wrap=not console.is_terminal)
