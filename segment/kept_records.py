"""What is logged in another process, to be logged where the command runs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

Record = tuple[str, int, str, tuple[Any, ...]]
"""What is logged: logger, level, message and its arguments."""


class KeptRecords(logging.Handler):
    """Keeps what is logged in another process, to be logged where the command runs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[Record] = []

    def emit(self, record: logging.LogRecord) -> None:
        given = record.args if isinstance(record.args, tuple) else ()
        # an error need not pickle, and is shown as its text
        arguments = tuple(value if isinstance(value, int | float | str) else str(value) for value in given)
        self._kept.append((record.name, record.levelno, str(record.msg), arguments))

    def take(self) -> list[Record]:
        """What was logged since this was last called."""
        kept, self._kept = self._kept, []
        return kept


def keep_records() -> KeptRecords:
    """Keep what this program logs in this process from now on, and show nothing of it."""
    records, logger = KeptRecords(), logging.getLogger("segment")
    logger.addHandler(records)
    logger.propagate = False
    return records


def log_again(records: Iterable[Record]) -> None:
    """Log here what was kept elsewhere."""
    for name, level, message, arguments in records:
        logging.getLogger(name).log(level, message, *arguments)
