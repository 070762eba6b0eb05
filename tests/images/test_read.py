"""Files become the pixels that are in them, or one line that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from image_files import COLOURS, DEEP, SMOOTH, SUFFIX, png, refusal, saved, tiff
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segment.images.find import Source
from segment.images.read import read_image, read_label, read_source
from segment.images.specs import InputSpec


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_a_lossless_colour_file_gives_its_pixels(format: str, tmp_path: Path) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    path = saved(Image.fromarray(COLOURS), tmp_path / f"a{SUFFIX[format]}", format, **options)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    np.testing.assert_array_equal(image, COLOURS)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_lossy_file_decodes_as_opencv_decodes_it(format: str, tmp_path: Path) -> None:
    path = saved(Image.fromarray(SMOOTH), tmp_path / f"a{SUFFIX[format]}", format, quality=90)
    other = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert other is not None
    assert np.abs(read_image(path).astype(int) - other).max() <= 1


def test_a_camvid_frame_and_its_labels_decode_as_opencv_decodes_them(shared_data: Path) -> None:
    camvid = shared_data / "camvid"
    frame, label = camvid / "test/0001TP_008550.webp", camvid / "testannot/0001TP_008550.png"
    other = cv2.imdecode(np.frombuffer(frame.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(read_image(frame), other)
    index = cv2.imdecode(np.frombuffer(label.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read_label(label), index)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP"])
def test_grey_is_repeated_in_three_channels(format: str, tmp_path: Path) -> None:
    grey = COLOURS[..., 0]
    options = {"lossless": True} if format == "WEBP" else {}
    path = saved(Image.fromarray(grey), tmp_path / f"a{SUFFIX[format]}", format, **options)
    np.testing.assert_array_equal(read_image(path), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_alpha_is_dropped_and_the_colours_under_it_stay(format: str, tmp_path: Path) -> None:
    alpha = np.zeros((6, 9), np.uint8)
    path = saved(Image.fromarray(np.dstack([COLOURS, alpha])), tmp_path / f"a{SUFFIX[format]}", format)
    np.testing.assert_array_equal(read_image(path), COLOURS)
    path = saved(Image.fromarray(np.dstack([COLOURS[..., 0], alpha])), tmp_path / f"b{SUFFIX[format]}", format)
    np.testing.assert_array_equal(read_image(path), np.repeat(COLOURS[..., :1], 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(0, 250, 10))])
def test_a_palette_image_gives_colours_and_a_palette_label_its_indices(
    transparency: int | bytes | None, tmp_path: Path
) -> None:
    index = np.random.default_rng(2).integers(0, 20, (6, 9)).astype(np.uint8)
    palette = np.random.default_rng(3).integers(0, 256, (20, 3)).astype(np.uint8)
    image = Image.fromarray(index).convert("P")
    image.putpalette(palette.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    path = saved(image, tmp_path / "a.png", "PNG", **options)
    with Image.open(path) as opened:
        assert opened.mode == "P"
    np.testing.assert_array_equal(read_image(path), palette[index])
    np.testing.assert_array_equal(read_label(path), index)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white_as_an_image_and_0_and_1_as_a_label(format: str, tmp_path: Path) -> None:
    bits = COLOURS[..., 0] > 127
    path = saved(Image.fromarray(bits), tmp_path / f"a{SUFFIX[format]}", format)
    np.testing.assert_array_equal(read_image(path), np.where(bits, 255, 0)[..., None].repeat(3, 2))
    if format != "BMP":  # BMP keeps its two colours in a palette
        np.testing.assert_array_equal(read_label(path), bits)


def test_a_cmyk_jpeg_is_converted(tmp_path: Path) -> None:
    ink = np.full((16, 16, 4), (200, 40, 10, 30), np.uint8)
    path = saved(Image.fromarray(ink, mode="CMYK"), tmp_path / "a.jpg", "JPEG", quality=100)
    expected = (255 - ink[0, 0, :3].astype(float)) * (255 - ink[0, 0, 3]) / 255
    assert np.abs(read_image(path) - expected).max() <= 4


@pytest.mark.parametrize("white", [65535.0, 4095.0])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_scaled_by_white_and_not_rounded(suffix: str, white: float, tmp_path: Path) -> None:
    colour, grey, alpha = tmp_path / f"c{suffix}", tmp_path / f"g{suffix}", tmp_path / f"a{suffix}"
    colour.write_bytes(cv2.imencode(suffix, DEEP[..., ::-1])[1].tobytes())
    grey.write_bytes(cv2.imencode(suffix, DEEP[..., 0])[1].tobytes())
    alpha.write_bytes(cv2.imencode(suffix, np.dstack([DEEP[..., ::-1], DEEP[..., 0]]))[1].tobytes())
    expected = DEEP.astype(np.float64) / white * 255
    image = read_image(colour, white=white)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, expected, rtol=1e-7)
    np.testing.assert_allclose(read_image(alpha, white=white), expected, rtol=1e-7)
    np.testing.assert_allclose(read_image(grey, white=white), expected[..., :1].repeat(3, 2), rtol=1e-7)


def test_sixteen_bit_grey_with_alpha_loses_only_its_alpha(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(DEEP[..., :2], colour=4))
    expected = (DEEP[..., :1].astype(np.float64) / 65535 * 255).repeat(3, 2)
    np.testing.assert_allclose(read_image(path, white=65535), expected, rtol=1e-7)


def test_sixteen_bits_without_white_are_refused_with_the_card_key(tmp_path: Path) -> None:
    for name, data in {"a.png": png(DEEP, colour=2), "b.png": png(DEEP[..., 0], colour=0), "c.tif": tiff(DEEP)}.items():
        (tmp_path / name).write_bytes(data)
        assert "`input: {white: 65535}`" in refusal(tmp_path / name)
    assert "above 0" in refusal(tmp_path / "a.png", white=0)


def test_white_has_no_effect_on_eight_bits(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.png", "PNG")
    np.testing.assert_array_equal(read_image(path, white=4095), COLOURS)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Each channel turned by Pillow."""
    turned = []
    for channel in np.atleast_3d(pixels).transpose(2, 0, 1):
        image = Image.fromarray(channel)
        image.getexif()[274] = orientation
        turned.append(np.array(ImageOps.exif_transpose(image)))
    return np.dstack(turned).reshape(*turned[0].shape, *pixels.shape[2:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_file_stands_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    for format in ("PNG", "WEBP", "TIFF", "JPEG"):
        options = {"lossless": True} if format == "WEBP" else {"quality": 100, "subsampling": 0}
        path = saved(Image.fromarray(SMOOTH), tmp_path / f"a{SUFFIX[format]}", format, exif=exif, **options)
        image, expected = read_image(path), upright(SMOOTH, orientation)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= (8 if format == "JPEG" else 0)
    label = saved(Image.fromarray(COLOURS[..., 0]), tmp_path / "l.png", "PNG", exif=exif)
    np.testing.assert_array_equal(read_label(label), upright(COLOURS[..., 0], orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_sixteen_bit_file_stands_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    expected = upright(DEEP, orientation) / 65535 * 255
    for name, data in {
        "a.png": png(DEEP, colour=2, exif=exif.tobytes().removeprefix(b"Exif\0\0")),
        "a.tif": tiff(DEEP, orientation=orientation),
    }.items():
        (tmp_path / name).write_bytes(data)
        np.testing.assert_allclose(read_image(tmp_path / name, white=65535), expected, rtol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_grey_label_of_any_depth_keeps_its_values(depth: int, tmp_path: Path) -> None:
    index = np.random.default_rng(depth).integers(0, 2**depth, (5, 9))
    path = tmp_path / "a.png"
    path.write_bytes(png(index, colour=0, depth=depth))
    label = read_label(path)
    assert label.dtype == np.int64
    np.testing.assert_array_equal(label, index)


def test_a_grey_label_with_alpha_keeps_its_values(tmp_path: Path) -> None:
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        Image.merge("LA", (Image.fromarray(index), Image.fromarray(index.T))).save(tmp_path / name)
        np.testing.assert_array_equal(read_label(tmp_path / name), index)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_a_sixteen_bit_label_keeps_its_values(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(cv2.imencode(suffix, DEEP[..., 0])[1].tobytes())
    np.testing.assert_array_equal(read_label(path), DEEP[..., 0])


def test_a_colour_label_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.png", "PNG")
    assert "class indices" in refusal(path, label=True)


def test_names_of_any_script_are_read(tmp_path: Path) -> None:
    path = saved(Image.fromarray(COLOURS), tmp_path / "Straße 道路 дорога.png", "PNG")
    np.testing.assert_array_equal(read_image(path), COLOURS)


STORED = np.random.default_rng(2).integers(0, 128, (20, 30))
LABEL_TIFFS: dict[str, tuple[Any, dict[str, Any]]] = {
    "8 bits": (STORED.astype(np.uint8), {}),
    "8 bits, white is 0": (STORED.astype(np.uint8), {"photometric": "miniswhite"}),
    "16 bits, white is 0": (STORED.astype(np.uint16), {"photometric": "miniswhite"}),
    "32 bits, white is 0": (STORED.astype(np.uint32), {"photometric": "miniswhite"}),
    "1 bit, white is 0": (STORED > 60, {"photometric": "miniswhite"}),
    "2 bits": ((STORED % 4).astype(np.uint8), {"bitspersample": 2}),
    "signed": ((STORED - 1).astype(np.int8), {"photometric": "minisblack"}),
    "packed": (STORED.astype(np.uint8), {"photometric": "miniswhite", "compression": "lzw"}),
}


@pytest.mark.parametrize("kind", LABEL_TIFFS)
def test_the_values_of_a_label_tiff_are_those_stored_whatever_is_white(kind: str, tmp_path: Path) -> None:
    values, options = LABEL_TIFFS[kind]
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, metadata=None, **options)
    np.testing.assert_array_equal(read_label(path), values)
    Image.fromarray(COLOURS.repeat(4, 0).repeat(4, 1)[:20, :30]).save(tmp_path / "i.png")
    image = read_source(Source("a", tmp_path / "i.png", mask=path), InputSpec())
    assert image.valid is not None
    inside = values == 0 if kind == "1 bit, white is 0" else values != 0  # a mask of two values is read as it looks
    np.testing.assert_array_equal(image.valid[:], inside)


def test_a_page_of_labels_among_smaller_copies_is_the_page_that_an_image_has(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in (STORED, STORED[::-1]):
            file.write(page.astype(np.uint8), metadata=None)
            file.write(page[::2, ::2].astype(np.uint8), subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_label(tmp_path / "a.tif", 1), STORED[::-1])
