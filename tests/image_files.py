"""Image files of many formats, written for the tests of reading."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from rasterio.transform import Affine

from segment.errors import ImageUnreadable
from segment.images.read import read_image, read_label

SUFFIX = {"PNG": ".png", "JPEG": ".jpg", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp"}
COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (6, 9, 3)).astype(np.uint16)
NORTH_UP = Affine(10, 0, 500000, 0, -10, 5200000)
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


def geotiff(path: Path, pixels: NDArray[Any], place: Affine | None = NORTH_UP, crs: Any = "EPSG:32632") -> Path:
    """pixels: C H W."""
    path.parent.mkdir(exist_ok=True)
    profile: dict[str, Any] = {"driver": "GTiff", "height": pixels.shape[1], "width": pixels.shape[2]}
    profile |= {"count": len(pixels), "dtype": pixels.dtype}
    with rasterio.open(path, "w", crs=crs, transform=place, **profile) as raster:
        raster.write(pixels)
    return path


def refusal(path: Path, *, label: bool = False, white: float | None = None) -> str:
    with pytest.raises(ImageUnreadable) as refused:
        read_label(path) if label else read_image(path, white=white)
    message = str(refused.value)
    assert repr(str(path)) in message
    assert "\n" not in message
    return message
