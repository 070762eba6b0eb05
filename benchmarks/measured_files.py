"""What commands measured, as tables and figures take it from docs/measured/*.json.

Must not measure anything.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).parent.parent / "docs" / "measured"


def measured(name: str) -> dict[str, Any]:
    """What a command measured, and how. Error: FileNotFoundError where no command has written it."""
    contents: dict[str, Any] = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))
    return contents


def made(*names: str) -> str:
    """The sources of a table's numbers, folded: in HTML, which GitHub and the documentation site show alike."""
    return f"<details><summary>How it was measured</summary>{'<br>'.join(map(_source, names))}</details>"


def _source(name: str) -> str:
    source = measured(name)
    machine, command = source["machine"], escape(source["command"], quote=False)
    vectors = f" ({machine['vectors']})" if "vectors" in machine else ""
    return (
        f"<code>{command}</code>, {source['date']}, torch {source['versions']['torch']}, "
        f"{machine['cores']} cores of {machine['processor']}{vectors}: <code>docs/measured/{name}.json</code>."
    )


def short(value: float, digits: int = 3) -> str:
    """A figure as the documents write it.

    >>> short(0.1239), short(-0.5), short(12.0, 1)
    ('.124', '-.500', '12.0')
    """
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")
