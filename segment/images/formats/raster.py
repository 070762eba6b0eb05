"""What a file holds, before anything is asked of it: the raw planes, and what they are.

Must not know a card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Raster:
    """The pixels of one image as its file holds them, upright.

    raw: H W B, any number type
    alpha: the plane that says how opaque a pixel is; None: none of them
    bands: names of the planes; (): not said
    nodata: raw value of a pixel that holds no data
    clear: whether a fully transparent pixel holds no data, as in a georeferenced picture
    mask: H W, where the pixels hold data, as the file says beside them; None: not said
    """

    raw: NDArray[Any]
    alpha: int | None = None
    bands: tuple[str, ...] = ()
    nodata: float | None = None
    clear: bool = False
    mask: NDArray[np.bool_] | None = None
