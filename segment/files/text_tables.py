"""Tables as text: CSV and Markdown.

Must not know what stands in them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.errors import WrongUse, one_line
from segment.files.reading import file_bytes


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any] | Mapping[str, Any]]) -> str:
    """The columns and a line a row, as CSV; None, and a column that a row does not name, is empty.

    Errors: ValueError where a row has another number of values, or names another column.

    >>> csv_text(["id", "error"], [["a", 0.5], {"id": "b"}]).splitlines()
    ['id,error', 'a,0.5', 'b,']
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        fits = row.keys() <= set(columns) if isinstance(row, Mapping) else len(row) == len(columns)
        if not fits:
            raise ValueError(f"A row does not fit the columns {', '.join(columns)}: {row!r}.")
        writer.writerow([row.get(column) for column in columns] if isinstance(row, Mapping) else row)
    return stream.getvalue()


def read_csv(path: Path, *, advice: str) -> list[dict[str, str]]:
    """The rows of a file that `csv_text` wrote, column -> cell.

    advice: what to do about a file that is damaged. Errors: WrongUse where it does not read, or a row is cut short.
    """
    try:
        text = file_bytes(path).decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        if not text.endswith("\n") or any(None in row or None in row.values() for row in rows):
            raise ValueError("a row is cut short or has too many cells")
    except (OSError, ValueError, csv.Error) as error:
        raise WrongUse(f"{str(path)!r} does not read: {one_line(error, 120)}. {advice}") from None
    return rows


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """The lines of a table. right: which columns stand at the right; empty: none.

    >>> markdown(["a"], [["1"]])
    ['| a |', '| --- |', '| 1 |']
    """
    rule = ["---:" if at_right else "---" for at_right in right or [False] * len(columns)]
    return [f"| {' | '.join(line)} |" for line in (columns, rule, *rows)]
