"""One process at a time writes to a run's folder.

Must not know what is written. The lock belongs to the process: the system takes it away when the process ends, however
it ends, so that no crash leaves a folder locked.
"""

from __future__ import annotations

import logging
from pathlib import Path

from filelock import FileLock, Timeout

from segment.errors import WrongUse
from segment.files.writing import unwritable

log = logging.getLogger(__name__)

LOCK = ".lock"


def lock_folder(folder: Path) -> FileLock:
    """The folder, made if it is not there, locked until the lock's `release`.

    On a network file system the lock holds across machines where the server supports locks; a file system without
    locks is used unlocked, with a warning.

    Raises:
        WrongUse: another process, or another run of this one, holds the lock; or the folder cannot be written

    """
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
