"""Options that belong together, as one parameter of a command: a dataclass whose fields are the options.

Must not know which options there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from inspect import Parameter
from typing import Any, get_type_hints


@dataclass(frozen=True, kw_only=True)
class OptionGroup:
    """Base of a group: each field is an option, annotated as a command's own parameter would be."""


def options_of(parameters: Iterable[Parameter]) -> list[Parameter]:
    """The parameters of a command as typer sees them: in place of a group its options."""
    options = []
    for parameter in parameters:
        if not is_group(parameter):
            options.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))
            continue
        hints = get_type_hints(parameter.annotation, include_extras=True)
        for option in fields(parameter.annotation):
            default = Parameter.empty if option.default is MISSING else option.default
            options.append(
                Parameter(option.name, Parameter.KEYWORD_ONLY, default=default, annotation=hints[option.name])
            )
    return options


def arguments_of(parameters: Iterable[Parameter], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a command, with its groups made of the values of their options."""
    arguments = {}
    for parameter in parameters:
        if is_group(parameter):
            names = [option.name for option in fields(parameter.annotation)]
            arguments[parameter.name] = parameter.annotation(**{name: values[name] for name in names})
        else:
            arguments[parameter.name] = values[parameter.name]
    return arguments


def is_group(parameter: Parameter) -> bool:
    """Whether a parameter stands for several options."""
    return isinstance(parameter.annotation, type) and issubclass(parameter.annotation, OptionGroup)
