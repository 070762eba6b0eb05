"""Arguments to one job; the only package that prints or ends the process."""

from __future__ import annotations

import io
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


def _write_any_character() -> None:
    """A character that the output's encoding lacks, as an arrow in cp1252, is written as its code and ends no run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def main() -> None:
    """The `segment` command."""
    _open_streams()
    _write_any_character()
    try:
        from segment.cli.app import run
    except KeyboardInterrupt:  # pressed before there is anything that could say so
        sys.exit(130)
    run()
