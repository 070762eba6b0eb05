"""A YAML of options to the options of a command; a key that nobody reads is refused.

Must not know what an option means: the command checks values, as if they stood on the command line.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import yaml
from pydantic import ConfigDict, RootModel, ValidationError

from segment.errors import WrongUse, near
from segment.safe_yaml import read_yaml

UNSET = ("", "~", "null")


class _Options(RootModel[dict[str, str | list[str]]]):
    model_config = ConfigDict(strict=True)


def read_options(path: Path, known: Collection[str], several: Collection[str] = ()) -> dict[str, str | list[str]]:
    """The options in a YAML file, by their long names (`heat-max` or `heat_max`), each as its text on a command line.

    several: options that may be given more than once, and so stay lists; any other list is joined with commas
    Errors: WrongUse where the file does not read, is no mapping of plain values, names an option that is unknown, or
    one twice.
    """
    try:
        # all scalars as text: `tile: off` is no boolean here, nor `draws: 1.5` the number 1
        content = read_yaml(path, f"--config {str(path)!r}", yaml.BaseLoader)
    except FileNotFoundError as error:
        raise WrongUse(f"--config {str(path)!r} cannot be read: {error.strerror}.") from None
    try:
        options = _Options.model_validate(content or {}).root
    except ValidationError:
        raise WrongUse(
            f"--config {str(path)!r} should hold `option: value` lines with plain values or lists of them."
        ) from None
    options_read: dict[str, str | list[str]] = {}
    spelled: dict[str, str] = {}
    for key, value in options.items():
        name = key.replace("-", "_")
        if name not in known:
            raise WrongUse(
                f"--config {str(path)!r}: this command has no option {key!r}.{near(name, known)} "
                f"Known: {', '.join(sorted(known))}."
            )
        if (other := spelled.setdefault(name, key)) != key:
            raise WrongUse(f"--config {str(path)!r} has {other!r} and {key!r}, the same option. Keep one of them.")
        if value in UNSET:
            continue
        listed = value if isinstance(value, list) else [value]
        options_read[name] = listed if name in several else ",".join(listed)
    return options_read
