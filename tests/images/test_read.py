"""Files become the pixels that are in them, or one line that says why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segment.errors import ImageUnreadable
from segment.images.read import IMAGE_SUFFIXES, read_image, read_label

CAMVID = Path(__file__).parents[3] / "shared" / "data" / "camvid"
SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp"}
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (6, 9, 3)).astype(np.uint16)
SMOOTH = cv2.resize(COLOURS, (48, 40), interpolation=cv2.INTER_CUBIC)


def saved(image: Image.Image, path: Path, format: str, **options: Any) -> Path:
    image.save(path, format, **options)
    return path


def encoded(pixels: NDArray[Any], format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def png(pixels: NDArray[Any], *, colour: int, depth: int = 16, exif: bytes = b"") -> bytes:
    """A PNG as the specification has it; colour 0 grey, 2 RGB, 4 grey and alpha, 6 RGBA."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, 0)
    if depth < 8:
        bits = np.unpackbits(pixels[..., None].astype(np.uint8), axis=2)[..., 8 - depth :]
        rows = [np.packbits(row).tobytes() for row in bits]
    else:
        rows = [row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels]
    extra = chunk(b"eXIf", exif) if exif else b""
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + data + chunk(b"IEND", b"")


def tiff(pixels: NDArray[np.uint16], *, orientation: int = 1) -> bytes:
    """An uncompressed 16-bit RGB TIFF, one strip."""
    height, width, _ = pixels.shape
    strip = pixels.astype("<u2").tobytes()
    tags = {256: width, 257: height, 258: 0, 259: 1, 262: 2, 273: 8, 274: orientation, 277: 3, 278: height}
    tags |= {279: len(strip), 284: 1}
    start = 8 + len(strip)
    tags[258] = start + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", t, 4 if t != 258 else 3, 1 if t != 258 else 3, v) for t, v in tags.items())
    head = b"II*\0" + struct.pack("<I", start) + strip + struct.pack("<H", len(tags))
    return head + entries + struct.pack("<IHHH", 0, 16, 16, 16)


def refusal(path: Path, *, label: bool = False, white: float | None = None) -> str:
    with pytest.raises(ImageUnreadable) as refused:
        read_label(path) if label else read_image(path, white=white)
    message = str(refused.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_a_lossless_colour_file_gives_its_pixels(format: str, tmp_path: Path) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    path = saved(Image.fromarray(COLOURS), tmp_path / f"a{SUFFIX[format]}", format, **options)
    found = read_image(path)
    assert found.dtype == np.uint8
    assert found.flags.writeable
    np.testing.assert_array_equal(found, COLOURS)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_lossy_file_decodes_as_opencv_decodes_it(format: str, tmp_path: Path) -> None:
    path = saved(Image.fromarray(SMOOTH), tmp_path / f"a{SUFFIX[format]}", format, quality=90)
    other = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert other is not None
    assert np.abs(read_image(path).astype(int) - other).max() <= 1


def test_a_camvid_frame_and_its_labels_decode_as_opencv_decodes_them() -> None:
    if not CAMVID.is_dir():
        pytest.skip(f"the CamVid folder {CAMVID} is not there")
    frame, label = CAMVID / "test/0001TP_008550.webp", CAMVID / "testannot/0001TP_008550.png"
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
    found = read_image(colour, white=white)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-7)
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


def test_eight_bits_do_not_look_at_white(tmp_path: Path) -> None:
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
        found, expected = read_image(path), upright(SMOOTH, orientation)
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() <= (8 if format == "JPEG" else 0)
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
    found = read_label(path)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, index)


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
            found = read_image(path, white=65535)
        except ImageUnreadable:
            continue
        assert found.ndim == 3
        assert found.shape[2] == 3


def test_each_kind_of_bad_file_is_one_line_that_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a png, whatever its name")
    (tmp_path / "folder.png").mkdir()
    assert "0 bytes" in refusal(tmp_path / "empty.png")
    text = refusal(tmp_path / "text.png")
    assert "28 bytes, starting b'not a png, w'" in text
    assert all(suffix in text for suffix in IMAGE_SUFFIXES)
    assert "s a directory" in refusal(tmp_path / "folder.png")
    assert "No such file" in refusal(tmp_path / "absent.png")


def test_float_and_32_bit_tiffs_are_refused(tmp_path: Path) -> None:
    for name, pixels in {
        "f.tif": COLOURS[..., 0].astype(np.float32),
        "i.tif": COLOURS[..., 0].astype(np.int32),
    }.items():
        path = saved(Image.fromarray(pixels), tmp_path / name, "TIFF")
        assert "8- or 16-bit integers" in refusal(path, white=1)
        refusal(path, label=True)
    (tmp_path / "c.tif").write_bytes(cv2.imencode(".tiff", COLOURS.astype(np.float32))[1].tobytes())
    assert "8- or 16-bit integers" in refusal(tmp_path / "c.tif")


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
    assert "more pixels" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(1, 1), (20, 20000), (20000, 20)])
def test_the_smallest_and_the_longest_image_are_valid(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (*size, 3)).astype(np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png", "PNG")
    np.testing.assert_array_equal(read_image(path), pixels)
