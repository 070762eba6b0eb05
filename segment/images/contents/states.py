"""The state of a file that differs once it has been written to or replaced: what kept contents are held against."""

from __future__ import annotations

import os
from pathlib import Path

FileState = tuple[int, int, int, int]
"""Size, mtime and ctime (ns), inode."""


def state_in(status: os.stat_result) -> FileState:
    """The state in what `stat` gave. The ctime differs even where the mtime was set back, as `cp -p` does."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def state_of(path: str | Path) -> FileState | None:
    """The state of a file as it is now; None where there is none or it cannot be asked."""
    try:
        return state_in(Path(path).stat())
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return None
