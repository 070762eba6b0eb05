"""Tables in Markdown.

Must not know what stands in them.
"""

from __future__ import annotations

from collections.abc import Sequence


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """The lines of a table. right: which columns stand at the right; empty: none.

    >>> markdown(["a"], [["1"]])
    ['| a |', '| --- |', '| 1 |']
    """
    rule = ["---:" if at_right else "---" for at_right in right or [False] * len(columns)]
    return [f"| {' | '.join(line)} |" for line in (columns, rule, *rows)]
