"""Tables as text: CSV and Markdown.

Must not know what stands in them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


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


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """The lines of a table. right: which columns stand at the right; empty: none.

    >>> markdown(["a"], [["1"]])
    ['| a |', '| --- |', '| 1 |']
    """
    rule = ["---:" if at_right else "---" for at_right in right or [False] * len(columns)]
    return [f"| {' | '.join(line)} |" for line in (columns, rule, *rows)]
