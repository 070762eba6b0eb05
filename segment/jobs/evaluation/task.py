"""What one call of `Scoring.run` is to do, and how far it is.

Must not know how an image is scored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from segment.jobs.progress import Progress, silent

Change = Callable[[NDArray[Any], str], NDArray[Any]]
"""What is done to an image before the network sees it (a corruption); its id seeds it."""


@dataclass
class ScoringCall:
    """A call of `Scoring.run`, whose arguments it holds.

    total: of the images; number: of those that are tried; passes: made; saved: when the state was, last
    elsewhere: whether this is another process, which reports nothing; threads: of torch there
    spent: seconds of each image that was counted there
    """

    change: Change | None = None
    stage: str = "evaluating"
    save: Callable[[], None] | None = None
    progress: Progress = silent
    total: int = 0
    number: int = 0
    passes: int = 0
    saved: float = field(default_factory=time.monotonic)
    elsewhere: bool = False
    threads: int = 1
    spent: dict[str, float] = field(default_factory=dict)
