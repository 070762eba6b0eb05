"""What a long job reports while it runs: its progress, and the images that are done, for a program that follows it.

An image is a record of the logger `segment.events`, whose `event` is a mapping of JSON values; no record is made where
nobody listens. Must not know who does.
"""

from __future__ import annotations

import logging
from typing import Protocol

EVENTS = logging.getLogger("segment.events")
EVENTS.propagate = False  # no text for people


class Progress(Protocol):
    """Called after each step: what is being done, steps done and in all, and draws made so far (0: not counted)."""

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None: ...


def silent(stage: str, done: int, total: int, draws: int = 0) -> None:
    """Report nothing."""


def report_image(id: str, seconds: float, error: str | None = None, *, stage: str) -> None:
    """An image that is done, or failed. seconds: of its passes; stage: as in the progress of the job."""
    if not EVENTS.handlers:
        return
    event = {"event": "image", "stage": stage, "id": id, "status": "done" if error is None else "failed"}
    more = {"seconds": round(seconds, 4)} | ({} if error is None else {"error": error})
    EVENTS.info(event, extra={"event": event | more})
