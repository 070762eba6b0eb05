"""A TIFF or raster read a window at a time has the pixels, the valid part and the refusals of the same file whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from image_files import saved
from numpy.typing import NDArray
from PIL import Image

from segment.errors import ImageUnreadable
from segment.images import windowed
from segment.images.find import Source, find_images
from segment.images.limits import set_most_pixels
from segment.images.read import few_pixels, is_large, read_label, read_source
from segment.images.specs import InputSpec

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (300, 280, 3)).astype(np.uint8)
GREY = COLOURS[..., 0]
CLASSES = GREY % 4
PALETTE = np.array([[10, 20, 30], [255, 0, 0], [0, 255, 0], [60, 70, 240]], np.uint8)
SOFT = COLOURS[:8, :8].repeat(40, 0).repeat(40, 1)[:300, :280]
FOUR = np.dstack([COLOURS, GREY // 2 * (GREY > 99)])
INSIDE = GREY > 40
TRANSFORM = {"transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
PLACE = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}


def palette_picture() -> Image.Image:
    image = Image.fromarray(CLASSES, "P")
    image.putpalette(PALETTE.ravel().tolist())
    return image


def plain(path: Path, pixels: NDArray[Any], photometric: str = "minisblack", **options: Any) -> None:
    tifffile.imwrite(path, pixels, photometric=photometric, metadata=None, **options)


def raster(
    path: Path, pixels: NDArray[Any], *, colours: bool = False, mask: str = "", place: Any = PLACE, **profile: Any
) -> None:
    """By rasterio; a palette given after the pixels stays beside the photometric interpretation of grey.

    mask: "inside" the file, or "beside" it
    """
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, count = pixels.shape
    shape = {"driver": "GTiff", "height": height, "width": width, "count": count, "dtype": pixels.dtype.name}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=mask != "beside"),
        rasterio.open(path, "w", **shape | place | profile) as file,
    ):
        file.write(np.moveaxis(pixels, -1, 0))
        if mask:
            file.write_mask(INSIDE)
        if colours:
            file.write_colormap(1, {index: (*map(int, colour), 255) for index, colour in enumerate(PALETTE)})


def turned(number: int) -> dict[str, Any]:
    return {"extratags": [(274, "H", 1, number, True)]}


def nodata(value: int) -> dict[str, Any]:
    return {"extratags": [(42113, "s", 0, str(value), True)]}


TIFFS: dict[str, Callable[[Path], Any]] = {
    "palette": lambda path: saved(palette_picture(), path, "TIFF"),
    "palette, geo": lambda path: raster(path, CLASSES, colours=True),
    "palette, geo, nodata": lambda path: raster(path, CLASSES, colours=True, nodata=2),
    "palette by its tag, geo": lambda path: raster(path, CLASSES, colours=True, photometric="PALETTE"),
    "palette of 4 bits": lambda path: saved(palette_picture(), path, "TIFF", bits=4),
    "1 bit": lambda path: saved(Image.fromarray(CLASSES > 1), path, "TIFF"),
    "1 bit, geo": lambda path: raster(path, CLASSES // 2, nbits=1),
    "1 bit, white is 0": lambda path: plain(path, CLASSES > 1, "miniswhite"),
    "4 bits": lambda path: plain(path, CLASSES, bitspersample=4),
    "grey": lambda path: plain(path, GREY),
    "grey, nodata": lambda path: plain(path, GREY, **nodata(7)),
    "white is 0": lambda path: plain(path, GREY, "miniswhite"),
    "white is 0, nodata": lambda path: plain(path, GREY, "miniswhite", **nodata(7)),
    "white is 0, 16 bits": lambda path: plain(path, GREY.astype(np.uint16), "miniswhite"),
    "white is 0, geo": lambda path: raster(path, GREY, photometric="MINISWHITE", nodata=7),
    "grey and alpha": lambda path: plain(path, FOUR[..., 2:], extrasamples=["unassalpha"]),
    "RGB": lambda path: plain(path, COLOURS, "rgb"),
    "RGB, planar": lambda path: plain(path, np.moveaxis(COLOURS, -1, 0), "rgb", planarconfig="separate"),
    "RGBA": lambda path: plain(path, FOUR, "rgb", extrasamples=["unassalpha"]),
    "RGBA, premultiplied": lambda path: plain(path, FOUR, "rgb", extrasamples=["assocalpha"]),
    "RGBA, geo": lambda path: raster(path, FOUR, photometric="RGB", alpha="YES"),
    "RGBA, placed": lambda path: raster(path, FOUR, photometric="RGB", alpha="YES", place=TRANSFORM),
    "grey and alpha, placed": lambda path: raster(path, FOUR[..., 2:], alpha="YES", place=TRANSFORM),
    "palette, placed": lambda path: raster(path, CLASSES, colours=True, place=TRANSFORM),
    "JPEG, placed": lambda path: raster(path, SOFT, compress="JPEG", jpeg_quality=90, place=TRANSFORM),
    "RGB and a fourth": lambda path: plain(path, FOUR, "rgb", extrasamples=["unspecified"]),
    "four bands": lambda path: plain(path, FOUR.astype(np.uint16), planarconfig="contig"),
    "bands in pages": lambda path: tifffile.imwrite(
        path, np.moveaxis(FOUR, -1, 0), photometric="minisblack", metadata={"axes": "CYX"}
    ),
    "turned": lambda path: plain(path, COLOURS, "rgb", **turned(6)),
    "turned, 16 bits": lambda path: plain(path, COLOURS.astype(np.uint16) * 257, "rgb", **turned(6)),
    "CMYK": lambda path: saved(Image.fromarray(COLOURS).convert("CMYK"), path, "TIFF"),
    "Lab": lambda path: plain(path, COLOURS, "cielab"),
    "JPEG": lambda path: saved(Image.fromarray(SOFT), path, "TIFF", compression="jpeg"),
    "masked, geo": lambda path: raster(path, COLOURS, mask="inside", tiled=True, compress="deflate"),
    "masked by a file, geo": lambda path: raster(path, COLOURS.astype(np.uint16), mask="beside"),
    "masked, palette": lambda path: raster(path, CLASSES, colours=True, mask="inside", photometric="PALETTE"),
    "masked": lambda path: raster(path, COLOURS, mask="inside", place={}, photometric="RGB"),
    "masked, nodata": lambda path: raster(path, GREY, mask="inside", nodata=99),
    "signed": lambda path: plain(path, GREY.astype(np.int8)),
    "float": lambda path: plain(path, np.where(GREY == 9, np.nan, GREY).astype(np.float32)),
}
SPECS = {
    "RGB": InputSpec(white=255),
    "grey": InputSpec(white=255, channels="grey"),
    "1": InputSpec(white=255, channels=1),
    "4": InputSpec(white=255, channels=4),
}


def read(path: Path, spec: InputSpec) -> str | tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """The pixels and the valid part; or what it is refused for."""
    try:
        image = read_source(Source("a", path), spec)
        return image.pixels[:], None if image.valid is None else image.valid[:]
    except ImageUnreadable as refused:
        return str(refused)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff_by_windows_is_the_tiff_whole(
    kind: str, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    TIFFS[kind](path)
    whole = read(path, SPECS[spec])
    monkeypatch.setattr(windowed, "LARGEST", 0)
    windows = read(path, SPECS[spec])
    if isinstance(whole, str) or isinstance(windows, str):
        assert windows == whole
        return
    np.testing.assert_array_equal(windows[0], whole[0])
    assert (windows[1] is None) == (whole[1] is None)
    if windows[1] is not None and whole[1] is not None:
        np.testing.assert_array_equal(windows[1], whole[1])
    small, _ = few_pixels(Source("a", path), SPECS[spec])
    np.testing.assert_array_equal(small, whole[0])


@pytest.mark.parametrize("kind", ["RGBA, geo", "RGBA, placed", "grey and alpha, placed"])
def test_transparent_pixels_of_a_placed_tiff_are_without_data(kind: str, tmp_path: Path) -> None:
    TIFFS[kind](tmp_path / "a.tif")
    image = read_source(Source("a", tmp_path / "a.tif"), SPECS["RGB"])
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid, FOUR[..., 3] > 0)
    assert not image.pixels[FOUR[..., 3] == 0].any()


@pytest.mark.parametrize(
    "kind", ["palette", "1 bit", "white is 0", "RGBA", "RGB", "four bands", "JPEG", "palette, geo"]
)
def test_the_usual_large_tiffs_are_read_by_windows(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TIFFS[kind](tmp_path / "a.tif")
    monkeypatch.setattr(windowed, "LARGEST", 0)
    assert is_large(Source("a", tmp_path / "a.tif"), SPECS["4"])


@pytest.mark.parametrize("name", ["a.tif", "a.vrt", "a.img"])
def test_a_palette_of_a_raster_is_looked_up_as_that_of_a_png(name: str, tmp_path: Path) -> None:
    if name == "a.vrt":
        raster(tmp_path / "b.tif", CLASSES, colours=True)
        with rasterio.open(tmp_path / "b.tif") as file:
            rasterio.shutil.copy(file, tmp_path / name, driver="VRT")
    else:
        raster(tmp_path / name, CLASSES, colours=True, driver="HFA" if name == "a.img" else "GTiff")
    with rasterio.open(tmp_path / name) as file:
        colours = np.array([colour[:3] for _, colour in sorted(file.colormap(1).items())], np.uint8)
        expected = colours[file.read(1)]
    saved(palette_picture(), tmp_path / "a.png", "PNG")
    pixels = read_source(Source("a", tmp_path / name), InputSpec()).pixels
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(pixels, read_source(Source("a", tmp_path / "a.png"), InputSpec()).pixels)
    np.testing.assert_array_equal(read_label(tmp_path / name), CLASSES)


def test_nodata_of_a_palette_is_an_index_and_of_white_at_0_a_stored_value(tmp_path: Path) -> None:
    for kind, absent in (("palette, geo, nodata", CLASSES == 2), ("white is 0, geo", GREY == 7)):
        TIFFS[kind](tmp_path / "a.tif")
        image = read_source(Source("a", tmp_path / "a.tif"), InputSpec())
        with rasterio.open(tmp_path / "a.tif") as file:
            np.testing.assert_array_equal(file.read_masks(1) == 0, absent)
        assert image.valid is not None
        np.testing.assert_array_equal(image.valid[:], ~absent)
        assert not image.pixels[absent].any()


@pytest.mark.parametrize("kind", ["masked, geo", "masked by a file, geo", "masked, palette", "masked"])
@pytest.mark.parametrize("copies", [False, True])
def test_what_lies_under_the_mask_of_a_raster_is_without_data(
    kind: str,
    copies: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.tif"
    TIFFS[kind](path)
    if copies:
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4])
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.dataset_mask() > 0, INSIDE)
    image = read_source(Source("a", path), InputSpec(white=255))
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid[:], INSIDE)
    assert not image.pixels[~INSIDE].any()
    assert image.pixels[INSIDE].any()
    assert find_images(path)[0].part is None


def test_the_mask_of_a_virtual_raster_is_that_of_its_tiff(tmp_path: Path) -> None:
    TIFFS["masked, geo"](tmp_path / "b.tif")
    with rasterio.open(tmp_path / "b.tif") as file:
        rasterio.shutil.copy(file, tmp_path / "a.vrt", driver="VRT")
    image = read_source(Source("a", tmp_path / "a.vrt"), InputSpec())
    assert image.valid is not None
    np.testing.assert_array_equal(image.valid[:], INSIDE)


def test_a_masked_picture_that_is_turned_is_turned_with_its_mask(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for name, pixels in (("plain", COLOURS), ("deep", COLOURS.astype(np.uint16))):
        with tifffile.TiffWriter(path) as file:
            file.write(pixels, photometric="rgb", metadata=None, **turned(6))
            file.write(INSIDE, photometric="minisblack", subfiletype=4, metadata=None)
        image = read_source(Source("a", path), InputSpec(white=255))
        assert image.valid is not None
        np.testing.assert_array_equal(image.valid[:], np.rot90(INSIDE, -1), err_msg=name)
        expected = np.where(INSIDE[..., None], COLOURS, 0)
        np.testing.assert_array_equal(image.pixels, np.rot90(expected, -1), err_msg=name)


def test_jpeg_with_colours_at_half_the_resolution_is_nearly_the_same_by_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    smooth = cv2.resize(COLOURS[:8, :8], (280, 300), interpolation=cv2.INTER_CUBIC)
    raster(path, smooth, compress="JPEG", photometric="YCBCR", tiled=True, blockxsize=64, blockysize=64)
    whole = read_source(Source("a", path), InputSpec()).pixels
    monkeypatch.setattr(windowed, "LARGEST", 0)
    windows = read_source(Source("a", path), InputSpec()).pixels[:]
    assert 0 < np.abs(whole.astype(int) - windows).mean() < 1


def test_a_palette_of_numbers_that_are_no_indices_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    plain(path, GREY.astype(np.float16), extratags=[(320, "H", 3 * 2**16, b"\1\2" * (3 * 2**16), True)])
    np.testing.assert_array_equal(read_source(Source("a", path), SPECS["1"]).pixels[..., 0], GREY)


def test_a_number_of_pixels_that_was_said_holds_by_windows_too_and_none_does_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windowed, "LARGEST", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "a.tif"
    raster(path, COLOURS)
    source = Source("a", path)
    assert read_source(source, InputSpec()).pixels.shape == (300, 280, 3)
    assert read_source(source, InputSpec(max_pixels=84_000)).pixels.shape == (300, 280, 3)
    for read in (read_source, few_pixels):
        with pytest.raises(ImageUnreadable, match="300x280 pixels, more than the 83999 pixels that the card's"):
            read(source, InputSpec(max_pixels=83_999))
    set_most_pixels(83_999)
    try:
        with pytest.raises(ImageUnreadable, match="83999 pixels that --max-pixels allows"):
            read_source(source, InputSpec())
    finally:
        set_most_pixels(None)
