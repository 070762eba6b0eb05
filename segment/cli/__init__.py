"""Arguments to one job; the only package that prints or ends the process."""

from __future__ import annotations


def main() -> None:
    """The `segment` command."""
    from segment.cli.app import run

    run()
