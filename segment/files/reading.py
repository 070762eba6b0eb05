"""JSON that an earlier run of this program wrote, read back with its types checked.

Must not know what the content is for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from segment.errors import WrongUse, one_line
from segment.stores.copies import here

Content = TypeVar("Content")


def read_json(path: Path, content: type[Content], *, advice: str) -> Content:
    """The content of a JSON file, as the type that it must have.

    Args:
        path: the file
        content: a dataclass, a TypedDict or a type such as `dict[str, float]`
        advice: what to do about a file that is damaged, as "Remove it to begin anew."

    Raises:
        WrongUse: the file cannot be read, is no JSON, or lacks a part; in one line

    """
    try:
        with here(path) as copy:
            return TypeAdapter(content).validate_json(copy.read_bytes())
    except OSError as error:
        raise WrongUse(f"{str(path)!r} cannot be read: {error.strerror or error}.") from None
    except ValidationError as error:
        raise WrongUse(f"{str(path)!r} is damaged or of another version: {first_error(error)}. {advice}") from None


def first_error(error: ValidationError) -> str:
    """Where content is not as it must be, and how, in one line: the first place of several."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return one_line(f"{place + ': ' if place else ''}{one_line(first['msg'], 120)}")
