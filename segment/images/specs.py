"""What a network expects of its input, and how training augmented it: values only.

Must not know how an image is decoded, nor any network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Colours = Literal["RGB", "BGR", "grey"]
Channels = Colours | int
CHANNEL_ORDERS: tuple[Colours, ...] = ("RGB", "BGR", "grey")


def planes_of(channels: Channels) -> int:
    """The number of channels.

    >>> planes_of("BGR"), planes_of("grey"), planes_of(10)
    (3, 1, 10)
    """
    return channels if isinstance(channels, int) else 1 if channels == "grey" else 3


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """From decoded pixels (H W 3, 0..255) to what the network was trained on.

    scale: the pixel value that becomes 1.0 before mean and std (255: divide by 255; 1: keep 0..255)
    mean, std: one number a channel, in the order of `channels`, in units after `scale`; empty: none
    channels: the order the network wants: "RGB", "BGR", or "grey" (one channel, ITU-R BT.601 luma); a number: so
        many channels, unchanged, from arrays only, as image files are decoded to RGB
    stride: height and width are padded (bottom, right) to a multiple of it, and the maps cropped back
    pad: "reflect" (without repeating the edge; "edge" where the image is too small for it), "edge" or "zero" (0 after
        normalising, as a convolution pads)
    white: the raw value of a 16-bit file that means white (65535, or 4095 for 12-bit data); None refuses 16-bit files
    """

    scale: float = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: Channels = "RGB"
    stride: int = 1
    pad: Literal["reflect", "edge", "zero"] = "reflect"
    white: float | None = None

    @property
    def planes(self) -> int:
        """C, the number of channels."""
        return planes_of(self.channels)


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How training made a mini-batch.

    batch: M, its number of images
    transforms: albumentations by name and arguments, in order, on H W 3 uint8, as {"name": "HorizontalFlip", "p": 0.5}
    """

    batch: int
    transforms: tuple[Mapping[str, Any], ...] = ()
