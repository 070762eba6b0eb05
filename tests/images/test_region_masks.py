"""A region mask is read as it looks: what is black is outside, whatever numbers stand for black."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from numpy.typing import NDArray
from PIL import Image

from segment.errors import ImageUnreadable
from segment.images import windowed
from segment.images.find import Source
from segment.images.read import read_source
from segment.images.specs import InputSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

SIZE = (40, 48)
INSIDE = np.zeros(SIZE, bool)
INSIDE[10:30, 10:40] = True
INDEX = INSIDE.astype(np.uint8)
WHITE_BLACK = [255, 255, 255, 0, 0, 0]


def palette(path: Path, index: NDArray[np.uint8], colours: list[int]) -> None:
    image = Image.fromarray(index, "P")
    image.putpalette(colours)
    image.save(path)


def geotiff(path: Path, index: NDArray[np.uint8], colours: list[int]) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=SIZE[0], width=SIZE[1], dtype="uint8", photometric="palette"
    ) as file:
        file.write(index, 1)
        file.write_colormap(1, {k: (*colours[3 * k : 3 * k + 3], 255) for k in range(len(colours) // 3)})


MASKS: dict[str, Callable[[Path], object]] = {
    "grey.png": lambda path: Image.fromarray(INDEX * np.uint8(255)).save(path),
    "index.png": lambda path: Image.fromarray(INDEX).save(path),
    "index.tif": lambda path: tifffile.imwrite(path, INDEX),
    "floats.tif": lambda path: tifffile.imwrite(path, INDEX.astype(np.float32)),
    "edges.jpg": lambda path: Image.fromarray(INDEX * np.uint8(255)).save(path, quality=70),
    "edges.webp": lambda path: Image.fromarray(INDEX * np.uint8(255)).convert("RGB").save(path, quality=70),
    "edges.tif": lambda path: tifffile.imwrite(
        path, INDEX * np.uint8(255), compression="jpeg", compressionargs={"level": 70}
    ),
    "palette.png": lambda path: palette(path, 1 - INDEX, WHITE_BLACK),
    "palette.gif": lambda path: palette(path, 1 - INDEX, [255, 0, 0, 0, 0, 0]),
    "palette.tif": lambda path: palette(path, 1 - INDEX, WHITE_BLACK),
    "palette of GDAL.tif": lambda path: geotiff(path, 1 - INDEX, WHITE_BLACK),
    "no black.png": lambda path: palette(path, INDEX, [0, 0, 255, 255, 255, 0]),
    "only black.png": lambda path: palette(path, INDEX, [0, 0, 0, 0, 0, 0]),
    "white is 0.tif": lambda path: tifffile.imwrite(path, (1 - INDEX) * np.uint8(255), photometric="miniswhite"),
    "white is 0 of 1 bit.tif": lambda path: tifffile.imwrite(path, ~INSIDE, photometric="miniswhite"),
}


@pytest.fixture(params=["whole", "windows"])
def image(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "windows":
        monkeypatch.setattr(windowed, "LARGEST", -1)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.ones((*SIZE, 3), np.uint8), photometric="rgb")
    return path


def test_jpeg_moves_values_near_an_edge_in_a_tiff_too(tmp_path: Path) -> None:
    MASKS["edges.tif"](tmp_path / "edges.tif")
    outside = tifffile.imread(tmp_path / "edges.tif")[~INSIDE]
    assert 0 < (outside > 0).mean() < 1


@pytest.mark.parametrize("name", MASKS)
def test_a_region_mask_is_read_as_it_looks(name: str, image: Path, tmp_path: Path) -> None:
    mask = tmp_path / name
    MASKS[name](mask)
    valid = read_source(Source("a", image, mask=mask), InputSpec()).valid
    assert valid is not None
    np.testing.assert_array_equal(valid[:], INSIDE)


@pytest.mark.parametrize("name", ["white.png", "white is 0.tif"])
def test_a_region_mask_that_is_white_everywhere_leaves_all_of_the_image(name: str, image: Path, tmp_path: Path) -> None:
    mask = tmp_path / name
    if name.endswith("png"):
        palette(mask, np.zeros(SIZE, np.uint8), WHITE_BLACK)
    else:
        tifffile.imwrite(mask, np.zeros(SIZE, np.uint8), photometric="miniswhite")
    valid = read_source(Source("a", image, mask=mask), InputSpec()).valid
    assert valid is None or valid[:].all()


@pytest.mark.parametrize(
    ("name", "message"), [("dark.jpg", "darker than half everywhere"), ("dark.png", "0 everywhere")]
)
def test_a_region_mask_that_is_black_everywhere_is_refused(
    name: str, message: str, image: Path, tmp_path: Path
) -> None:
    mask = tmp_path / name
    Image.fromarray(INDEX * np.uint8(100 if name.endswith("jpg") else 0)).save(mask)
    with pytest.raises(ImageUnreadable, match=message):
        read_source(Source("a", image, mask=mask), InputSpec())
