"""Arguments to one job; the only package that prints or ends the process."""

from __future__ import annotations

import os
import sys


def _open_streams() -> None:
    """Output that was closed (`>&-`) goes nowhere; else a file that is opened later would take its number."""
    if sys.stdout is not None and sys.stderr is not None:
        return
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123 - for good


def main() -> None:
    """The `segment` command."""
    _open_streams()
    try:
        from segment.cli.app import run
    except KeyboardInterrupt:  # pressed before there is anything that could say so
        sys.exit(130)
    run()
