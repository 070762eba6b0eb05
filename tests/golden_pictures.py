"""Pictures for the tests of pictures, and the comparison with those kept beside the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
SIZES = [(1, 1), (20, 2000), (2000, 20), (360, 480)]


class Golden:
    """Pictures kept beside the tests; another processor may round a colour by one level."""

    def __init__(self, kept: Path, actual: Path) -> None:
        self.kept, self.actual = kept, actual

    def check(self, picture: Picture, name: str) -> None:
        Image.fromarray(picture).save(self.actual / name)
        kept = np.asarray(Image.open(self.kept / name).convert("RGB")).astype(int)
        assert kept.shape == picture.shape
        assert np.abs(kept - picture).max() <= 1, f"{self.actual / name} is not the golden {name}"


def blocks(rows: int = 32, columns: int = 32) -> NDArray[np.uint8]:  # H W, four classes in quarters
    down, across = np.mgrid[:rows, :columns]
    return ((down >= rows // 2) * 2 + (across >= columns // 2)).astype(np.uint8)


def street(rows: int = 32, columns: int = 32) -> Picture:  # H W 3, a smooth image
    down, across = np.mgrid[:rows, :columns]
    return np.stack([down * 255 // rows, across * 255 // columns, 255 - down * 255 // rows], axis=-1).astype(np.uint8)
