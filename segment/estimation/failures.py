"""What an image may raise while the others go on, and what is written in its place."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import cv2

from segment.errors import ImageUnreadable, PredictionFailed, SegmentError, error_message

log = logging.getLogger(__name__)

IMAGE_ERRORS = (
    ImageUnreadable,
    PredictionFailed,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    cv2.error,
)
"""What an image may raise (a network that does not take its size raises one of these); the others go on."""


class Sized(Protocol):
    """What has the size of an image."""

    @property
    def size(self) -> tuple[int, int]:
        """H and W; 0 where there is no image."""
        ...


S = TypeVar("S", bound=Sized)
E = TypeVar("E")


def reason_of(error: BaseException) -> str:
    """An error in one line, as `error_message` gives it; where it is no refusal its traceback is logged (--verbose)."""
    if not isinstance(error, SegmentError):
        log.info("%s", "".join(traceback.format_exception(error)).rstrip())
    return error_message(error)


def estimates_or_reasons(images: Sequence[S], make: Callable[[Sequence[S]], list[E]]) -> list[E | str]:
    """What `make` gives for images of one size, or of each that fails why there is nothing."""
    try:
        return [*make(images)]
    except IMAGE_ERRORS as error:
        if len(images) > 1:  # which of them it was
            return [made for image in images for made in estimates_or_reasons([image], make)]
        height, width = images[0].size
        places = getattr(error, "__notes__", [])[:1]  # of a tile
        return [", ".join([f"{height} x {width} image: {reason_of(error)}", *places])]
