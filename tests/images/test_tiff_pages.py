"""The images of TIFFs of several pages: their order, their pixels, their places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segment.images.find import find_images
from segment.images.read import read_source, size_of
from segment.images.specs import InputSpec

RNG = np.random.default_rng(5)


def noise(*shape: int, kind: type[np.unsignedinteger] = np.uint8) -> NDArray[Any]:
    return RNG.integers(0, np.iinfo(kind).max + 1, shape).astype(kind)


def written(path: Path, *pages: tuple[NDArray[Any], dict[str, Any]]) -> list[NDArray[Any]]:
    """A file of these pages; their pixels as Pillow and tifffile give them page by page."""
    with tifffile.TiffWriter(path) as file:
        for pixels, options in pages:
            file.write(pixels, metadata=None, contiguous=False, **options)
    with tifffile.TiffFile(path) as file:
        stored = [page.asarray() for page in file.pages]
    with Image.open(path) as image:
        for number, pixels in enumerate(stored):
            image.seek(number)
            np.testing.assert_array_equal(np.asarray(image), pixels)
    return stored


def read(path: Path, **spec: Any) -> list[NDArray[Any]]:
    """The images of a file; each has the size that its header says."""
    images = []
    for source in find_images(path):
        pixels = read_source(source, InputSpec(**spec)).pixels
        assert size_of(source) == pixels.shape[:2]
        images.append(pixels)
    return images


GREY, RGB = {"photometric": "minisblack"}, {"photometric": "rgb"}
MIXED: dict[str, list[tuple[NDArray[Any], dict[str, Any]]]] = {
    "compression": [(noise(32, 40), GREY | {"compression": name}) for name in ("zlib", None, "zlib")],
    "layout": [(noise(32, 40), GREY | options) for options in ({}, {"tile": (16, 16)}, {})],
    "colours": [(noise(32, 40), GREY), (noise(32, 40, 3), RGB), (noise(32, 40), GREY), (noise(32, 40, 3), RGB)],
    "size": [(noise(*size), GREY) for size in ((32, 40), (20, 30), (32, 40))],
}


@pytest.mark.parametrize("differ", MIXED)
def test_pages_are_numbered_as_they_lie_in_the_file_whatever_they_differ_in(differ: str, tmp_path: Path) -> None:
    pages = written(tmp_path / "s.tif", *MIXED[differ])
    for pixels, page in zip(read(tmp_path / "s.tif"), pages, strict=True):
        colours = page if page.ndim == 3 else np.repeat(page[..., None], 3, axis=2)
        np.testing.assert_array_equal(pixels, colours)
