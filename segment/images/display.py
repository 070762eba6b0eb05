"""Bands of an image → the picture that people see: three of them, stretched by one scale for a whole run.

Must not know a network, nor what is drawn over the picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.images.specs import InputSpec

PERCENTILES = (2.0, 98.0)
"""Shares of the pixels, in per cent, that become black and white."""

SAMPLES = 2**16
"""Pixels of an image that its percentiles are taken from."""


@dataclass(frozen=True)
class Display:
    """Which bands are shown, and the values (0..255 before the network's scaling) that become black and white.

    bands: from 0: red, green, blue; or one, shown grey
    """

    bands: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """For a run's record; `bands` from 1, as in a card."""
        return {
            "bands": [band + 1 for band in self.bands],
            "percentiles": list(PERCENTILES),
            "low": list(self.low),
            "high": list(self.high),
        }

    @staticmethod
    def of(record: Mapping[str, Any]) -> Display:
        """The inverse of `as_dict`."""
        return Display(tuple(band - 1 for band in record["bands"]), tuple(record["low"]), tuple(record["high"]))

    def picture(self, pixels: NDArray[Any]) -> NDArray[np.uint8]:  # H W C -> H W 3
        """Each shown band stretched from low..high to 0..255.

        >>> Display((0,), (10.0,), (20.0,)).picture(np.array([[[5], [15], [30]]], np.uint8))[0].tolist()
        [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
        """
        planes = []
        for band, low, high in zip(self.bands, self.low, self.high, strict=True):
            stretched = (pixels[..., band].astype(np.float32) - low) * (255 / max(high - low, 1e-6))
            planes.append(np.floor(stretched.clip(0, 255) + 0.5).astype(np.uint8))
        return np.stack(planes * 3 if len(planes) == 1 else planes, axis=-1)


@dataclass(frozen=True)
class WindowedPicture:
    """The picture of an image that is read a window at a time; rows of it when they are asked for."""

    pixels: Any
    display: Display | None

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.pixels.shape[:2], 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, window: Any) -> NDArray[np.uint8]:
        return _picture(self.pixels[window], self.display)

    def small(self) -> NDArray[np.uint8]:
        """The picture at most 1024 pixels large, from the file's overviews where it has them."""
        return _picture(self.pixels.small()[0], self.display)


def picture_of(pixels: Any, display: Display | None = None) -> Any:  # H W C -> H W 3
    """An image as 8 bits; without a display, RGB in 0..255 is rounded and nothing is stretched.

    pixels: an array, or an image that is read a window at a time, whose picture then is too
    """
    return _picture(pixels, display) if isinstance(pixels, np.ndarray) else WindowedPicture(pixels, display)


def _picture(pixels: NDArray[Any], display: Display | None) -> NDArray[np.uint8]:
    if display is not None:
        return display.picture(pixels)
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels.clip(0, 255)).astype(np.uint8)


def shown_bands(spec: InputSpec) -> tuple[int, ...]:
    """The bands of the card's `display:`, from 0; else the first three, or the first one of fewer.

    >>> shown_bands(InputSpec(channels=4, display=(3, 2, 1))), shown_bands(InputSpec(channels=("a", "b")))
    ((2, 1, 0), (0,))
    """
    names = spec.channels if isinstance(spec.channels, tuple) else ()
    if spec.display:
        return tuple(names.index(band) if isinstance(band, str) else band - 1 for band in spec.display)
    return (0, 1, 2) if spec.planes >= 3 else (0,)


def display_of(images: Iterable[tuple[NDArray[Any], NDArray[np.bool_] | None]], spec: InputSpec) -> Display | None:
    """The display of a run, from some of its images (H W C) and where they hold data; None where RGB is shown as it is.

    low and high are the medians over the images of their 2nd and 98th percentile: one odd image does not set them.
    """
    if spec.colours:
        return None
    bands = shown_bands(spec)
    limits = []
    for pixels, valid in images:
        count = pixels.shape[0] * pixels.shape[1]
        places = np.arange(count) if valid is None else np.flatnonzero(valid)
        places = places[:: max(1, len(places) // SAMPLES)]
        if len(places):
            values = pixels.reshape(count, -1)[places][:, list(bands)]
            limits.append(np.percentile(values.astype(np.float64), PERCENTILES, axis=0))  # 2 B
    if not limits:
        return Display(bands, (0.0,) * len(bands), (255.0,) * len(bands))
    low, high = np.median(np.stack(limits), axis=0)
    return Display(bands, tuple(round(float(v), 4) for v in low), tuple(round(float(v), 4) for v in high))
