"""One process at a time writes to the folder of a run, of a tuned setting or of an experiment, or to a page.

Must not know what is written. The lock belongs to the process: the system takes it away when the process ends, however
it ends, so that no crash leaves a folder locked.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from segment.errors import WrongUse
from segment.files.writing import unwritable
from segment.stores.urls import refuse_file_url

log = logging.getLogger(__name__)

LOCK = ".lock"
PARTS = re.compile(r"\..*\.\d+(-\d+)?\.part(\.\w+)*")
"""What `segment.files.writing` writes before it has its name: hidden, with the number of the process."""


def lock_folder(folder: Path) -> FileLock:
    """The folder, made if it is not there, locked until the lock's `release`.

    On a network file system the lock holds across machines where the server supports locks; a file system without
    locks is used unlocked, with a warning.

    Raises:
        WrongUse: another process, or another run of this one, holds the lock; the folder cannot be written or is a
            URL of a file here

    """
    refuse_file_url(folder)
    lock = FileLock(folder / LOCK, blocking=False, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise WrongUse(
            f"Another process is writing to {str(folder)!r}. Wait until it has ended, or choose another folder."
        ) from None
    except NotImplementedError:
        log.warning("The file system of %r has no locks: take care that no other process writes there.", str(folder))
    except OSError as error:
        raise unwritable(folder, error) from error
    return lock


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """The folder is locked within the block, and rid of what killed processes left half-written.

    Raises:
        WrongUse: as for `lock_folder`

    """
    lock = lock_folder(folder)
    try:
        remove_parts(folder)
        yield
    finally:
        lock.release()


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """One process at a time is within the block for a file, which another waits for; its lock is a hidden file.

    A file system without locks is used unlocked. Errors: WrongUse where nothing can be written there.
    """
    lock = FileLock(path.with_name(f".{path.name}{LOCK}"), thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except NotImplementedError:
        log.warning("The file system of %r has no locks: take care that no other process writes there.", str(path))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield
    finally:
        lock.release()


def remove_parts(folder: Path) -> None:
    """Take away what a kill left half-written in a folder, and below it but where another lock lies.

    Only for who has the folder locked.
    """
    for place, below, files in os.walk(folder):
        if LOCK in files and Path(place) != folder:
            below.clear()
            continue
        for name in filter(PARTS.fullmatch, files):
            Path(place, name).unlink(missing_ok=True)
        for name in filter(PARTS.fullmatch, below):
            shutil.rmtree(Path(place, name), ignore_errors=True)
