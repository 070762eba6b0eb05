"""What the parser of the command line says of wrong options, in one line.

Must not know a command.
"""

from __future__ import annotations

import re
from typing import Any

_NOT_VALID = re.compile("Input should be a valid ([a-z]+)(, unable to [a-z ]+)?")
_KINDS = {"boolean": "true or false", "integer": "a whole number", "number": "a number"}


def parser_error_message(error: Any) -> str:
    """The parser's error, with the file where `--config` gave the value; "" where the help is on the screen already."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return ""
    message = " ".join(error.format_message().split()).rstrip(".")
    message = _NOT_VALID.sub(lambda match: f"it is {_KINDS.get(match[1], match[1])}", message)
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None:
        return f"{message}."
    source = None if parameter is None else context.get_parameter_source(parameter.name)
    if source is not None and source.name == "DEFAULT_MAP":
        message = f"--config {str(context.params['config'])!r}: {message}"
    return f"{message}. See `{context.command_path} --help`."
