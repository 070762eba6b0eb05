"""The state of a file that differs once it has been written to or replaced: what kept contents are held against."""

from __future__ import annotations

import os
from pathlib import Path

FileState = tuple[int, int, int, int]
"""Size, times of the last change of the content and of the entry (ns), inode."""


def state_in(status: os.stat_result) -> FileState:
    """The state that a file's status tells. The entry's time differs also where the content's was set back."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def state_of(path: str | Path) -> FileState | None:
    """The state of a file as it is now; None where there is none or it cannot be asked."""
    try:
        return state_in(Path(path).stat())
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
