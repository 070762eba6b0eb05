"""PNG, JPEG, WebP, BMP, GIF and plain TIFFs by Pillow, whose frames are images of their own.

Pillow decodes, although OpenCV is faster: on a 480 x 360 frame WebP takes 4.4 ms against 2.7, PNG 4.3 against 3.8,
JPEG .8 against .7, where a pass takes 60 ms. Pillow gives the reason for a refusal instead of printing it to stderr,
keeps the indices of a palette, and reports bit depth, frames and rotation. OpenCV decodes 16-bit colour PNG, which
Pillow would reduce to 8 bits without a warning.

Must not know what a network wants of its input.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from segment.errors import ImageUnreadable, one_line
from segment.images.formats.kinds import IMAGE_SUFFIXES
from segment.images.formats.raster import Raster
from segment.images.isolation import contained
from segment.images.limits import too_large

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # read at import: a GeoTIFF's tags are a warning each on stderr
import cv2

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
BROKEN = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, OverflowError, struct.error, zlib.error)
"""What a damaged file makes a decoder raise."""

_PNG = b"\x89PNG\r\n\x1a\n"
_ROWS = 1024
_ONE_BYTE = frozenset({"1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"})
_GREY, _GREY_ALPHA, _COLOUR_ALPHA = frozenset({"1", "L"}), frozenset({"LA", "La"}), frozenset({"RGBA", "RGBX"})


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

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


def read_picture(path: Path, frame: int | None = None, *, clear: bool = False) -> Raster:
    """A picture's planes: grey, grey and alpha, RGB or RGB and alpha; a palette looked up, CMYK converted.

    clear: whether fully transparent pixels hold no data, also those of a colour or an index that the file names
    """
    picture = decoded(path, frame)
    raw = _eight_bit(picture) if picture.depth <= 8 else _sixteen_bit(picture)
    alpha = raw.shape[2] - 1 if raw.shape[2] in (2, 4) else None
    opaque = _opaque(picture, raw) if clear and alpha is None else None
    return turned(Raster(raw, alpha, clear=clear, mask=opaque), picture.orientation)


def planes_of_pillow(image: Image.Image) -> Raster:
    """The planes of an image that a caller opened, as `read_picture` gives those of its file."""
    image.load()  # which turns a TIFF, and takes its tag away
    deep = image.mode.startswith("I;16")
    orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
    picture = Picture(Path("a Pillow image"), b"", image, 16 if deep else 8, orientation)
    raw = _sixteen_bit(picture) if deep else _eight_bit(picture)
    return Raster(upright(raw, orientation), raw.shape[2] - 1 if raw.shape[2] in (2, 4) else None)


def read_indices(path: Path, frame: int | None = None) -> NDArray[Any] | None:  # H W
    """The index of each pixel: its grey value, or its place in the palette; None for a picture of colours."""
    picture = decoded(path, frame)
    image, mode = picture.image, picture.image.mode
    if mode == "LA" and picture.depth <= 8:
        image = image.getchannel("L")
    elif image.format == "GIF" and _is_grey(image) and (not frame or _is_grey(decoded(path, 0).image)):
        image = image.convert("L")  # a GIF has no grey but its palette, and from the second frame on no palette
    if image.mode not in {"1", "L", "P"} and not image.mode.startswith("I;16"):
        return None
    index = np.array(image)
    if mode == "L" and picture.depth < 8:
        index //= 255 // (2**picture.depth - 1)  # Pillow stretches 2 and 4 bits of grey to 0..255
    return upright(index, picture.orientation)


@contained
def palette_of(path: Path) -> list[tuple[int, ...]] | None:
    """The colour of each index of a palette picture's first frame; None where its values are greys or colours."""
    try:
        with _header(path) as image:
            if image.mode != "P" or (image.format == "GIF" and _is_grey(image)):
                return None
            return [tuple(colour) for colour in np.reshape(image.getpalette("RGB") or [], (-1, 3)).tolist()]
    except ImageUnreadable:  # reported where its pixels are read
        return None


def frames_in(path: Path) -> int:
    """How many frames an animation has; 1 for what does not open, for that is reported where it is read."""
    try:
        with _header(path) as image:
            return _frames(image)
    except ImageUnreadable:
        return 1


def picture_size(path: Path) -> tuple[int, int] | None:
    """Height and width by the file's header, before any EXIF rotation; None where it cannot be read."""
    try:
        with _header(path) as image:
            return image.height, image.width
    except ImageUnreadable:
        return None


def orientation_and_size(path: Path) -> tuple[int, tuple[int, int]]:
    """EXIF orientation, and height and width once it is undone, by the header. Errors: ImageUnreadable."""
    with _header(path) as image:
        orientation = int(image.getexif().get(ExifTags.Base.Orientation, 1))
        return orientation, image.size if orientation > 4 else image.size[::-1]


@contained
def orientation_of(path: Path) -> int:
    """EXIF orientation, by the header; 1 for what Pillow does not open."""
    try:
        return orientation_and_size(path)[0]
    except ImageUnreadable:  # reported where its pixels are read
        return 1


@contextmanager
def _header(path: Path) -> Iterator[ImageFile.ImageFile]:
    """A picture within a block, its pixels not decoded. Errors: ImageUnreadable, also for what the block asks of it.

    Pillow's warnings are left alone: decoding repeats them, and filters are not safely set back where threads read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except (*BROKEN, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise undecodable(path, b"", error) from None


def _frames(image: ImageFile.ImageFile) -> int:
    return 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))


def decoded(path: Path, frame: int | None = None) -> Picture:
    """A picture, or one frame of an animation. Errors: ImageUnreadable for what is none, and for several frames."""
    data = contents(path)
    try:
        if data.startswith(_PNG):
            Image.open(BytesIO(data), formats=FORMATS).verify()  # .08 ms: checksums and the end, which load() skips
        image = Image.open(BytesIO(data), formats=FORMATS)
        frames = _frames(image)
        if frames == 1 or frame is not None:
            image.seek(frame or 0)
            depth = _depth(image, data)  # of this page: a TIFF's others may have another
            image.load()  # rotates a TIFF and removes its orientation; the other formats keep theirs
            return Picture(path, data, image, depth, int(image.getexif().get(ExifTags.Base.Orientation, 1)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise too_large(path, "too many pixels") from None
    except BROKEN as error:
        raise undecodable(path, data, error) from None
    raise several(path, frames)


def contents(path: Path) -> bytes:
    """A file's bytes. Errors: ImageUnreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ImageUnreadable(f"{str(path)!r} cannot be read: {reason}. Correct the path or its permissions.") from None


def several(path: Path, count: int) -> ImageUnreadable:
    """The refusal of a file of several images, none of which is named."""
    return ImageUnreadable(
        f"{str(path)!r} holds {count} pages or frames, and one image was asked for. Name the file as a source: each "
        "is then an image of its own."
    )


def undecodable(path: Path, data: bytes, error: Exception) -> ImageUnreadable:
    start = f", starting {data[:12]!r}" if data else ""
    reason = "" if isinstance(error, UnidentifiedImageError) else f", {one_line(error)}"
    return ImageUnreadable(
        f"{str(path)!r} does not decode as an image: {len(data)} bytes{start}{reason}. Replace or remove it. "
        f"Known: {' '.join(sorted(IMAGE_SUFFIXES))}."
    )


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """The EXIF orientation undone (Exif 2.3, tag 274)."""
    if orientation in {5, 6, 7, 8}:
        pixels = pixels.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        pixels = pixels[::-1]
    if orientation in {2, 3, 6, 7}:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def turned(raster: Raster, orientation: int) -> Raster:
    """A raster, with its mask, whose EXIF orientation is undone as by `upright`."""
    mask = None if raster.mask is None else upright(raster.mask, orientation)
    return replace(raster, raw=upright(raster.raw, orientation), mask=mask)


def _depth(image: ImageFile.ImageFile, data: bytes) -> int:
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(258, (1,))))
    return data[24] if data.startswith(_PNG) else 8  # the byte after width and height in a PNG's header


def _eight_bit(picture: Picture) -> NDArray[np.uint8]:  # H W B
    image = picture.image
    if image.mode not in _ONE_BYTE:
        raise unknown_pixels(picture.path, f"{picture.depth} bits, {image.mode}")
    if image.mode in {"P", "PA", "RGBa"}:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of a palette's transparency
        wanted = "RGBA" if picture.image.mode == "RGBa" else "RGB"  # a palette's transparency is no plane of its own
    elif image.mode in _GREY:
        wanted = "L"
    elif image.mode in _GREY_ALPHA:
        image = image.convert("LA") if image.mode == "La" else image
        wanted = "LA"
    else:
        wanted = image.mode if image.mode in _COLOUR_ALPHA else "RGB"
    image = image if image.mode == wanted else image.convert(wanted)
    planes = len(image.getbands())
    pixels = np.empty((image.height, image.width, planes), np.uint8)
    for top in range(0, image.height, _ROWS):  # all rows at once would need twice the memory more in Pillow
        rows = image.crop((0, top, image.width, min(top + _ROWS, image.height)))
        pixels[top : top + _ROWS] = np.asarray(rows).reshape(rows.height, image.width, planes)
    return pixels


def _opaque(picture: Picture, raw: NDArray[Any]) -> NDArray[np.bool_] | None:  # H W
    """Where a picture has another colour or index than those that its file calls transparent; None: it names none."""
    image, named = picture.image, picture.image.info.get("transparency")
    if named is None:
        return None
    if image.mode == "P":
        alphas = named if isinstance(named, bytes) else bytes(index != named for index in range(256))
        return np.frombuffer(alphas.ljust(256, b"\xff"), np.uint8)[np.asarray(image)] > 0
    if image.mode == "L" and picture.depth < 8:
        named *= 255 // (2**picture.depth - 1)  # Pillow stretches the pixels, not the number
    return (raw != named).any(axis=2)


def _is_grey(image: Image.Image) -> bool:
    """Whether every colour of the palette is a grey, used or not; without a palette, of the pixels."""
    if image.mode != "P":
        return bool((np.ptp(np.asarray(image.convert("RGB")), axis=2) == 0).all())
    return all(len(set(colour)) == 1 for colour in np.reshape(image.getpalette("RGB") or [], (-1, 3)).tolist())


def _sixteen_bit(picture: Picture) -> NDArray[np.uint16]:  # H W B
    if picture.image.mode.startswith("I;16"):
        return np.array(picture.image, dtype=np.uint16)[..., None]
    if picture.image.mode not in {"RGB", "RGBA", "RGBX"} or picture.depth != 16:
        raise unknown_pixels(picture.path, f"{picture.depth} bits, {picture.image.mode}")
    pixels = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        raise unknown_pixels(picture.path, f"{picture.depth} bits, {picture.image.mode}")
    order: Sequence[int] = [2, 1, 0, 3][: pixels.shape[2]]  # B G R (A) -> R G B (A)
    return np.ascontiguousarray(pixels[..., order])


def unknown_pixels(path: Path, what: str) -> ImageUnreadable:
    return ImageUnreadable(f"{str(path)!r} holds pixels of a kind that is not read ({what}). Save it as a plain TIFF.")
