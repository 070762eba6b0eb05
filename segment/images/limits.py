"""What is not read: devices and pipes, and images of more pixels than somebody allowed.

Must not know how any format is decoded. Pillow's own limit, which it takes from `PIL.Image.MAX_IMAGE_PIXELS`, is the
usual one for every image that is read whole; `--max-pixels` or a card's `input: {max_pixels: N}` replaces it, and holds
for rasters that are read a window at a time too.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from PIL import Image

from segment.errors import ImageUnreadable, WrongUse

BYTES = 16
"""Bytes of a pixel that is allowed: a header that claims an array of more is damaged, or needs windows."""

_asked: int | None = None


def set_most_pixels(count: int | None) -> None:
    """What `--max-pixels` allows from now on, in this process; None: the card's number, or the usual one."""
    global _asked
    if count is not None and count < 1:
        raise WrongUse(f"--max-pixels {count}: how many pixels an image may have, from 1 up.")
    _asked = count
    allow_pixels(None)  # before a header is read, whose size Pillow would not give


def asked() -> int | None:
    """What `--max-pixels` says."""
    return _asked


def limits() -> tuple[int | None, int | None]:
    """What `--max-pixels` says, and Pillow's limit: for a process that decodes for this one."""
    return _asked, Image.MAX_IMAGE_PIXELS


def set_limits(most: int | None, pillows: int | None) -> None:
    """Take over both limits from the process that this one decodes files for."""
    global _asked
    _asked, Image.MAX_IMAGE_PIXELS = most, pillows


def most_pixels(card: int | None = None) -> tuple[int, str]:
    """How many pixels an image may have, and who says so. card: what its `input:` says."""
    if _asked is not None:
        return _asked, "that --max-pixels allows"
    if card is not None:
        return card, "that the card's `input: {max_pixels}` allows"
    return _usual(), "that are read by default"


def allow_pixels(card: int | None) -> None:
    """Let Pillow open what is allowed from now on, label maps of that size too. card: as for `most_pixels`."""
    most, _ = most_pixels(card)
    if Image.MAX_IMAGE_PIXELS is not None and most > _usual():
        Image.MAX_IMAGE_PIXELS = most


def states_pixels(card: int | None) -> bool:
    """Whether somebody said how many pixels an image may have. card: what its `input:` says."""
    return _asked is not None or card is not None


def _usual() -> int:
    """Pillow warns at its limit, and refuses twice as many pixels."""
    return 2**60 if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS


def check_pixels(path: Path, size: tuple[int, int] | None, card: int | None = None) -> None:
    """Refuse an image of more pixels (H, W) than are allowed; one whose header does not say passes."""
    allow_pixels(card)
    if size is not None and size[0] * size[1] > most_pixels(card)[0]:
        raise too_large(path, f"{size[0]}x{size[1]} pixels", card)


def check_bytes(path: Path, count: int) -> None:
    """Refuse an array of more bytes than the pixels that are allowed can take."""
    if count > BYTES * most_pixels()[0]:
        raise too_large(path, f"{count} bytes of pixels")


def too_large(path: Path, claimed: str, card: int | None = None) -> ImageUnreadable:
    most, who = most_pixels(card)
    return ImageUnreadable(
        f"{str(path)!r} claims {claimed}, more than the {most} pixels {who}. Cut it into tiles, or, where you "
        "trust it, allow more: --max-pixels N, or `input: {max_pixels: N}` in the card."
    )


def is_file(path: Path) -> bool:
    """Whether it is a file on a disk: a pipe would be waited for, and a device has no end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - of a path with a null byte too
    except (OSError, ValueError):
        return False


def check_is_file(path: Path) -> None:
    """Refuse a pipe, a socket or a device. What is not there, or a folder, says so where it is opened."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
    except ValueError:
        raise ImageUnreadable(f"{str(path)!r} cannot be read: its name holds a null byte.") from None
    except OSError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ImageUnreadable(f"{str(path)!r} is a pipe or a device, not a file. Copy its content into a file.")
