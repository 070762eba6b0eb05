"""What the jobs log, on the screen and in the event log.

Warnings that say the same of image after image are shown a few times: a run's manifest names every image that failed.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter

from rich.text import Text

from segment.cli import event_log, screen

ALIKE = 5
"""Warnings that differ in names and numbers alone and are shown."""
_NAMES_AND_NUMBERS = re.compile(r"""'[^']*'|"[^"]*"|\d+""")


def without_details(text: str) -> str:
    """The text without its quoted names and its numbers: equal for sentences that say the same of other images.

    >>> without_details("'a.png' holds 3 bytes") == without_details("'b.png' holds 14 bytes")
    True
    """
    return _NAMES_AND_NUMBERS.sub("...", text)


def warn(text: str) -> None:
    """Show a warning of a command's result, as those that jobs log: on stderr, with --quiet too."""
    logging.getLogger("segment").warning("%s", text)


class LogHandler(logging.Handler):
    """What the jobs log, above the progress bars. most: warnings that are alike and are shown; None: all."""

    def __init__(self, most: int | None) -> None:
        super().__init__()
        self._most = most
        self._alike: Counter[tuple[str, ...]] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        text, warned = record.getMessage(), record.levelno >= logging.WARNING
        if (log := event_log.current()) is not None:
            log.write({"event": "message", "level": record.levelname.lower(), "message": text})
            if log.on_stderr:
                return
        if warned and self._most is not None:
            # an argument in one word names something; one of several is a reason, which makes the warning another one
            texts = [str(value) for value in record.args] if isinstance(record.args, tuple) else []
            kind = (str(record.msg), *(without_details(text) for text in texts if " " in text))
            self._alike[kind] += 1
            if self._alike[kind] > self._most:
                return
            if self._alike[kind] == self._most:
                text += " (Further warnings of this kind are not shown; --verbose shows all.)"
        screen.message(screen.err, Text.assemble(("Warning: " if warned else "", "bold yellow"), text))


def set_up(*, verbose: bool = False) -> None:
    """Warnings of ours in one line each on stderr; other libraries' stay out of the way unless asked for."""
    ours = logging.getLogger("segment")
    ours.handlers = [LogHandler(None if verbose else ALIKE)]
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    ours.propagate = False
    if not verbose:
        warnings.simplefilter("ignore")
