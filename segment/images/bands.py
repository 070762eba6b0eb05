"""The planes of a file → the channels that a card asks for, in 0..255, with 0 where there are no data.

Must not know how a file is decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, count_of
from segment.images.formats.raster import Raster
from segment.images.specs import Channels, InputSpec, PerChannel, numbers_of, planes_of

_NUMBERED = re.compile(r"(band|channel|layer)?[ _-]?\d*", re.IGNORECASE)
"""Names that say no more than the order does."""


def in_channels(raster: Raster, spec: InputSpec, name: str) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The pixels (H W C, 0..255) that a card asks for, 0 where they hold no data, and where they do (None: everywhere).

    Errors: ImageUnreadable, as `channels_in` and `in_255`.
    """
    taken = channels_in(raster, spec.channels, name)
    valid = taken.valid()
    return in_255(filled(taken.raw, valid), spec.white, name, spec.channels), valid


def channels_in(raster: Raster, channels: Channels, name: str) -> Raster:
    """The raw planes that the channels stand for: three of a colour card (grey repeated), else one a channel.

    Alpha is dropped where it is not asked for (not composited: the colours under it stay, as training loaders have
    them; those multiplied by it are divided), and is a band of a name only where the file names it. Where it is a band,
    all are as they are stored. Names are looked up among the file's band names, in any case; a file without names, or
    with numbers for names, has its bands in the card's order. The names of some of its bands are names. Colours are
    red, green and blue by what the file says of its bands, else in its order.
    name: of the file, for messages. Errors: ImageUnreadable where the file holds other bands.
    """
    straight, count = raster.straight(), raster.raw.shape[2]
    opaque = [plane for plane in range(count) if plane != raster.alpha]
    named = not all(map(_NUMBERED.fullmatch, raster.bands))
    if isinstance(channels, tuple) and (named or set(channels) <= set(raster.bands)):
        planes = [_place_of(band, raster.bands, name) for band in channels]
        return (raster if raster.alpha in planes else straight).taken(planes)
    wanted = 3 if isinstance(channels, str) else planes_of(channels)
    if len(opaque) == wanted:
        by_colour = isinstance(channels, str) and sorted(raster.rgb) == opaque
        return straight.taken(raster.rgb if by_colour else opaque)
    if count == wanted and raster.guessed and not isinstance(channels, str):
        return replace(raster, alpha=None, clear=False)  # a band like the others, which hides no pixel
    if count == wanted and isinstance(channels, int):
        return raster
    if isinstance(channels, str) and len(opaque) == 1:
        return straight.taken(opaque * 3)
    held = count_of(len(opaque), "band") + (" and alpha" if raster.alpha is not None else "")
    if raster.bands:
        held += f" ({_listed(raster.bands)})"
    if channels == 1 and len(opaque) == 3:
        raise ImageUnreadable(f"{name!r} holds {held}, where one is asked for. Say `input: {{channels: grey}}`.")
    advice = f"Say `input: {{channels: {len(opaque)}}}` in the card of a network that takes them all"
    if isinstance(channels, tuple) and count == wanted:
        advice += f", `{{channels: {count}}}` of one that takes alpha too"
    if raster.bands:
        advice += ", or name those it takes, `channels: [...]`"
    raise ImageUnreadable(f"{name!r} holds {held}, where {_described(channels)} asked for. {advice}.")


def not_black(raster: Raster, above: int = 0) -> NDArray[np.bool_]:  # H W
    """Where a picture is not black: where a band other than alpha is above that, or below 0."""
    colours = raster.raw if raster.alpha is None else np.delete(raster.raw, raster.alpha, axis=2)
    shown: NDArray[np.bool_] = np.any((colours > above) | (colours < 0), axis=2)
    return shown


def _place_of(band: str, bands: Sequence[str], name: str) -> int:
    """The place of a band, by its name as it is, else in any case. Errors: ImageUnreadable where there is none."""
    for places in (
        [place for place, other in enumerate(bands) if other == band],
        [place for place, other in enumerate(bands) if other.casefold() == band.casefold()],
    ):
        if len(places) == 1:
            return places[0]
    raise ImageUnreadable(
        f"{name!r} has no band {band!r}. It has {_listed(bands)}. Name those in the card, or give their number, "
        f"`channels: {len(bands)}`, to take all in the file's order."
    )


def _listed(bands: Sequence[str]) -> str:
    """The names of bands, and how many have none."""
    names = [band for band in bands if band]
    return ", ".join(names) + (f" and {len(bands) - len(names)} without a name" if len(names) < len(bands) else "")


def _described(channels: Channels) -> str:
    if isinstance(channels, tuple):
        return f"{', '.join(channels)} are"
    return "1 channel is" if channels == 1 else f"{channels} channels are" if isinstance(channels, int) else "RGB is"


def in_255(raw: NDArray[Any], white: PerChannel | None, name: str, channels: Channels = "RGB") -> NDArray[Any]:
    """Raw pixels (H W C) in 0..255: uint8 as they are, others float32, unrounded, raw / `white` * 255.

    white: one number, or one a channel in the order of `channels`. Errors: ImageUnreadable without it.
    """
    if raw.dtype == np.uint8:
        return raw
    if raw.dtype == np.bool_:
        return raw.astype(np.uint8) * np.uint8(255)
    if white is None:
        bits = raw.dtype.itemsize * 8
        kind = "float" if raw.dtype.kind == "f" else "signed" if raw.dtype.kind == "i" else ""
        usual = {
            "float": "`input: {white: 1}` in the card for values in 0..1, `{white: 255}` to keep them as they are",
            "signed": "`input: {white: 255}` in the model card to keep the values as they are (Hounsfield units)",
        }.get(kind, "`input: {white: 65535}` in the model card (4095 for 12-bit data)")
        raise ImageUnreadable(
            f"{name!r} holds {bits}-bit {kind + ' ' if kind else ''}pixels, and nothing says which value is white. "
            f"Set {usual}."
        )
    numbers = numbers_of(white, raw.shape[2])
    if not all(number > 0 for number in numbers):
        raise ImageUnreadable(f"{name!r} cannot be scaled by `input: {{white: {white}}}`. White is above 0.")
    if channels == "BGR":
        numbers = numbers[::-1]
    return from_raw(raw, numbers)


def from_raw(raw: NDArray[Any], white: tuple[float, ...]) -> NDArray[np.float32]:
    """Raw pixels as float32 in 0..255, unrounded: raw / `white` * 255, one white a channel.

    >>> from_raw(np.array([[0], [4095]], np.uint16), (4095.0,)).ravel()
    array([  0., 255.], dtype=float32)
    """
    if all(number == 255 for number in white):
        return raw.astype(np.float32)
    scaled = np.empty(raw.shape, np.float32)
    for plane, number in enumerate(white):  # plane by plane: float64 takes twice the memory
        scaled[..., plane] = raw[..., plane].astype(np.float64) / number * 255
    return scaled


def filled(raw: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[Any]:
    """The raw pixels with 0 where there is no data, as training loaders fill it."""
    if valid is None:
        return raw
    raw = raw.copy()
    raw[~valid] = 0
    return raw
