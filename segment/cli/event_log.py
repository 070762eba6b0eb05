"""`--log-json`: what a command does as JSON, one event a line, for programs that follow it.

The events: `started`, `progress`, `image`, `message` (warnings, and more with --verbose), `summary`, and last `ended`.
Images are counted as the job reports them; the summary counts those of the whole run.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from segment.jobs.progress import EVENTS
from segment.version import __version__

EVERY = 1.0
"""Seconds between two events of progress in a stage; its first and last step always have one."""
STDERR = "-"


class EventLog(logging.Handler):
    """Writes events as they come. on_stderr: whether they take the place of text there."""

    def __init__(self, stream: TextIO, *, on_stderr: bool) -> None:
        super().__init__(logging.INFO)
        self._stream, self.on_stderr = stream, on_stderr
        self._counts = {"done": 0, "failed": 0}
        self._stage, self._last = "", 0.0
        self._start = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        event: dict[str, Any] = record.event  # type: ignore[attr-defined]
        if event["event"] == "image":
            self._counts[event["status"]] += 1
        self.write(event)

    def summary(self, *, done: int | None, failed: int, **more: Any) -> None:
        """How a run ended, of all its images, also those of earlier processes. done: None: as counted here."""
        self._counts = {"done": self._counts["done"] if done is None else done, "failed": failed}
        self.write({"event": "summary", **self._counts, **more})

    def write(self, event: dict[str, Any]) -> None:
        line = {"time": datetime.now(tz=UTC).isoformat(timespec="milliseconds"), **event}
        with suppress(OSError, ValueError):  # a full disk or a closed pipe is no reason to end the job
            self._stream.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
            self._stream.flush()

    def progress(self, stage: str, done: int, total: int, draws: int = 0) -> None:
        now = time.monotonic()
        if stage == self._stage and done < total and now - self._last < EVERY:
            return
        self._stage, self._last = stage, now
        self.write({"event": "progress", "stage": stage, "done": done, "total": total, "draws": draws})

    def end(self, code: int, error: str) -> None:
        """The last event: exit code, counts of images where there are any, and the error that ended the command."""
        seconds = round(time.monotonic() - self._start, 3)
        ending = {"error": error} if error else {}
        self.write({"event": "ended", "exit_code": code, "seconds": seconds, **self._counts, **ending})
        if not self.on_stderr:
            self._stream.close()


_log: EventLog | None = None


def current() -> EventLog | None:
    """The log of the command that runs; None where none was asked for."""
    return _log


def begin(context: typer.Context, where: str) -> str:
    """Open the log of a command; a file is added to, so that a resumed run goes on with it. Errors: WrongUse."""
    global _log
    if where and _log is None:
        on_stderr = where == STDERR
        stream = sys.stderr if on_stderr else _opened(Path(where))
        _log = EventLog(stream, on_stderr=on_stderr)
        EVENTS.addHandler(_log)
        EVENTS.setLevel(logging.INFO)
        _log.write(
            {
                "event": "started",
                "command": context.info_name,
                "arguments": sys.argv[2:],
                "version": __version__,
                "process": os.getpid(),
            }
        )
    return where


def finish(code: int, error: str) -> None:
    """Write the last event, and close the log."""
    global _log
    if _log is not None:
        EVENTS.removeHandler(_log)
        _log.end(code, error)
        _log = None


def _opened(path: Path) -> TextIO:
    from segment.files.writing import unwritable

    try:
        return path.open("a", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritable(path, error) from error


LogJson = Annotated[
    str,
    typer.Option(
        "--log-json",
        metavar="FILE|-",
        callback=begin,
        show_default=False,
        help="Write what happens as JSON, one event a line, to the end of a file; -: to stderr, in place of its text.",
    ),
]
