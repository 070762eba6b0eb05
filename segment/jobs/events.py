"""What happens to single images of a long job, for a program that follows it: records of the logger `segment.events`.

Each record's `event` is a mapping of JSON values. Nothing is made where nobody listens. Must not know who does.
"""

from __future__ import annotations

import logging

EVENTS = logging.getLogger("segment.events")
EVENTS.propagate = False  # no text for people


def report_image(id: str, seconds: float, error: str | None = None, *, stage: str) -> None:
    """An image that is done, or failed. seconds: of its passes; stage: as in the progress of the job."""
    if not EVENTS.handlers:
        return
    event = {"event": "image", "stage": stage, "id": id, "status": "done" if error is None else "failed"}
    more = {"seconds": round(seconds, 4)} | ({} if error is None else {"error": error})
    EVENTS.info(event, extra={"event": event | more})
