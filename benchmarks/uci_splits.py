"""Finished splits of the UCI experiment, small: `python -m benchmarks.uci_splits OUT/kept docs/measured/uci`.

Without the numbers of each test row, which no table of that experiment needs. Copied back to OUT/kept, they are splits
that `segment experiment uci -o OUT` finds.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from segment.files.writing import write_text

ROWS = ("errors", "spreads")
"""Of each method, a number for each test row."""


def slim(split: Path, folder: Path) -> Path:
    """Write one split without its rows' numbers; where it lies then."""
    content = json.loads(split.read_text())
    for method in content["result"]["methods"].values():
        method.update({key: [] for key in ROWS})
    written = folder / split.name
    write_text(written, json.dumps(content))
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kept", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for split in sorted(arguments.kept.glob("*.json")):
        sys.stdout.write(f"{slim(split, arguments.folder)}\n")


if __name__ == "__main__":
    main()
