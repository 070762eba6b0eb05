"""What is wrong in a card's file, in the words of YAML in place of pydantic's.

Must not know what a card's values mean to a network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from segment.errors import near, one_line
from segment.networks.card_file import CardFile, InputEntry, TrainingEntry, WeightsEntry

_EXPECTED = {
    "model_type": "a mapping, `key: value`",
    "dict_type": "a mapping, `key: value`",
    "tuple_type": "a list, [a, b]",
    "too_long": "a list of three",
    "string_type": "text",
    "invalid_key": "text",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "string_pattern_mismatch": "64 of the letters 0-9 and a-f",
}
"""What a value is, by pydantic's name of the error; others in its own words."""


def card_error_messages(path: Path, error: ValidationError) -> str:
    """A line for each key that is wrong: the file, the key, and what is wrong there."""
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in error.errors():
        place = each["loc"]
        while place and place[-1] in ("int", "str"):  # a value may be either, and is neither
            place = place[:-1]
        entries.setdefault(place, dict(each))
    return "\n".join(_message(path, place, entry) for place, entry in entries.items())


def _message(path: Path, place: tuple[Any, ...], entry: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in place) or "the card"
    if entry["type"] == "missing" and isinstance(place[-1], int):
        place, entry = place[:-1], entry | {"type": "too_long"}
        key = ".".join(str(part) for part in place)
    if entry["type"] == "missing":
        return f"Card {str(path)!r}: {key} is missing."
    if entry["type"] == "value_error":
        return f"Card {str(path)!r}: {key}: {entry['msg'].removeprefix('Value error, ')}."
    if entry["type"] != "extra_forbidden":
        return f"Card {str(path)!r}: {key}: it is {_expected(key, entry)}."
    inner: dict[Any, type[BaseModel]] = {"weights": WeightsEntry, "input": InputEntry, "training": TrainingEntry}
    known = sorted(inner.get(place[0] if len(place) > 1 else None, CardFile).model_fields)
    return f"Card {str(path)!r}: {key} is not a key of a card.{near(str(place[-1]), known)} Known: {', '.join(known)}."


def _expected(key: str, entry: dict[str, Any]) -> str:
    """What a value is, what was given, and how to write it where that is known."""
    given, kind = entry["input"], entry["type"]
    words = _EXPECTED.get(kind, entry["msg"].removeprefix("Input should be "))
    shown = "empty" if given is None else str(given).lower() if isinstance(given, bool) else one_line(repr(given), 60)
    advice = ""
    if key == "weights" and isinstance(given, str):
        advice = f": write {{file: {given}}}"
    elif words == "text" and isinstance(given, bool | int | float):
        advice = ": put it in quotes" + (", for YAML reads yes, no, on and off so" if isinstance(given, bool) else "")
    return f"{words}, not {shown}{advice}"
