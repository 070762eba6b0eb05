"""What a network expects of its input, and how training augmented it: values only.

Must not know how an image is decoded, nor any network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from segment.errors import count_of

Colours = Literal["RGB", "BGR", "grey"]
Channels = Colours | int | tuple[str, ...]
PerChannel = float | tuple[float, ...]
"""One number for all channels, or one a channel, in the order of `channels`."""
LARGEST = 255
"""The largest pixel value where no `white` says another."""
CHANNEL_ORDERS: tuple[Colours, ...] = ("RGB", "BGR", "grey")


def planes_of(channels: Channels) -> int:
    """The number of channels.

    >>> planes_of("BGR"), planes_of("grey"), planes_of(10), planes_of(("red", "nir"))
    (3, 1, 10, 2)
    """
    if isinstance(channels, tuple):
        return len(channels)
    return channels if isinstance(channels, int) else 1 if channels == "grey" else 3


def numbers_of(value: PerChannel, count: int) -> tuple[float, ...]:
    """One number a channel.

    >>> numbers_of(255.0, 2), numbers_of((1.0, 2.0), 2)
    ((255.0, 255.0), (1.0, 2.0))
    """
    return value if isinstance(value, tuple) else (value,) * count


def _in_words(value: PerChannel) -> str:
    return f"({', '.join(f'{number:g}' for number in value)})" if isinstance(value, tuple) else f"{value:g}"


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """From decoded pixels (H W 3 or H W C, 0..255) to what the network was trained on.

    scale: the pixel value that becomes 1.0 before mean and std (255: divide by 255; 1: keep 0..255), or one a channel
    mean, std: one number a channel, in the order of `channels`, in units after `scale`; empty: none
    channels: the order the network wants: "RGB", "BGR", or "grey" (one channel, ITU-R BT.601 luma); a number: so
        many bands of a file, in its order; names: those bands of a file that names its bands, else as a number
    stride: height and width are padded (bottom, right) to a multiple of it, and the maps cropped back
    pad: "reflect" (without repeating the edge; "edge" where the image is too small for it), "edge" or "zero" (0 after
        normalising, as a convolution pads)
    white: the raw value of a file of more than 8 bits that means 255 (65535; 4095 for 12-bit data; 255 keeps the values
        as they are), or one a channel; None refuses such files
    size: rows and columns of every image as the network sees it, `HxW` in a card (512x1024): images are resized to it,
        and the logits back; None: never resized
    max_pixels: how many pixels an image may have; None: as many as Pillow opens
    display: the bands that pictures show as red, green and blue, from 1, or their names; one: grey; empty: the first
        three of several bands
    """

    scale: PerChannel = 255.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: Channels = "RGB"
    stride: int = 1
    pad: Literal["reflect", "edge", "zero"] = "reflect"
    white: PerChannel | None = None
    display: tuple[int | str, ...] = ()
    size: tuple[int, int] | None = None
    max_pixels: int | None = None

    @property
    def planes(self) -> int:
        """C, the number of channels."""
        return planes_of(self.channels)

    @property
    def colours(self) -> bool:
        """Whether it starts from RGB pixels; else from the bands as they are."""
        return isinstance(self.channels, str)

    @property
    def sentence(self) -> str:
        """The whole preprocessing in words.

        >>> InputSpec(mean=(0.5, 0.4, 0.3), stride=32).sentence
        'RGB pixels divided by 255, minus mean (0.5, 0.4, 0.3), padded to multiples of 32 (reflect)'
        """
        names = self.channels if isinstance(self.channels, str) else count_of(self.planes, "band")
        if isinstance(self.channels, tuple):
            names += f" ({', '.join(self.channels)})"
        parts = [f"{names + ' pixels' if self.colours else names} divided by {_in_words(self.scale)}"]
        parts += [f"minus mean {_in_words(self.mean)}"] if self.mean else []
        parts += [f"divided by std {_in_words(self.std)}"] if self.std else []
        parts += ["neither mean nor std"] if not (self.mean or self.std) else []
        parts += [f"white of deeper files {_in_words(self.white)}"] if self.white is not None else []
        parts += [f"resized to {self.size[0]}x{self.size[1]} and its maps back"] if self.size is not None else []
        parts += [f"padded to multiples of {self.stride} ({self.pad})"] if self.stride > 1 else []
        return ", ".join(parts)

    @property
    def contradiction(self) -> str:
        """Why no pixel can be normalised as it says; "" where one can.

        >>> InputSpec(mean=(124.0, 116.0, 104.0)).contradiction[:50]
        'mean (124, 116, 104) is in pixel values, which are'
        """
        scales = numbers_of(self.scale, len(self.mean))
        values = [mean * scale for mean, scale in zip(self.mean, scales, strict=False)]
        if self.white is not None or not any(abs(value) > 2 * LARGEST for value in values):
            return ""
        return (
            f"mean {_in_words(self.mean)} is in pixel values, which are divided by {_in_words(self.scale)} before it "
            "is subtracted. Divide mean and std by 255, or keep pixel values by `scale: 1` of a card's input."
        )

    @property
    def normalised_white(self) -> float:
        """What a pixel of 255 becomes, in the channel where that is most.

        >>> InputSpec(mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5)).normalised_white
        2.0
        """
        scales = numbers_of(self.scale, self.planes)
        parts = zip(scales, self.mean or (0.0,) * self.planes, self.std or (1.0,) * self.planes, strict=True)
        return max((LARGEST / scale - mean) / std for scale, mean, std in parts)

    @property
    def pixel_planes(self) -> int:
        """C of the pixels (H W C) that are normalised: 3 of RGB, whatever becomes of them."""
        return 3 if self.colours else self.planes


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How training made a mini-batch.

    batch: M, its number of images
    transforms: albumentations by name and arguments, in order, on H W C, as {"name": "HorizontalFlip", "p": 0.5}
    """

    batch: int
    transforms: tuple[Mapping[str, Any], ...] = ()

    @property
    def in_words(self) -> str:
        """One line for a person.

        >>> TrainingSpec(batch=8, transforms=({"name": "HorizontalFlip", "p": 0.5},)).in_words
        'M = 8, HorizontalFlip'
        """
        names = [str(transform["name"]) for transform in self.transforms]
        return ", ".join([f"M = {self.batch}", *names])
