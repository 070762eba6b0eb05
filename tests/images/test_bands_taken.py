"""Of a raster, the bands that a card takes say where there is data, and what the file says of its bands is obeyed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.enums import ColorInterp

from segment.errors import ImageUnreadable
from segment.images import windowed
from segment.images.find import Source
from segment.images.read import read_source
from segment.images.specs import Channels, InputSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RNG = np.random.default_rng(0)
SIZE = (20, 26)
HIDDEN = np.zeros(SIZE, bool)
HIDDEN[:, :9] = True
PLACE: dict[str, Any] = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 4e6)}
WORLD = "10\n0\n0\n-10\n500000\n4000000\n"


def raster(path: Path, bands: NDArray[Any], names: tuple[str, ...] = (), **profile: Any) -> Path:  # C H W
    shape = {"count": len(bands), "height": SIZE[0], "width": SIZE[1], "dtype": bands.dtype.name}
    with rasterio.open(path, "w", **{"driver": "GTiff", **shape, **PLACE, **profile}) as file:
        file.write(bands)
        if names:
            file.descriptions = names
    return path


@pytest.fixture(params=["whole", "windows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "windows":
        monkeypatch.setattr(windowed, "LARGEST", -1)


def read(path: Path, channels: Channels, white: float = 255) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    image = read_source(Source("a", path), InputSpec(channels=channels, white=white))
    return image.pixels[:], np.ones(SIZE, bool) if image.valid is None else image.valid[:]


def masks_of(path: Path, bands: tuple[int, ...]) -> NDArray[np.bool_]:
    with rasterio.open(path) as file:
        return (file.read_masks(bands) > 0).any(axis=0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("missing", [-9999.0, np.nan])
def test_a_band_that_is_not_taken_does_not_say_where_there_is_data(missing: float, tmp_path: Path) -> None:
    values = RNG.uniform(1, 9, (2, *SIZE)).astype(np.float32)
    quality = HIDDEN.astype(np.float32)
    with_gap, all_there = np.where(HIDDEN, missing, values).astype(np.float32), values
    path = raster(tmp_path / "a.tif", np.stack([*with_gap, quality]), ("blue", "red", "qa"), nodata=missing)
    pixels, valid = read(path, ("red", "blue"))
    np.testing.assert_array_equal(valid, ~HIDDEN)
    np.testing.assert_array_equal(valid, masks_of(path, (2, 1)))
    np.testing.assert_array_equal(pixels, np.where(HIDDEN[..., None], 0, np.moveaxis(all_there[::-1], 0, -1)))
    thermal = np.where(HIDDEN, missing, 1).astype(np.float32)
    path = raster(tmp_path / "b.tif", np.stack([*all_there, thermal]), ("blue", "red", "t"), nodata=missing)
    pixels, valid = read(path, ("blue", "red"))
    assert valid.all()
    np.testing.assert_array_equal(pixels, np.moveaxis(all_there, 0, -1))


@pytest.mark.usefixtures("way")
def test_alpha_of_the_whole_file_hides_pixels_of_any_band(tmp_path: Path) -> None:
    bands = RNG.integers(1, 256, (4, *SIZE)).astype(np.uint8)
    bands[3] = np.where(HIDDEN, 0, 255)
    path = raster(tmp_path / "a.tif", bands, ("a", "b", "c", "opaque"), photometric="RGB", ALPHA="YES")
    pixels, valid = read(path, ("c",))
    np.testing.assert_array_equal(valid, ~HIDDEN)
    np.testing.assert_array_equal(pixels[..., 0], np.where(HIDDEN, 0, bands[2]))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("values", [(7, 9), (7, None)])
def test_nodata_of_a_band_is_that_of_the_file_beside_a_tiff(values: tuple[int | None, ...], tmp_path: Path) -> None:
    bands = RNG.integers(10, 60000, (2, *SIZE)).astype(np.uint16)
    bands[0, HIDDEN], bands[1, HIDDEN] = 7, 9
    path = raster(tmp_path / "a.tif", bands)
    said = "".join(
        f'<PAMRasterBand band="{number}"><NoDataValue>{value}</NoDataValue></PAMRasterBand>'
        for number, value in enumerate(values, 1)
        if value is not None
    )
    path.with_name("a.tif.aux.xml").write_text(f"<PAMDataset>{said}</PAMDataset>", encoding="utf-8")
    _, valid = read(path, 2)
    np.testing.assert_array_equal(valid, masks_of(path, (1, 2)))
    np.testing.assert_array_equal(valid, ~HIDDEN if None not in values else np.ones(SIZE, bool))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("said_by", ["names", "names of a picture", "interpretation"])
def test_colours_are_those_that_a_file_says_of_its_bands(said_by: str, tmp_path: Path) -> None:
    bands = RNG.integers(1, 256, (3, *SIZE)).astype(np.uint8)
    if said_by == "interpretation":
        path = raster(tmp_path / "a.tif", bands, photometric="MINISBLACK")
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    else:
        place = {"crs": None, "transform": None} if "picture" in said_by else {}
        path = raster(tmp_path / "a.tif", bands, ("Blue", "Green", "Red"), photometric="RGB", **place)
    np.testing.assert_array_equal(read(path, "RGB")[0], np.moveaxis(bands[::-1], 0, -1))
    np.testing.assert_array_equal(read(path, 3)[0], np.moveaxis(bands, 0, -1))  # a number takes the file's order


@pytest.mark.usefixtures("way")
def test_the_fourth_band_of_a_tiff_as_gdal_writes_it_is_a_band_of_four_and_hides_nothing(tmp_path: Path) -> None:
    """GDAL marks it as alpha by default, also where it is near infrared, whose 0 is a value."""
    bands = RNG.integers(1, 255, (4, *SIZE)).astype(np.uint8)
    bands[3, :4] = 0
    path = raster(tmp_path / "a.tif", bands)
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    for channels in (("red", "green", "blue", "nir"), 4):
        pixels, valid = read(path, channels)
        np.testing.assert_array_equal(pixels, np.moveaxis(bands, 0, -1))
        assert valid.all()
    np.testing.assert_array_equal(read(path, "RGB")[1], bands[3] > 0)


def test_named_bands_with_alpha_among_them_are_as_stored_and_others_are_divided_by_it(tmp_path: Path) -> None:
    bands = np.repeat(np.array([50, 25, 100, 128], np.uint8), SIZE[0] * SIZE[1]).reshape(4, *SIZE)
    names = ("red", "green", "blue", "alpha")
    path = raster(tmp_path / "a.tif", bands, names, photometric="RGB", ALPHA="PREMULTIPLIED")
    for channels in (names, 4):
        assert read(path, channels)[0][0, 0].tolist() == [50, 25, 100, 128]
    assert read(path, names[:3])[0][0, 0].tolist() == [99, 49, 199]


def test_alpha_is_no_band_of_a_name(tmp_path: Path) -> None:
    four = RNG.integers(1, 256, (*SIZE, 4)).astype(np.uint8)
    Image.fromarray(four).save(tmp_path / "a.png")
    names = ("red", "green", "blue", "nir")
    with pytest.raises(
        ImageUnreadable, match=r"3 bands and alpha, where red, green, blue, nir are .*`\{channels: 4\}`"
    ):
        read(tmp_path / "a.png", names)
    Image.fromarray(four[..., :2]).save(tmp_path / "b.png")
    with pytest.raises(ImageUnreadable, match="1 band and alpha, where vv, vh are"):
        read(tmp_path / "b.png", ("vv", "vh"))
    np.testing.assert_array_equal(read(tmp_path / "a.png", 4)[0], four)
    # a TIFF that does not say what its fourth band is
    path = raster(tmp_path / "c.tif", np.moveaxis(four, -1, 0), photometric="RGB", ALPHA="NO")
    np.testing.assert_array_equal(read(path, names)[0], four)


@pytest.mark.parametrize("kind", ["RGB", "grey", "4 bits", "palette", "palette of alphas", "RGB of 16 bits"])
def test_the_transparent_colour_of_a_placed_png_is_no_data(kind: str, tmp_path: Path) -> None:
    path, shown = tmp_path / "a.png", RNG.integers(1, 15, SIZE).astype(np.uint8)
    values = np.where(HIDDEN, 0, shown).astype(np.uint8)
    if kind == "RGB of 16 bits":
        bands = np.stack([values.astype(np.uint16)] * 3)
        raster(path, bands, driver="PNG", nodata=0, crs=None, transform=None)
    elif kind.startswith("palette"):
        image = Image.fromarray(values, "P")
        image.putpalette(RNG.integers(0, 256, 16 * 3).astype(np.uint8).tobytes())
        image.save(path, transparency=0 if kind == "palette" else b"\x00\x80")
    elif kind == "4 bits":
        Image.fromarray(np.where(HIDDEN, 3, values % 3) * np.uint8(17)).save(path, bits=4, transparency=3)
    else:
        Image.fromarray(values if kind == "grey" else np.dstack([values] * 3)).save(
            path, transparency=0 if kind == "grey" else (0, 0, 0)
        )
    assert read(path, "RGB")[1].all()  # a plain picture has data everywhere
    path.with_suffix(".pgw").write_text(WORLD, encoding="utf-8")
    pixels, valid = read(path, "RGB")
    np.testing.assert_array_equal(valid, ~HIDDEN)
    assert not pixels[HIDDEN].any()
