"""What a stopped experiment goes on from: a file of finished work, which serves the settings that it was made with.

Must not know what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segment.errors import WrongUse


def refuse_others(path: Path, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Nothing for a file that was made with what is wanted.

    Error: WrongUse for any other: it may hold hours of work, so that it is neither read nor replaced.
    """
    other = differences(made_with, wanted)
    if other:
        raise WrongUse(
            f"{str(path)!r} was made with other settings ({', '.join(other)}). Name another folder with -o, or the "
            "budget and seed that it was made with; or remove it to make it anew."
        )


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that one of the two lacks.

    >>> differences({"seed": 0, "draws": 8}, {"seed": 0, "draws": 16, "folds": 5})
    ['draws', 'folds']
    """
    missing = object()
    return [key for key in {**first, **second} if first.get(key, missing) != second.get(key, missing)]
