"""A damaged or unsupported image file is refused in one line; an unusual but valid one is read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from image_files import COLOURS, SMOOTH, SUFFIX, encoded, png, refusal, saved
from PIL import Image

from segment.errors import ImageUnreadable
from segment.images.formats.kinds import IMAGE_SUFFIXES
from segment.images.read import read_image, read_label


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow also warns about a TIFF that breaks off
def test_a_file_that_breaks_off_anywhere_is_refused(format: str, tmp_path: Path) -> None:
    data = encoded(SMOOTH, format)
    path = tmp_path / f"a{SUFFIX[format]}"
    path.write_bytes(data)
    read_image(path)
    end = 4 if format == "PNG" else 1  # the last four bytes of a PNG are the checksum of an empty chunk
    for length in {0, 1, 8, *range(20, len(data) - end, max(1, len(data) // 60)), len(data) - end - 1}:
        path.write_bytes(data[:length])
        message = refusal(path)
        assert f"{length} bytes" in message


@pytest.mark.parametrize("progressive", [False, True])
def test_half_a_jpeg_is_refused_not_filled_with_grey(progressive: bool, tmp_path: Path) -> None:  # noqa: FBT001
    data = encoded(SMOOTH, "JPEG", progressive=progressive)
    path = tmp_path / "a.jpg"
    path.write_bytes(data[: len(data) // 2])
    assert "does not decode as an image" in refusal(path)


def test_a_flipped_bit_in_a_png_is_refused(tmp_path: Path) -> None:
    data = bytearray(encoded(COLOURS, "PNG"))
    path = tmp_path / "a.png"
    for place in range(16, len(data) - 12):  # up to the empty end chunk
        data[place] ^= 4
        path.write_bytes(data)
        refusal(path)
        data[place] ^= 4


@pytest.mark.parametrize("format", SUFFIX)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::PIL.Image.DecompressionBombWarning")  # of damaged files
def test_damage_gives_pixels_or_a_refusal_and_nothing_else(format: str, tmp_path: Path) -> None:
    whole, rng = encoded(SMOOTH, format), np.random.default_rng(4)
    path = tmp_path / f"a{SUFFIX[format]}"
    for trial in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            data[rng.integers(0, 64 if trial % 2 else len(data))] = rng.integers(0, 256)
        path.write_bytes(data)
        try:
            image = read_image(path, white=65535)
        except ImageUnreadable:
            continue
        assert image.ndim == 3
        assert image.shape[2] == 3


def test_each_kind_of_bad_file_is_one_line_that_says_what_was_read(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a png, whatever its name")
    (tmp_path / "folder.png").mkdir()
    assert "0 bytes" in refusal(tmp_path / "empty.png")
    text = refusal(tmp_path / "text.png")
    assert "28 bytes, starting b'not a png, w'" in text
    assert all(suffix in text for suffix in IMAGE_SUFFIXES)
    assert "s a directory" in refusal(tmp_path / "folder.png")
    assert "No such file" in refusal(tmp_path / "absent.png")


def test_float_and_32_bit_tiffs_are_read_by_the_cards_white(tmp_path: Path) -> None:
    grey = COLOURS[..., 0]
    for name, pixels in {"f.tif": grey.astype(np.float32), "i.tif": grey.astype(np.int32)}.items():
        path = saved(Image.fromarray(pixels), tmp_path / name, "TIFF")
        assert "32-bit" in refusal(path)
        assert "input: {white:" in refusal(path)
        np.testing.assert_array_equal(read_image(path, white=255), np.repeat(grey[..., None], 3, axis=2))
        np.testing.assert_array_equal(read_label(path), grey)
    (tmp_path / "c.tif").write_bytes(cv2.imencode(".tiff", COLOURS[..., ::-1].astype(np.float32))[1].tobytes())
    np.testing.assert_array_equal(read_image(tmp_path / "c.tif", white=255), COLOURS)
    half = saved(Image.fromarray(grey.astype(np.float32) / 2), tmp_path / "h.tif", "TIFF")
    assert "not whole numbers" in refusal(half, label=True)


def test_several_pages_or_frames_are_refused_with_their_number(tmp_path: Path) -> None:
    pages = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1]), Image.fromarray(255 - COLOURS)]
    for format in ("TIFF", "WEBP", "PNG"):
        path = saved(pages[0], tmp_path / f"a{SUFFIX[format]}", format, save_all=True, append_images=pages[1:])
        assert "3 pages" in refusal(path)


def test_the_smaller_copies_in_a_tiff_are_not_pages(tmp_path: Path) -> None:
    copy = Image.fromarray(COLOURS[::2, ::2].copy())
    copy.encoderinfo = {"tiffinfo": {254: 1}}
    path = saved(Image.fromarray(COLOURS), tmp_path / "a.tif", "TIFF", save_all=True, append_images=[copy])
    with Image.open(path) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    np.testing.assert_array_equal(read_image(path), COLOURS)


def test_a_phones_multi_picture_jpeg_is_its_first_picture(tmp_path: Path) -> None:
    second = Image.fromarray(255 - SMOOTH)
    path = saved(Image.fromarray(SMOOTH), tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second], quality=95)
    assert np.abs(read_image(path).astype(int) - SMOOTH).mean() < 8


def test_a_file_that_claims_too_many_pixels_is_refused_unopened(tmp_path: Path) -> None:
    data = png(np.zeros((1, 1)), colour=0, depth=8)
    header = struct.pack(">IIBBBBB", 10**5, 10**5, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "a.png").write_bytes(data[:16] + header + crc + data[33:])
    assert "claims too many pixels" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(1, 1), (20, 20000), (20000, 20)])
def test_the_smallest_and_the_longest_image_are_valid(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (*size, 3)).astype(np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", "PNG")
    np.testing.assert_array_equal(read_image(path), pixels)


def test_a_raster_whose_header_claims_a_row_of_a_billion_pixels_takes_no_memory(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", SMOOTH, photometric="rgb")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages.first.tags["ImageWidth"].overwrite(1979711536)
    assert "stores 1x1979711536 pixels in one piece" in refusal(tmp_path / "a.tif")


@pytest.fixture
def jpeg2000(tmp_path: Path) -> Path:
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.jp2"
    placed = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(600_000, 5_300_000, 10, 10)}
    shape = {"height": 24, "width": 32, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="JP2OpenJPEG", **shape, **placed) as raster:
        raster.write(np.random.default_rng(0).integers(0, 256, (3, 24, 32)).astype(np.uint8))
    return path


def test_a_jpeg_2000_with_a_box_that_does_not_fit_is_refused_before_gdal_reads_it(jpeg2000: Path) -> None:
    whole = jpeg2000.read_bytes()
    pixels = read_image(jpeg2000)
    for kind in (b"ihdr", b"lbl ", b"xml "):  # in the header, and in its association with a map projection
        place = whole.index(kind) - 4
        for length in (0, 7, 2**31):
            jpeg2000.write_bytes(whole[:place] + length.to_bytes(4, "big") + whole[place + 4 :])
            assert f"a box at byte {place} says that it has {length} bytes" in refusal(jpeg2000)
    place = whole.index(b"jp2c") - 4
    for length in (0, 1):  # to the end of the file; in 64 bits
        more = (len(whole) - place + 8).to_bytes(8, "big") if length else b""
        jpeg2000.write_bytes(whole[:place] + length.to_bytes(4, "big") + b"jp2c" + more + whole[place + 8 :])
        np.testing.assert_array_equal(read_image(jpeg2000), pixels)
    nested = b"".join((8 * deep).to_bytes(4, "big") + b"asoc" for deep in range(40, 0, -1))
    jpeg2000.write_bytes(whole[:12] + nested + whole[12:])
    assert "nested too deep" in refusal(jpeg2000)
    jpeg2000.write_bytes(whole + b"\n")
    np.testing.assert_array_equal(read_image(jpeg2000), pixels)
