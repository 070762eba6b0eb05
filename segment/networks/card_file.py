"""The keys of a model card, what each may hold, checked by pydantic, and what is wrong in the words of YAML.

Must not know what a card's values mean to a network.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from segment.axes import Head, size_in, size_text
from segment.errors import near, one_line
from segment.images.specs import CHANNEL_ORDERS, Channels, PerChannel, planes_of


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class WeightsEntry(_Strict):
    """`weights:`."""

    file: StrictStr
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


def channels_stated(value: object) -> Channels:
    """The channels that a card or a caller states. Errors: ValueError with what they may be."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    for order in CHANNEL_ORDERS:
        if value == order:
            return order
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        if len(set(value)) < len(value):
            raise ValueError("two channels have the same name")
        return tuple(value)
    known = ", ".join(CHANNEL_ORDERS)
    raise ValueError(f"it is {known}, a number of bands from 1 up, or a list of their names, not {value!r}")


Positive = Annotated[float, Field(gt=0)]


def _per_channel(value: object) -> PerChannel:
    """One number above 0, or a list of them."""
    numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise ValueError(f"it is a number above 0, or a list with one a channel, not {value!r}")
    return tuple(map(float, numbers)) if isinstance(value, list | tuple) else float(numbers[0])


def _label_key(value: object) -> int | str:
    """A value of a label file, a colour, or a shape's name."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and not value.lstrip("-").isdecimal():
        return value
    raise ValueError(f"it is a whole number, a colour '#rrggbb' or a name, not {value!r}")


def _size(value: object) -> tuple[int, int]:
    """HxW, or [H, W]."""
    text = size_text(value) if isinstance(value, list | tuple) and len(value) == 2 else value
    size = size_in(text) if isinstance(text, str) else None
    if size is None:
        raise ValueError(f"it is HxW, rows x columns, as 512x1024, not {value!r}")
    return size


class InputEntry(_Strict):
    """`input:`, as `segment.images.specs.InputSpec`."""

    scale: Annotated[PerChannel, PlainValidator(_per_channel)] = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[Positive, ...] = ()
    channels: Annotated[Channels, PlainValidator(channels_stated)] = "RGB"
    stride: Annotated[StrictInt, Field(ge=1)] = 1
    pad: Literal["reflect", "edge", "zero"] = "reflect"
    white: Annotated[PerChannel, PlainValidator(_per_channel)] | None = None
    display: tuple[StrictInt | StrictStr, ...] = ()
    size: Annotated[tuple[int, int], PlainValidator(_size)] | None = None
    max_pixels: Annotated[StrictInt, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def one_number_a_channel(self) -> Self:
        wanted = planes_of(self.channels)
        for name, numbers in (("mean", self.mean), ("std", self.std), ("scale", self.scale), ("white", self.white)):
            if isinstance(numbers, tuple) and len(numbers) not in (
                (0, wanted) if name in ("mean", "std") else (wanted,)
            ):
                asked = ", ".join(self.channels) if isinstance(self.channels, tuple) else self.channels
                other = "none" if name in ("mean", "std") else "one for all"
                raise ValueError(f"{name} has {len(numbers)} numbers where {asked} needs {wanted}, or {other}")
        if isinstance(self.white, tuple) and self.channels == "grey":
            raise ValueError("white is one number for grey, whose pixels come from three colours")
        return self

    @model_validator(mode="after")
    def displayed_bands_are_there(self) -> Self:
        names = self.channels if isinstance(self.channels, tuple) else ()
        if self.display and isinstance(self.channels, str):
            raise ValueError(f"display picks from several bands, and {self.channels} is shown as it is; leave it out")
        if len(self.display) not in (0, 1, 3):
            raise ValueError(f"display names {len(self.display)} bands: three (red, green, blue), or one shown grey")
        for band in self.display:
            if band not in names and not (isinstance(band, int) and 1 <= band <= planes_of(self.channels)):
                known = f"1 to {planes_of(self.channels)}" + (f", or {', '.join(names)}" if names else "")
                raise ValueError(f"display: there is no band {band!r}. Bands are {known}")
        return self


class TrainingEntry(_Strict):
    """`training:`, as `segment.images.specs.TrainingSpec`."""

    batch: Annotated[StrictInt, Field(ge=1)]
    transforms: tuple[dict[str, Any], ...] = ()

    @model_validator(mode="after")
    def transforms_have_names(self) -> Self:
        if any(not isinstance(transform.get("name"), str) for transform in self.transforms):
            raise ValueError("every transform needs a name, as in {name: HorizontalFlip, p: 0.5}")
        return self


Byte = Annotated[StrictInt, Field(ge=0, le=255)]
Index = Annotated[StrictInt, Field(ge=0)]


class CardFile(_Strict):
    """A whole card, as `segment.networks.cards.Card`."""

    network: StrictStr
    weights: WeightsEntry | None = None
    head: Head | None = None
    input: InputEntry | None = None
    classes: tuple[StrictStr, ...] = ()
    palette: tuple[tuple[Byte, Byte, Byte], ...] = ()
    void: Index | None = None
    labels: dict[Annotated[int | str, PlainValidator(_label_key)], Index] = Field(default_factory=dict)
    unseen: tuple[Index, ...] = ()
    drop_outputs: tuple[Index, ...] = ()
    batchnorm_eps: dict[StrictStr, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    training: TrainingEntry | None = None
    images: StrictStr | None = None

    @model_validator(mode="after")
    def parts_fit(self) -> Self:
        if self.palette and self.classes and len(self.palette) != len(self.classes):
            raise ValueError(f"the palette has {len(self.palette)} colours for {len(self.classes)} classes")
        if len(set(self.palette)) < len(self.palette):
            raise ValueError("two classes have the same colour in the palette")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("two classes have the same name")
        if self.head == "sigmoid" and len(self.classes) not in (0, 2):
            raise ValueError(f"a sigmoid head has two classes, (1 - p, p), and {len(self.classes)} are named")
        return self

    @model_validator(mode="after")
    def labels_lead_to_ids(self) -> Self:
        for key in self.labels:
            if isinstance(key, str) and key.startswith("#") and not re.fullmatch("#[0-9a-fA-F]{6}", key):
                raise ValueError(f"labels: {key!r} is no colour; write #rrggbb")
        if self.void in self.labels:
            raise ValueError(f"labels says what {self.void} stands for, and void says that it is not scored")
        classes = 2 if self.head in ("sigmoid", "multilabel") else len(self.classes)
        known = {*range(classes), *self.unseen, self.void}
        if classes and (strange := sorted(set(self.labels.values()) - known)):
            raise ValueError(f"labels leads to {strange[0]}, which is none of 0..{classes - 1}, void or unseen")
        return self


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


def card_error_messages(card: str | Path, error: ValidationError) -> str:
    """A line for each key that is wrong: the card's file or name, the key, and what is wrong there."""
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in error.errors():
        place = each["loc"]
        while place and place[-1] in ("int", "str"):  # a value may be either, and is neither
            place = place[:-1]
        entries.setdefault(place, dict(each))
    return "\n".join(_message(str(card), place, entry) for place, entry in entries.items())


def _message(card: str, place: tuple[Any, ...], entry: dict[str, Any]) -> str:
    key = ".".join(str(part) for part in place) or "the card"
    if entry["type"] == "missing" and isinstance(place[-1], int):
        place, entry = place[:-1], entry | {"type": "too_long"}
        key = ".".join(str(part) for part in place)
    if entry["type"] == "missing":
        return f"Card {card!r}: {key} is missing."
    if entry["type"] == "value_error":
        return f"Card {card!r}: {key}: {entry['msg'].removeprefix('Value error, ')}."
    if entry["type"] != "extra_forbidden":
        return f"Card {card!r}: {key}: it is {_expected(key, entry)}."
    inner: dict[Any, type[BaseModel]] = {"weights": WeightsEntry, "input": InputEntry, "training": TrainingEntry}
    known = sorted(inner.get(place[0] if len(place) > 1 else None, CardFile).model_fields)
    return f"Card {card!r}: {key} is not a key of a card.{near(str(place[-1]), known)} Known: {', '.join(known)}."


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
