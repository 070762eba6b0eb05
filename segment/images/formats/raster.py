"""What a file holds, before anything is asked of it: the raw planes, and what their samples mean by its header.

Must not know a card, nor how the samples are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Raster:
    """The pixels of one image as its file holds them, upright.

    raw: H W B, any number type
    alpha: the plane that says how opaque a pixel is; None: none of them
    bands: names of the planes; (): not said
    nodata: raw value of a pixel that holds no data, or one a plane, NaN of a plane that has none
    clear: whether a fully transparent pixel holds no data, as in a georeferenced picture
    mask: H W, where the pixels hold data, as the file says beside them; None: not said
    multiplied: whether the other planes are multiplied by alpha
    rgb: the planes of red, green and blue; (): in the order of the planes
    guessed: whether `alpha` may be a band, as the fourth of a TIFF: alpha for colours, a band where four are asked for
    """

    raw: NDArray[Any]
    alpha: int | None = None
    bands: tuple[str, ...] = ()
    nodata: float | tuple[float, ...] | None = None
    clear: bool = False
    mask: NDArray[np.bool_] | None = None
    multiplied: bool = False
    rgb: tuple[int, ...] = ()
    guessed: bool = False

    def straight(self) -> Raster:
        """With its colours divided by alpha where they are multiplied by it, rounded down as by Pillow."""
        if self.alpha is None or not self.multiplied or self.raw.dtype.kind not in "uf":
            return self
        opacity, straight = self.raw[..., self.alpha], np.zeros_like(self.raw)
        straight[..., self.alpha] = opacity
        there = opacity > 0
        for plane in range(self.raw.shape[2]):
            if plane == self.alpha:
                continue
            values = self.raw[..., plane][there]
            if values.dtype.kind == "f":
                straight[..., plane][there] = values / opacity[there]
            else:
                full = np.iinfo(values.dtype).max
                straight[..., plane][there] = np.minimum(values.astype(np.uint64) * full // opacity[there], full)
        return replace(self, raw=straight, multiplied=False)

    def valid(self) -> NDArray[np.bool_] | None:  # H W
        """Where it holds data; None: everywhere.

        Outside: every band has its nodata value, a band is not finite, the picture is fully transparent there, or the
        file's own mask says so.
        """
        shown = self._shown()
        parts: list[NDArray[np.bool_]] = [] if shown is None else [shown]
        if self.raw.dtype.kind == "f":
            finite = np.isfinite(self.raw).all(axis=2)
            if not finite.all():
                parts.append(finite)
        values = [plane for plane in range(self.raw.shape[2]) if plane != self.alpha]
        if values and self.nodata is not None and not np.isnan(self.nodata).all():
            same = self.raw == self.nodata  # a nodata value that the type cannot hold is no pixel's
            empty = (same if self.alpha is None else same[..., values]).all(axis=2)
            if empty.any():
                parts.append(~empty)
        return np.logical_and.reduce(parts) if parts else None

    def taken(self, planes: Sequence[int]) -> Raster:
        """Some planes, in that order: they say where there is data, with the mask and the transparency of the whole."""
        if list(planes) == list(range(self.raw.shape[2])):
            return self
        nodata = tuple(self.nodata[plane] for plane in planes) if isinstance(self.nodata, tuple) else self.nodata
        alpha = planes.index(self.alpha) if self.alpha in planes else None
        return Raster(np.take(self.raw, planes, axis=2), alpha, nodata=nodata, mask=self._shown())

    def _shown(self) -> NDArray[np.bool_] | None:  # H W
        """Where neither the mask nor full transparency hides it; None: everywhere."""
        parts = [] if self.mask is None else [self.mask]
        if self.clear and self.alpha is not None:
            parts.append(self.raw[..., self.alpha] > 0)
        shown = np.logical_and.reduce(parts) if parts else None
        return None if shown is None or shown.all() else shown


@dataclass(frozen=True)
class SampleMeaning:
    """What a raster's header says of its samples.

    palette: the colours (P 3) that a sample is an index into; None: it is a value
    black: the sample that is black, where 0 is white
    bit: whether a sample is one bit, of which 1 is white
    white: the largest sample of 2 to 7 bits, which is 255 in 8
    alpha, bands, nodata, clear, multiplied, rgb, guessed: as in `Raster`
    """

    palette: NDArray[np.uint8] | None = None
    black: int | None = None
    bit: bool = False
    alpha: int | None = None
    bands: tuple[str, ...] = ()
    nodata: float | tuple[float, ...] | None = None
    clear: bool = False
    white: int | None = None
    multiplied: bool = False
    rgb: tuple[int, ...] = ()
    guessed: bool = False

    @property
    def can_be_absent(self) -> bool:
        """Whether a pixel may hold no data by its own samples, be they finite."""
        return self.nodata is not None or (self.clear and self.alpha is not None)

    def stored(self) -> SampleMeaning:
        """The meaning of samples taken as they are stored, as those of label maps are."""
        return replace(self, palette=None, black=None, bit=False, white=None, multiplied=False)

    def raster(self, samples: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Raster:
        """The planes of samples (H W B), and where they hold data. mask: H W, where the file's own mask says so."""
        raster = Raster(
            samples,
            alpha=self.alpha,
            bands=self.bands,
            nodata=self.nodata,
            clear=self.clear,
            mask=mask,
            multiplied=self.multiplied,
            rgb=self.rgb,
            guessed=self.guessed,
        )
        if self.palette is not None:
            index = samples[..., 0]
            colours = self.palette[index.view(np.uint8) if index.dtype == np.bool_ else index]
            return Raster(colours, mask=raster.valid())  # nodata is a stored sample, not what it stands for
        if self.black is not None:
            bits = self.bit or samples.dtype == np.bool_
            inverted = samples == 0 if bits else samples.dtype.type(self.black) - samples
            if self.alpha is not None:
                inverted[..., self.alpha] = samples[..., self.alpha]
            raster = replace(raster, raw=inverted, nodata=_of_each(self.nodata, self._inverted))
        elif self.bit:
            raster = replace(raster, raw=samples.astype(np.bool_, copy=False))
        if self.white is None:
            return raster
        stretched = np.rint(raster.raw * np.float32(255 / self.white)).astype(np.uint8)
        return replace(raster, raw=stretched, nodata=_of_each(raster.nodata, self._stretched))

    def _inverted(self, value: float) -> float:
        assert self.black is not None
        return self.black - value

    def _stretched(self, value: float) -> float:
        """A value without data in 8 bits; NaN where no sample can have it."""
        assert self.white is not None
        possible = 0 <= value <= self.white and float(value).is_integer()
        return float(np.rint(np.float32(value) * np.float32(255 / self.white))) if possible else math.nan


def _of_each(
    nodata: float | tuple[float, ...] | None, mapped: Callable[[float], float]
) -> float | tuple[float, ...] | None:
    if isinstance(nodata, tuple):
        return tuple(map(mapped, nodata))
    return None if nodata is None else mapped(nodata)
