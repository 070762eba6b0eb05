"""What scores.json and comparisons.json must hold to be shown: of their parts, those that are read; more may be there.

Must not know who shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError, model_validator

from segment.errors import WrongUse
from segment.files.reading import first_error

Numbers = list[float | None]


class _Entry(BaseModel):
    value: float | None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    holm_p: float | None = None
    bank_sd: float | None = None

    @model_validator(mode="after")
    def _has_both_ends(self) -> Self:
        if (self.low is None) != (self.high is None):
            raise ValueError("one end of the interval is missing")
        return self


class _Curve(BaseModel):
    x: Numbers
    y: Numbers
    low: Numbers = []
    high: Numbers = []
    pixels: list[int] = []


class MethodScores(BaseModel):
    """The scores of a method in scores.json, or of a row of a sweep."""

    passes_per_image: int
    scores: dict[str, _Entry]
    curves: dict[str, _Curve] = {}
    over_deterministic: dict[str, _Entry] = {}


class Scores(BaseModel):
    """The shape of scores.json, an evaluation's or a sweep's."""

    images: int
    pixels: int
    methods: dict[str, MethodScores]
    warnings: list[str] = []


class _Gain(BaseModel):
    method: str
    rival: str
    differences: dict[str, _Entry]


class Comparisons(BaseModel):
    """The shape of comparisons.json."""

    gains: list[_Gain]


def checked(content: Mapping[str, Any] | None, shape: type[BaseModel], path: Path) -> Mapping[str, Any] | None:
    """The content as it is. Errors: WrongUse where a part is missing or of another type, naming the first."""
    if content is not None:
        try:
            shape.model_validate(content)
        except ValidationError as error:
            raise WrongUse(
                f"{str(path)!r} does not hold what an evaluation writes: {first_error(error)}. Run the command again."
            ) from None
    return content
