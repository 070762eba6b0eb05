"""What a file holds, before anything is asked of it: the raw planes, and what their samples mean by its header.

Must not know a card, nor how the samples are read.
"""

from __future__ import annotations

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
    nodata: raw value of a pixel that holds no data, or one a plane
    clear: whether a fully transparent pixel holds no data, as in a georeferenced picture
    mask: H W, where the pixels hold data, as the file says beside them; None: not said
    multiplied: whether the other planes are multiplied by alpha
    """

    raw: NDArray[Any]
    alpha: int | None = None
    bands: tuple[str, ...] = ()
    nodata: float | tuple[float, ...] | None = None
    clear: bool = False
    mask: NDArray[np.bool_] | None = None
    multiplied: bool = False

    def straight(self) -> NDArray[Any]:  # H W B
        """The planes with their colours divided by alpha where they are multiplied by it, rounded down as by Pillow."""
        if self.alpha is None or not self.multiplied or self.raw.dtype.kind not in "uf":
            return self.raw
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
        return straight

    def valid(self) -> NDArray[np.bool_] | None:  # H W
        """Where it holds data; None: everywhere.

        Outside: every band has its nodata value, a band is not finite, the picture is fully transparent there, or the
        file's own mask says so.
        """
        parts: list[NDArray[np.bool_]] = [] if self.mask is None or self.mask.all() else [self.mask]
        if self.raw.dtype.kind == "f":
            finite = np.isfinite(self.raw).all(axis=2)
            if not finite.all():
                parts.append(finite)
        if self.nodata is not None and not np.isnan(self.nodata).all():
            same = self.raw == self.nodata  # a nodata value that the type cannot hold is no pixel's
            empty = (same if self.alpha is None else np.delete(same, self.alpha, axis=2)).all(axis=2)
            if empty.any():
                parts.append(~empty)
        if self.clear and self.alpha is not None:
            opaque_there = self.raw[..., self.alpha] > 0
            if not opaque_there.all():
                parts.append(opaque_there)
        return np.logical_and.reduce(parts) if parts else None


@dataclass(frozen=True)
class SampleMeaning:
    """What a raster's header says of its samples.

    palette: the colours (P 3) that a sample is an index into; None: it is a value
    black: the sample that is black, where 0 is white
    bit: whether a sample is one bit, of which 1 is white
    white: the largest sample of 2 to 7 bits, which is 255 in 8
    alpha, bands, nodata, clear, multiplied: as in `Raster`
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

    @property
    def can_be_absent(self) -> bool:
        """Whether a pixel may hold no data by its own samples, be they finite."""
        return self.nodata is not None or (self.clear and self.alpha is not None)

    def stored(self) -> SampleMeaning:
        """The meaning of samples taken as they are stored, as those of label maps are."""
        return replace(self, palette=None, black=None, bit=False, white=None, multiplied=False)

    def raster(self, samples: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Raster:
        """The planes of samples (H W B), and where they hold data. mask: H W, where the file's own mask says so."""
        raster = Raster(samples, self.alpha, self.bands, self.nodata, self.clear, mask, self.multiplied)
        if self.palette is None and self.black is None and self.white is None:
            return replace(raster, raw=samples.astype(np.bool_, copy=False)) if self.bit else raster
        valid = raster.valid()  # nodata is a stored sample, not what it stands for
        if self.palette is not None:
            index = samples[..., 0]
            return Raster(self.palette[index.view(np.uint8) if index.dtype == np.bool_ else index], mask=valid)
        values = samples
        if self.black is not None:
            bits = self.bit or samples.dtype == np.bool_
            values = samples == 0 if bits else samples.dtype.type(self.black) - samples
            if self.alpha is not None:
                values[..., self.alpha] = samples[..., self.alpha]
        if self.white is not None:
            values = np.rint(values * np.float32(255 / self.white)).astype(np.uint8)
        return Raster(values, self.alpha, self.bands, mask=valid, multiplied=self.multiplied)
