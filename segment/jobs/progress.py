"""Progress of a long job, reported while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called after each step: what is being done, steps done and in all, and draws made so far (0: not counted)."""

    def __call__(self, stage: str, done: int, total: int, draws: int = 0) -> None: ...


def silent(stage: str, done: int, total: int, draws: int = 0) -> None:
    """Report nothing."""
