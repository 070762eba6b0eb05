"""A command line of segment in a process of its own: how it ends, its peak of memory and its seconds."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """peak_bytes: the high water mark of its resident memory that the system kept; seconds: on the clock."""

    code: int
    peak_bytes: int
    seconds: float
    processor_seconds: float


def run_command(arguments: list[str], log: Path) -> Ended:
    """Waits for `segment ARGUMENTS`; its stderr goes into `log`, its stdout nowhere."""
    begun = time.perf_counter()
    process = os.fork()
    if process == 0:
        with log.open("wb") as stream, Path(os.devnull).open("wb") as nothing:
            os.dup2(stream.fileno(), 2)
            os.dup2(nothing.fileno(), 1)
            os.execv(sys.executable, [sys.executable, "-m", "segment", *arguments])
    _, status, used = os.wait4(process, 0)
    return Ended(
        code=os.waitstatus_to_exitcode(status),
        peak_bytes=used.ru_maxrss * 1024,
        seconds=round(time.perf_counter() - begun, 1),
        processor_seconds=round(used.ru_utime + used.ru_stime, 1),
    )
