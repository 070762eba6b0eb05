"""A command line in a process of its own, whose peak of memory is measured; and photographs to give it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np


def photographs(folder: Path, count: int, height: int, width: int) -> Path:
    folder.mkdir()
    for number in range(count):
        small = np.random.default_rng(number).integers(0, 255, (8, 10, 3), dtype=np.uint8)
        encoded = cv2.imencode(".png", cv2.resize(small, (width, height)))[1]
        (folder / f"{number:03}.png").write_bytes(encoded.tobytes())
    return folder


MEASURED = """
import pathlib, re, sys
from segment.cli import main
try:
    main()
finally:
    line = re.search("VmHWM:[^0-9]*([0-9]+) kB", pathlib.Path("/proc/self/status").read_text())
    print("PEAK", int(line[1]) * 1024, file=sys.stderr)
"""
"""The high water mark of the process itself: `getrusage` would begin at that of the tests, which it was forked from."""


def peak_of(*arguments: str) -> tuple[int, int, str]:
    """Exit code, peak bytes and stderr of a command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    return done.returncode, int(done.stderr.rsplit("PEAK", 1)[1]), done.stderr
