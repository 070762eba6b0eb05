"""Folders for files that go with the process; those of processes that were killed are taken away by the next one."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "segment-scratch-"
LOCK = ".used"

YOUNG = 60.0
"""Seconds for which a folder is left alone, for it may be just being made."""

_locks: dict[Path, FileLock] = {}
_making = threading.Lock()
_looked: list[bool] = []


def scratch_folder() -> Path:
    """A new folder among the system's temporary ones, which is gone when the process has ended."""
    with _making:
        if not _looked:
            _looked.append(True)
            atexit.register(_remove_all)
            for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
                _remove_if_left(folder)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        _locks[folder] = FileLock(folder / LOCK, blocking=False, thread_local=False)
        _locks[folder].acquire()
        return folder


def remove_scratch(folder: Path) -> None:
    """Take one away before the process ends."""
    shutil.rmtree(folder, ignore_errors=True)
    if (lock := _locks.pop(folder, None)) is not None:
        lock.release()


def _remove_all() -> None:
    for folder in list(_locks):
        remove_scratch(folder)


def _remove_if_left(folder: Path) -> None:
    """The system has unlocked what a process held that was killed. Other users' folders are theirs."""
    try:
        if time.time() - (folder / LOCK).stat().st_mtime < YOUNG:
            return
    except OSError:
        return
    lock = FileLock(folder / LOCK, blocking=False, thread_local=False)
    with suppress(Timeout, OSError, NotImplementedError):
        lock.acquire()
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
