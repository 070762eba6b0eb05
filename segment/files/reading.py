"""Files that an earlier run of this program wrote, read back: their bytes, and JSON with its types checked.

Must not know what the content is for.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from segment.errors import WrongUse, one_line
from segment.stores.copies import here

Content = TypeVar("Content")


def file_bytes(path: Path) -> bytes:
    """The bytes of a file. Errors: OSError, also for a pipe or a device, which would be waited for."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a folder has an error of its own
        raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}: not a regular file", str(path))
    return path.read_bytes()


def json_values(data: bytes | str) -> Any:
    """What JSON holds. Errors: ValueError, also for NaN, infinity, and nesting beyond what Python reads.

    >>> json_values(b'{"a": [1, null]}')
    {'a': [1, None]}
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def as_json_values(content: Any, *, default: Callable[[Any], Any] | None = None) -> Any:
    """The content as it is read back from a JSON file: a tuple is a list, and a key a text.

    default: what stands in place of a value that JSON does not have
    Errors: TypeError for such a value without it; ValueError for a number that is not finite.

    >>> as_json_values({1: (2, 3)})
    {'1': [2, 3]}
    """
    return json.loads(json.dumps(content, allow_nan=False, default=default))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def read_json(path: Path, content: type[Content], *, advice: str) -> Content:
    """The content of a JSON file, as the type that it must have.

    Args:
        path: the file
        content: a dataclass, a TypedDict or a type such as `dict[str, float]`
        advice: what to do about a file that is damaged or not there, as "Remove it to begin anew."

    Raises:
        WrongUse: the file cannot be read, is no JSON, or lacks a part; in one line

    """
    try:
        with here(path) as copy:
            data = file_bytes(copy)
        json_values(data)  # refuses NaN, which pydantic takes
        return TypeAdapter(content).validate_json(data)
    except OSError as error:
        raise WrongUse(f"{str(path)!r} cannot be read: {error.strerror or error}. {advice}") from None
    except ValidationError as error:
        raise WrongUse(f"{str(path)!r} is damaged or of another version: {first_error(error)}. {advice}") from None
    except ValueError as error:
        raise WrongUse(f"{str(path)!r} is damaged or of another version: {one_line(error, 120)}. {advice}") from None


def first_error(error: ValidationError) -> str:
    """Where content is not as it must be, and how, in one line: the first place of several."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return one_line(f"{place + ': ' if place else ''}{one_line(first['msg'], 120)}")
