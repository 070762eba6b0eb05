"""H W 3 pixels → C H W float32 as the network wants them, padded to its stride; and maps cropped back.

NumPy normalises and pads: equal to albumentations' Normalize and PadIfNeeded up to float32 rounding, in half their time
(.3 against .7 ms on 480 x 360). Where an image is too small for reflection, its edge is repeated, not the reflection.
Albumentations is used for the training pipeline only: `augment.py`.

Must not know a file, nor a network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from segment.axes import Plane
from segment.errors import WrongUse
from segment.images.specs import Channels, InputSpec, numbers_of, planes_of


def prepare(image: NDArray[Any], spec: InputSpec) -> Tensor:  # H W 3 (H W C), 0..255 -> C H+ W+
    """Normalise an image, then pad it to the stride at the bottom and the right; it is never resized.

    image: RGB, uint8 or float (of a 16-bit file); C channels where `spec.channels` is a number or names
    """
    return pad(normalise(image, spec), spec)


def normalise(image: NDArray[Any], spec: InputSpec) -> Tensor:  # H W 3 (H W C), 0..255 -> C H W
    """(pixel / scale - mean) / std, float32.

    `mean` and `std` are in the order of `spec.channels`. Grey is the ITU-R BT.601 luma, unrounded.
    Error: rounding, under 1e-6 of the largest value.
    """
    wanted = spec.pixel_planes
    if image.ndim != 3 or image.shape[2] != wanted or 0 in image.shape:
        order = " (RGB)" if spec.colours else ""
        raise WrongUse(f"An image is H W {wanted}{order}, at least one pixel; this one has shape {image.shape}.")
    planes = _planes(image, spec.channels)
    mean, std = _per_channel("mean", spec.mean, 0.0, len(planes)), _per_channel("std", spec.std, 1.0, len(planes))
    scales = numbers_of(spec.scale, len(planes))
    normalised = np.empty((len(planes), *image.shape[:2]), dtype=np.float32)
    for plane, target, centre, spread, scale in zip(planes, normalised, mean, std, scales, strict=True):
        np.subtract(plane, np.float32(centre * scale), out=target, dtype=np.float32)
        target /= np.float32(spread * scale)
    return torch.from_numpy(normalised)


class Normalised:
    """One normalised image, 1 C H W, of which only the window asked for is computed: image[..., rows, columns]."""

    def __init__(self, image: Plane, spec: InputSpec) -> None:  # H W 3; an array, or read by windows
        self._image, self._spec = image, spec
        self.in_memory = isinstance(image, np.ndarray)
        self.shape = torch.Size((1, spec.planes, *image.shape[:2]))

    def __getitem__(self, window: tuple[Any, slice, slice]) -> Tensor:  # -> 1 C h w
        return normalise(self._image[window[1:]], self._spec)[None]


def in_memory(image: Tensor | Normalised) -> bool:
    """Whether the pixels of an image are; else they are read a window at a time."""
    return isinstance(image, Tensor) or image.in_memory


def in_padding(run: Callable[[Tensor], Iterable[Tensor]], images: Tensor, spec: InputSpec) -> Iterator[Tensor]:
    """The outputs of `run` on the images (N C H W) padded to the stride, each cropped to the images' size."""
    if spec.stride == 1:
        yield from run(images)
        return
    for output in run(pad(images, spec)):
        yield crop(output, *images.shape[-2:])


def pad(images: Tensor, spec: InputSpec) -> Tensor:  # ... H W -> ... H+ W+
    """Normalised images, padded at the bottom and the right; "zero" pads as a convolution does.

    >>> pad(torch.tensor([[1.0, 2.0, 3.0]]), InputSpec(stride=4))[0]
    tensor([1., 2., 3., 2.])
    """
    height, width = images.shape[-2:]
    bottom, right = padding(height, width, spec.stride)
    if spec.pad == "zero":
        return functional.pad(images, (0, right, 0, bottom))
    rows = np.concatenate([np.arange(height), _padding_indices(height, bottom, spec.pad)])
    columns = np.concatenate([np.arange(width), _padding_indices(width, right, spec.pad)])
    if bottom:
        images = images.index_select(-2, torch.from_numpy(rows).to(images.device))
    return images.index_select(-1, torch.from_numpy(columns).to(images.device)) if right else images


def padding(height: int, width: int, stride: int) -> tuple[int, int]:
    """Rows to add at the bottom, columns to add at the right.

    >>> padding(360, 480, 32)
    (24, 0)
    """
    return -height % stride, -width % stride


def crop(maps: Tensor, height: int, width: int) -> Tensor:  # ... H+ W+ -> ... H W
    """Maps without the padding.

    >>> crop(torch.zeros(11, 384, 480), 360, 480).shape
    torch.Size([11, 360, 480])
    """
    if maps.shape[-2] < height or maps.shape[-1] < width:
        raise WrongUse(f"Maps of {maps.shape[-2]} x {maps.shape[-1]} cannot be cropped to {height} x {width}.")
    return maps[..., :height, :width]


def _planes(image: NDArray[Any], channels: Channels) -> list[NDArray[Any]]:
    if not isinstance(channels, str):
        return [image[..., plane] for plane in range(planes_of(channels))]
    if channels == "RGB":
        return [image[..., 0], image[..., 1], image[..., 2]]
    if channels == "BGR":
        return [image[..., 2], image[..., 1], image[..., 0]]
    red, green, blue = (image[..., channel].astype(np.float32) for channel in range(3))
    # .299 R + .587 G + .114 B, written so that a grey pixel keeps its value to the last bit
    return [green + np.float32(0.299) * (red - green) + np.float32(0.114) * (blue - green)]


def _per_channel(name: str, values: tuple[float, ...], default: float, channels: int) -> tuple[float, ...]:
    """A card's `mean` or `std`, on the scale of `scale`: a number for each channel, the default where none is given."""
    if values and len(values) != channels:
        raise WrongUse(
            f"`input: {{{name}}}` has {len(values)} numbers for {channels} channels. Give one number per channel."
        )
    return values or (default,) * channels


def _padding_indices(length: int, more: int, pad: Literal["reflect", "edge"]) -> NDArray[np.intp]:
    """Indices of the rows or columns to repeat: reflected without the edge, or the edge where there are too few."""
    steps = np.arange(more)
    return length - 2 - steps if pad == "reflect" and more < length else np.full_like(steps, length - 1)
