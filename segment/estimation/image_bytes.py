"""Bytes that an image takes beside its passes, and what is assumed of these before they are measured."""

from __future__ import annotations

BYTES_ANY_NETWORK_TAKES = 4096
"""Bytes a pixel and read-out above what any network takes: where they are free, an image is not tiled nor measured."""

BYTES_BESIDE_PASSES = 48
"""Bytes a pixel beside the passes: this image and the next as read and as floats, and its pictures."""

BYTES_DECODED = 4
"""Those of them that an image of three 8-bit channels takes, and where it holds data: before the tiles three times."""

BYTES_OF_WRITING = 192 * 2**20
"""Bytes beside the passes that the pictures and the cloud-optimised copy of an image in windows take."""
