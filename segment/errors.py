"""Every refusal of the project, one tree under SegmentError.

A message says what was asked, what is wrong and what to do. `exit_code` is what the command line ends with.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from logging import Logger
from operator import index
from typing import Any


class SegmentError(Exception):
    """The root: a caller who catches this has caught every refusal made on purpose."""

    exit_code = 2


class WrongUse(SegmentError):
    """An argument, option, card or settings file asks for something that cannot be."""


class MissingExtra(WrongUse):
    """A feature needs an optional package; the message names the extra to install."""


class ModelRefused(SegmentError):
    """The network, its weights or its outputs cannot be used as asked."""

    exit_code = 3


class UnknownNetwork(ModelRefused):
    """No network is called that."""


class WeightsRefused(ModelRefused):
    """A weights file is missing, unsafe, altered or made for another network."""


class NotTrusted(ModelRefused):
    """A card would run code, and nobody said that it may."""


class NoBatchNorm(ModelRefused):
    """The network has no batch normalisation to draw from."""


class BankRefused(ModelRefused):
    """A bank is damaged, or was made for another network, preprocessing or layer list."""


class ImageUnreadable(SegmentError):
    """One file does not decode as an image (or label); the others of its folder are not touched by it."""

    exit_code = 1


class PredictionFailed(SegmentError):
    """The network gave no usable output for one image: not finite, or of another shape than promised."""

    exit_code = 1


class OutOfMemory(SegmentError):
    """Even the smallest plan does not fit; the message states the number needed."""

    exit_code = 4


class StoreRefuses(WrongUse):
    """An object store does not allow what was asked, or has no such place."""


class StoreUnreachable(SegmentError):
    """An object store did not answer for minutes; what was done before is kept, and a run goes on with --resume."""

    exit_code = 5


class FastPathDiffers(Exception):
    """A fast way to make passes turned out to give other numbers than plain passes; plain ones are made from now on.

    Raised in the middle of an image, whose estimate must be made again from its first draw.
    """


def error_message(error: BaseException, *, most: int = 300) -> str:
    r"""An error in one line: a refusal as it stands, any other with its class and at most `most` letters.

    >>> error_message(WrongUse("Give\n  more.")), error_message(ValueError("no such pixel"))
    ('Give more.', 'ValueError: no such pixel')
    """
    return one_line(error) if isinstance(error, SegmentError) else f"{type(error).__name__}: {one_line(error, most)}"


NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",  # cuBLAS and cuDNN
    "failed to map segment",
)
"""In the messages of torch, of CUDA's libraries and of the system where memory could not be had."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether this was raised because memory could not be had, on a CPU or a GPU.

    >>> ran_out_of_memory(RuntimeError("CUDA out of memory.")), ran_out_of_memory(RuntimeError("sizes do not match"))
    (True, False)
    """
    message = str(error).lower()
    return isinstance(error, MemoryError) or any(words in message for words in NO_MEMORY)


def one_line(error: object, most: int | None = None) -> str:
    """The message of an error in one line of at most `most` letters."""
    return " ".join(str(error).split())[:most]


def count_of(number: int, noun: str) -> str:
    """A number of things.

    >>> count_of(1, "pass"), count_of(2, "pass"), count_of(0, "image")
    ('1 pass', '2 passes', '0 images')
    """
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("s") else "s")


def integer(name: str, value: object, *, least: int | None = 0) -> int:
    """An integer of any kind, NumPy's too, as Python's. Errors: WrongUse for another type, or below `least`.

    >>> integer("draws", 2.0)
    Traceback (most recent call last):
    segment.errors.WrongUse: draws = 2.0, but it is an integer from 0 up.
    """
    with suppress(TypeError):  # what is no integer
        number = index(value)  # type: ignore[arg-type]
        if least is None or number >= least:
            return number
    raise WrongUse(f"{name} = {value}, but it is an integer{'' if least is None else f' from {least} up'}.")


def first_of(names: Iterable[str], most: int = 3) -> str:
    """The first names in one line, and how many more there are.

    >>> first_of(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


@lru_cache(maxsize=1024)
def warn_once(log: Logger, message: str, *arguments: object) -> None:
    """A warning that is logged once a process for the same arguments, which can be hashed."""
    log.warning(message, *arguments)


def names_in(given: str | Iterable[str]) -> tuple[str, ...]:
    """Names that a caller gives; a single one may stand alone.

    >>> names_in("variance"), names_in(["variance", "margin"])
    (('variance',), ('variance', 'margin'))
    """
    return (given,) if isinstance(given, str) else tuple(given)


def near(asked: str, known: Iterable[str]) -> str:
    """A hint " Near: 'x'." for a misspelt name, or nothing.

    >>> near("unet_resnet43", ["toy", "unet_resnet34"])
    " Near: 'unet_resnet34'."
    """
    close = difflib.get_close_matches(asked, list(known), n=1)
    return f" Near: {close[0]!r}." if close else ""


def imported(module: str, *, extra: str, what: str) -> Any:
    """An optional library, imported. Errors: MissingExtra, with the extra to install.

    >>> imported("no_such_library", extra="geo", what="GeoTIFFs")
    Traceback (most recent call last):
    segment.errors.MissingExtra: GeoTIFFs need no_such_library: pip install 'mcbn-segment[geo]'.
    """
    try:
        return import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise MissingExtra(f"{what} need {library}: pip install 'mcbn-segment[{extra}]'.") from None
