"""PNG bytes: 8-bit RGB, palette and grey, 16-bit grey, with text chunks; and the text read back.

Must not know a folder or what the numbers mean. Written here because the two encoders at hand take four times as long
on 16-bit maps at the same size, or write no text chunks: rows are filtered by the row above and run-length coded.
Source: PNG specification, third edition, W3C 2025.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.files.lazy_arrays import blocks

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE = 0, 2, 3


def encoded(
    pixels: Plane,  # H W or H W 3, uint8 or uint16; read once, from the top
    *,
    palette: NDArray[np.uint8] | None = None,  # K 3, K <= 256
    text: Mapping[str, str] | None = None,
) -> Iterator[bytes]:
    r"""The file's bytes in order: RGB for (H, W, 3), indices into a palette where one is given, else grey.

    >>> b"".join(encoded(np.zeros((1, 1), np.uint8), text={"unit": "nats"}))[37:50]
    b'tEXtunit\x00nats'
    """
    kind = RGB if len(pixels.shape) == 3 else GREY if palette is None else PALETTE
    rows, columns = pixels.shape[:2]
    yield SIGNATURE
    yield _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8 * pixels.dtype.itemsize, kind, 0, 0, 0))
    for keyword, words in (text or {}).items():
        yield _text(keyword, words)
    if palette is not None:
        yield _chunk(b"PLTE", palette.tobytes())
    strategy = zlib.Z_DEFAULT_STRATEGY if kind == PALETTE else zlib.Z_RLE
    packer = zlib.compressobj(1, strategy=strategy)
    for block in _filtered(pixels, up=kind != PALETTE):
        if packed := packer.compress(block):
            yield _chunk(b"IDAT", packed)
    yield _chunk(b"IDAT", packer.flush())
    yield _chunk(b"IEND", b"")


def text_of(data: bytes) -> dict[str, str]:
    """Every text chunk, keyword -> words.

    >>> text_of(b"".join(encoded(np.zeros((1, 1), np.uint8), text={"unit": "nats", "title": "Straße 道"})))
    {'unit': 'nats', 'title': 'Straße 道'}
    """
    texts, position = {}, len(SIGNATURE)
    while position + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[position : position + 8])
        body = data[position + 8 : position + 8 + size]
        keyword, _, rest = body.partition(b"\0")
        if kind == b"tEXt":
            texts[keyword.decode("latin-1")] = rest.decode("latin-1")
        if kind == b"iTXt":
            texts[keyword.decode("latin-1")] = rest[2:].split(b"\0", 2)[-1].decode()
        position += 12 + size
    return texts


def _filtered(pixels: Plane, *, up: bool) -> Iterator[bytes]:
    """Rows as bytes, most significant first, each after its filter's number: 2 (minus the row above) or 0 (plain)."""
    above = None
    for part in blocks(pixels):
        block = np.ascontiguousarray(part)
        wide = block.astype(block.dtype.newbyteorder(">"), copy=False)
        plain = wide.view(np.uint8).reshape(block.shape[0], -1)
        lines = np.empty((plain.shape[0], plain.shape[1] + 1), np.uint8)
        lines[:, 0] = 2 if up else 0
        lines[:, 1:] = plain
        if up:
            lines[1:, 1:] -= plain[:-1]
            if above is not None:
                lines[0, 1:] -= above
            above = plain[-1]
        yield lines.tobytes()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _text(keyword: str, words: str) -> bytes:
    try:
        return _chunk(b"tEXt", keyword.encode("latin-1") + b"\0" + words.encode("latin-1"))
    except UnicodeEncodeError:
        return _chunk(b"iTXt", keyword.encode("latin-1") + b"\0\0\0\0\0" + words.encode())
