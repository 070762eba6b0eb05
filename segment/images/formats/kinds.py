"""The files that are taken as images, by suffix, and how many images a file may hold.

Must not know how any of them is read.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Literal

Kind = Literal["picture", "tiff", "raster", "array", "volume", "dicom", "video"]

KINDS: dict[Kind, tuple[str, ...]] = {
    "picture": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"),
    "tiff": (".tif", ".tiff"),
    "raster": (".img", ".jp2", ".vrt"),
    "array": (".npy", ".npz"),
    "volume": (".nii", ".nii.gz"),
    "dicom": (".dcm", ".dicom", ".ima"),
    "video": (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm"),
}
"""Suffixes, in lower case. picture: Pillow; tiff: tifffile; raster: rasterio; array: NumPy; volume: nibabel; dicom:
pydicom; video: OpenCV."""

IMAGE_SUFFIXES = frozenset(suffix for suffixes in KINDS.values() for suffix in suffixes)
"""Suffixes, in lower case, of the files taken from a folder or a glob."""

NOT_TAKEN = frozenset(
    {".avif", ".exr", ".heic", ".heif", ".j2k", ".jfif", ".jpe", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".psd"}
    | {".dng", ".tga"}
)
"""Suffixes of pictures that are not taken from a folder: a warning names those that are left out."""

SEVERAL: frozenset[str] = frozenset({".gif", ".webp", ".png"}) | frozenset(
    suffix for kind in ("tiff", "array", "volume", "dicom", "video") for suffix in KINDS[kind]
)
"""Suffixes of files that may hold several images: frames, pages, slices."""


def suffix_of(path: PurePath | str) -> str:
    """The suffix in lower case, both parts of ".nii.gz"; a number is none, as at the end of a DICOM file's UID.

    >>> suffix_of("scan.NII.gz"), suffix_of("a.b.png"), suffix_of("README"), suffix_of("CT.1.2.840.55.1")
    ('.nii.gz', '.png', '', '')
    """
    path = PurePath(path)
    last = path.suffix.lower()
    if last.isascii() and last[1:].isdigit():
        return ""
    return ".nii.gz" if last == ".gz" and path.name.lower().endswith(".nii.gz") else last


def without_suffix(path: PurePath) -> PurePath:
    """The path without `suffix_of` it.

    >>> without_suffix(PurePath("day/scan.nii.gz")).as_posix()
    'day/scan'
    """
    suffix = suffix_of(path)
    return path.with_name(path.name[: -len(suffix)]) if suffix and len(path.name) > len(suffix) else path


def kind_of(path: PurePath | str) -> Kind:
    """The family of a file; "picture" for an unknown suffix, for Pillow tells by the bytes."""
    suffix = suffix_of(path)
    return next((kind for kind, suffixes in KINDS.items() if suffix in suffixes), "picture")
