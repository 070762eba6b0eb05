"""What the stored samples of a raster mean: a palette, white stored as 0, one bit, alpha; the rules of all readers.

Must not know how the samples are read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.images.bands import valid_in
from segment.images.formats.raster import Raster


@dataclass(frozen=True)
class SampleMeaning:
    """What a raster's header says of its samples.

    palette: the colours (P 3) that a sample is an index into; None: it is a value
    black: the sample that is black, where 0 is white
    bit: whether a sample is one bit, of which 1 is white
    alpha, bands, nodata, clear: as in `Raster`
    """

    palette: NDArray[np.uint8] | None = None
    black: int | None = None
    bit: bool = False
    alpha: int | None = None
    bands: tuple[str, ...] = ()
    nodata: float | None = None
    clear: bool = False

    @property
    def can_be_absent(self) -> bool:
        """Whether a pixel may hold no data by its own samples, be they finite."""
        return self.nodata is not None or (self.clear and self.alpha is not None)

    def stored(self) -> SampleMeaning:
        """The same samples taken as they are stored, as label maps are."""
        return replace(self, palette=None, black=None, bit=False)

    def raster(self, samples: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> Raster:
        """The planes of samples (H W B), and where they hold data. mask: H W, where the file's own mask says so."""
        raster = Raster(samples, self.alpha, self.bands, self.nodata, self.clear, mask)
        if self.palette is None and self.black is None:
            return replace(raster, raw=samples.astype(np.bool_, copy=False)) if self.bit else raster
        valid = valid_in(raster)  # nodata is a stored sample, not what it stands for
        if self.palette is not None:
            index = samples[..., 0]
            return Raster(self.palette[index.view(np.uint8) if index.dtype == np.bool_ else index], mask=valid)
        bits = self.bit or samples.dtype == np.bool_
        inverted = samples == 0 if bits else samples.dtype.type(self.black) - samples
        if self.alpha is not None:
            inverted[..., self.alpha] = samples[..., self.alpha]
        return Raster(inverted, self.alpha, self.bands, mask=valid)
