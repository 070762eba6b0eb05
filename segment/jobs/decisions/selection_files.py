"""A selection as CSV, in place of nothing but an earlier selection.

Must not know how images are ranked.
"""

from __future__ import annotations

import csv
from pathlib import Path

from segment.files import replacing
from segment.files.writing import write_text
from segment.jobs.decisions.select import Selection


def beside_selection(path: Path) -> Path:
    """The file of all images beside that of the images that were asked for."""
    return path.with_name(f"{path.stem}_all{path.suffix}")


def refuse_other_file(path: Path) -> None:
    """Refuse to write a selection over a file that is none, or under another suffix. Errors: WrongUse."""
    for file in (path, beside_selection(path)):
        replacing.refuse_other_file(file, "selection of images", (".csv",), _is_selection)


def write_selection(selection: Selection, path: Path) -> Path:
    """The images that were asked for, and beside them all others in their order, as NAME_all.csv, which is returned.

    Errors: WrongUse where one of the two would replace a file that is no selection.
    """
    refuse_other_file(path)
    everything = beside_selection(path)
    write_text(path, selection.csv())
    write_text(everything, selection.csv(everything=True))
    return everything


def _is_selection(path: Path) -> bool:
    """Whether the first line is that of `Selection.csv`."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            columns = next(csv.reader(stream), [])
    except (OSError, ValueError, csv.Error):
        return False
    return columns[:3] == ["rank", "id", "source"] and (len(columns) == 4 or columns[3:-1] == ["axis"])
