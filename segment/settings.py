"""A YAML of options to the options of a command; a key that nobody reads is refused.

Must not know what an option means: the command checks values, as if they stood on the command line.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, RootModel, ValidationError

from segment.errors import WrongUse, near

Scalar = str | int | float | bool | None


class _Options(RootModel[dict[str, Scalar | list[Scalar]]]):
    model_config = ConfigDict(strict=True)


def read_options(path: Path, known: Collection[str]) -> dict[str, Any]:
    """The options in a YAML file, by their long names (`heat-max` or `heat_max`); a list is joined with commas.

    Errors: WrongUse where the file does not read, is no mapping of plain values, or names an option that is unknown.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WrongUse(f"--config {str(path)!r} does not read as YAML: {' '.join(str(error).split())[:160]}.") from None
    try:
        options = _Options.model_validate({} if found is None else found).root
    except ValidationError:
        raise WrongUse(
            f"--config {str(path)!r} should hold `option: value` lines with plain values or lists of them."
        ) from None
    settled: dict[str, Any] = {}
    for key, value in options.items():
        name = key.replace("-", "_")
        if name not in known:
            raise WrongUse(
                f"--config {str(path)!r}: this command has no option {key!r}.{near(name, known)} "
                f"Known: {', '.join(sorted(known))}."
            )
        settled[name] = ",".join(str(item) for item in value) if isinstance(value, list) else value
    return settled


