"""Image file → H W 3 RGB pixels, or H W label indices.

Pillow decodes, although OpenCV is faster: on a 480 x 360 frame WebP takes 4.4 ms against 2.7, PNG 4.3 against 3.8,
JPEG .8 against .7, where a pass takes 60 ms. Pillow gives the reason for a refusal instead of printing it to stderr,
keeps the indices of a palette, and reports bit depth, pages and rotation. OpenCV decodes 16-bit colour, which Pillow
would reduce to 8 bits without a warning.

Must not know what a network wants of its input, nor which folder a file came from.
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from segment.errors import ImageUnreadable, one_line

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # read at import: a GeoTIFF's tags are a warning each on stderr
import cv2

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes, in lower case, of the files taken from a folder or a glob."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
_ROWS = 1024
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error)
_ONE_BYTE = frozenset({"1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"})
_NOT_A_PAGE = 1 | 4  # TIFF 6.0, NewSubfileType: a smaller copy of another page, a transparency mask


def read_image(path: Path, *, white: float | None = None) -> NDArray[Any]:  # H W 3
    """The image as RGB: uint8, or float32 in 0..255, unrounded, where the file holds 16-bit pixels.

    Grey is repeated, a palette looked up, CMYK converted, an alpha channel dropped (not composited: the colours under
    it stay, as training loaders have them), the EXIF rotation applied. A 16-bit pixel becomes raw / `white` * 255
    (above 255 where it is above `white`); `white` has no effect on 8-bit files. A TIFF's reduced copies (a pyramid) are
    not counted as pages; a second full page or frame is refused.
    """
    picture = _decoded(path)
    if picture.depth <= 8:
        return _upright(_rgb(picture), picture.orientation)
    if white is None:
        raise ImageUnreadable(
            f"{str(path)!r} holds 16-bit pixels, and nothing says which value is white. Set `input: {{white: 65535}}` "
            "in the model card (4095 for 12-bit data)."
        )
    if not white > 0:
        raise ImageUnreadable(f"{str(path)!r} cannot be scaled by `input: {{white: {white}}}`. White is above 0.")
    return _upright(from_sixteen_bit(_sixteen_bit(picture), white), picture.orientation)


def from_sixteen_bit(raw: NDArray[np.uint16], white: float) -> NDArray[np.float32]:
    """Raw pixels as float32 in 0..255, unrounded: raw / `white` * 255.

    >>> from_sixteen_bit(np.array([0, 4095], np.uint16), 4095.0)
    array([  0., 255.], dtype=float32)
    """
    return (raw.astype(np.float64) / white * 255).astype(np.float32)


def size_in(path: Path) -> tuple[int, int] | None:
    """Height and width by the file's header, before any EXIF rotation; None where it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                return image.height, image.width
    except (*_BROKEN, Image.DecompressionBombError):  # read_image reports it
        return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits; "" where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def read_label(path: Path) -> NDArray[np.int64]:  # H W
    """The class index of each pixel, read unchanged: the grey value (8 or 16 bits), or the index into a palette."""
    picture = _decoded(path)
    mode = picture.image.mode
    if mode not in {"1", "L", "P"} and not mode.startswith("I;16"):
        raise ImageUnreadable(
            f"{str(path)!r} is no label map: its pixels are {mode}, not one class index each. Save it as a grey or "
            "palette PNG whose values are the class indices (translate colours to indices first)."
        )
    index = np.array(picture.image).astype(np.int64)
    if mode == "L" and picture.depth < 8:
        index //= 255 // (2**picture.depth - 1)  # Pillow stretches 2 and 4 bits of grey to 0..255
    return _upright(index, picture.orientation)


@dataclass(frozen=True)
class _Decoded:
    """A decoded file.

    path: for messages
    data: the bytes of the file
    image: as Pillow decoded it
    depth: bits a channel in the file, which Pillow's mode does not state
    orientation: EXIF, 1..8
    """

    path: Path
    data: bytes
    image: Image.Image
    depth: int
    orientation: int


def _decoded(path: Path) -> _Decoded:
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageUnreadable(f"{str(path)!r} cannot be read: {reason}. Correct the path or its permissions.") from None
    try:
        if data.startswith(_PNG):
            Image.open(BytesIO(data), formats=_FORMATS).verify()  # .08 ms: checksums and the end, which load() skips
        image = Image.open(BytesIO(data), formats=_FORMATS)
        pages, depth = _pages(image), _depth(image, data)
        if pages == 1:
            image.load()  # rotates a TIFF and removes its orientation; the other formats keep theirs
            return _Decoded(path, data, image, depth, int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageUnreadable(
            f"{str(path)!r} claims more pixels than are opened ({len(data)} bytes of file). Cut it into tiles, or, "
            "where you trust it, raise PIL.Image.MAX_IMAGE_PIXELS from Python."
        ) from None
    except _BROKEN as error:
        raise ImageUnreadable(
            f"{str(path)!r} does not decode as an image: {_decoding_error(data, error)}. Replace or remove it. "
            f"Known: {' '.join(sorted(IMAGE_SUFFIXES))}, of 8- or 16-bit integers."
        ) from None
    raise ImageUnreadable(f"{str(path)!r} holds {pages} pages or frames. Save each as a file of its own.")


def _decoding_error(data: bytes, error: Exception) -> str:
    start = f", starting {data[:12]!r}" if data else ""
    reason = "" if isinstance(error, UnidentifiedImageError) else f", {one_line(error)}"
    return f"{len(data)} bytes{start}{reason}"


def _pages(image: ImageFile.ImageFile) -> int:
    """Full pages of a TIFF, frames of an animation; a phone's MPO is its first picture."""
    frames = int(getattr(image, "n_frames", 1))
    if image.format == "MPO" or frames == 1:
        return 1
    if not isinstance(image, TiffImageFile):
        return frames
    full = 0
    for page in range(frames):
        image.seek(page)
        full += not int(image.tag_v2.get(254, 0)) & _NOT_A_PAGE
    image.seek(0)
    return max(full, 1)


def _depth(image: ImageFile.ImageFile, data: bytes) -> int:
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(258, (1,))))
    return data[24] if data.startswith(_PNG) else 8  # the byte after width and height in a PNG's header


def _rgb(picture: _Decoded) -> NDArray[np.uint8]:
    image = picture.image
    if image.mode not in _ONE_BYTE:
        raise _unknown_pixels(picture)
    if image.mode in {"P", "PA", "RGBa"}:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of a palette's transparency
    image = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):  # all rows at once would need twice the memory more in Pillow
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        pixels[top : top + _ROWS] = np.asarray(rows)
    return pixels


def _sixteen_bit(picture: _Decoded) -> NDArray[np.uint16]:  # H W 3
    if picture.image.mode.startswith("I;16"):
        return np.repeat(np.array(picture.image, dtype=np.uint16)[..., None], 3, axis=2)
    if picture.image.mode not in {"RGB", "RGBA", "RGBX"} or picture.depth != 16:
        raise _unknown_pixels(picture)
    pixels = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_UNCHANGED)  # rotates a TIFF, as Pillow does
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise _unknown_pixels(picture)
    return np.asarray(pixels[..., 2::-1])  # B G R (A) -> R G B


def _unknown_pixels(picture: _Decoded) -> ImageUnreadable:
    return ImageUnreadable(
        f"{str(picture.path)!r} holds pixels of a kind that is not read ({picture.depth} bits, {picture.image.mode}). "
        "Save it as 8- or 16-bit integers, grey or RGB."
    )


def _upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The EXIF orientation undone (Exif 2.3, tag 274)."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
