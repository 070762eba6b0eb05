"""What the samples of a TIFF mean, whichever decoder reads it: colours multiplied by alpha, fewer than 8 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
from image_files import NORTH_UP
from numpy.typing import NDArray
from PIL import Image

from segment.images import windowed
from segment.images.find import Source
from segment.images.formats.georeference import quiet_gdal
from segment.images.read import read_label, read_source
from segment.images.specs import InputSpec

RNG = np.random.default_rng(6)
KINDS = ["plain", "beside", "placed"]
STATISTICS = (
    '<PAMDataset><PAMRasterBand band="1"><Metadata><MDI key="STATISTICS_MEAN">12</MDI></Metadata></PAMRasterBand>'
)


def pixels_of(path: Path, **spec: Any) -> NDArray[Any]:
    return np.asarray(read_source(Source("", path), InputSpec(**spec)).pixels[:])


def multiplied(path: Path, where: str, bits: int) -> NDArray[Any]:
    """A TIFF of colours (H W 4) multiplied by their alpha: plain, with QGIS's statistics beside it, or with a place."""
    full = 2**bits - 1
    alpha = RNG.integers(0, full + 1, (20, 30, 1))
    alpha[:4] = full
    colours = np.rint(RNG.integers(0, full + 1, (20, 30, 3)) * (alpha / full))
    stored = np.concatenate([colours, alpha], axis=2).astype(np.uint8 if bits == 8 else np.uint16)
    place = [(33550, "d", 3, (1.0, 1.0, 0.0), True), (33922, "d", 6, (0.0,) * 6, True)] if where == "placed" else []
    tifffile.imwrite(path, stored, photometric="rgb", extrasamples=["assocalpha"], extratags=place)
    if where == "beside":
        path.with_name(f"{path.name}.aux.xml").write_text(f"{STATISTICS}</PAMDataset>")
    return stored


@pytest.mark.parametrize("by_windows", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("where", KINDS)
def test_colours_multiplied_by_alpha_are_divided_by_it_whoever_decodes_them(
    where: str, bits: int, *, by_windows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = multiplied(tmp_path / "a.tif", where, bits)
    if by_windows:
        monkeypatch.setattr(windowed, "LARGEST", -1)
    alpha = stored[..., 3:].astype(np.int64)
    full = 2**bits - 1
    divided = np.minimum(stored[..., :3].astype(np.int64) * full // np.maximum(alpha, 1), full)
    if bits == 8:
        with Image.open(tmp_path / "a.tif") as picture:
            np.testing.assert_array_equal(divided, np.asarray(picture.convert("RGB")))
    spec = {} if bits == 8 else {"white": 255}
    for channels in ("RGB", 3):
        np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif", channels=channels, **spec), divided)
    bands = pixels_of(tmp_path / "a.tif", channels=4, **spec)
    np.testing.assert_array_equal(bands, np.where(alpha > 0, stored, 0) if where == "placed" else stored)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("black", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("where", ["plain", "beside", "placed"])
def test_the_largest_grey_of_a_few_bits_is_white_whoever_decodes_it(
    where: str, black: str, bits: int, tmp_path: Path
) -> None:
    grey, path = RNG.integers(0, 2**bits, (32, 48)).astype(np.uint8), tmp_path / "a.tif"
    profile: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": 32, "width": 48, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": NORTH_UP} if where == "placed" else {}
    with quiet_gdal(), rasterio.open(path, "w", nbits=bits, photometric=black, **profile, **place) as raster:
        raster.write(grey[None])
    path.with_name("a.tif.aux.xml").unlink(missing_ok=True)
    if where == "beside":
        path.with_name("a.tif.aux.xml").write_text(f"{STATISTICS}</PAMDataset>")
    with Image.open(path) as picture:
        np.testing.assert_array_equal(pixels_of(path, channels=1)[..., 0], np.asarray(picture.convert("L")))
    np.testing.assert_array_equal(read_label(path), grey)
