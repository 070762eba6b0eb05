"""Image file → the pixels that a card asks for (H W C, 0..255) and where they hold data; label file → indices.

The kind of a file decides which module of `formats/` decodes it; the same pixels give the same bits in any of them.

Must not know what a network wants of its input beyond the card's `input:`, nor which folder a file came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.errors import ImageUnreadable
from segment.images.bands import in_channels, not_black
from segment.images.contents.copied import by_ranges, image_here, in_parts, source_here
from segment.images.find import Source
from segment.images.formats.arrays import LABEL_KEYS, array_size, read_array
from segment.images.formats.beside import placed_beside
from segment.images.formats.dicom import dicom_size, has_dicom_mark, read_dicom
from segment.images.formats.georeference import picture_geometry, raster_size
from segment.images.formats.kinds import Kind, kind_of, suffix_of
from segment.images.formats.pictures import picture_size, read_indices, read_picture, several
from segment.images.formats.raster import Raster
from segment.images.formats.raster_windows import read_raster
from segment.images.formats.tiff import read_tiff, tiff_size
from segment.images.formats.tiff_pages import is_jpeg
from segment.images.formats.video import frame_count, frame_size, read_frame
from segment.images.formats.volumes import read_slice, slice_size, volume_shape
from segment.images.isolation import contained
from segment.images.limits import allow_pixels, check_is_file, check_pixels, is_file
from segment.images.placing.alignment import check_same_place
from segment.images.specs import InputSpec
from segment.images.windowed import Bits, by_windows, in_windows, region_in_windows, windowed
from segment.stores.urls import is_url

_LOSSY = (".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Pixels:
    """An image, decoded.

    pixels: H W C in 0..255: uint8, or float32 where the file holds more than 8 bits; of a large raster, its windows
    valid: H W, where the image holds data and lies within its region mask; None: everywhere
    """

    pixels: Any
    valid: Plane | None = None


def read_source(source: Source, spec: InputSpec) -> Pixels:
    """The image as the card asks for it. Pixels without data are 0 in the file's units.

    Colour cards get RGB (grey repeated, a palette looked up, CMYK converted, alpha dropped), others their bands; the
    EXIF rotation is applied. 8-bit pixels stay; others become raw / `white` * 255, unrounded.
    Errors: ImageUnreadable, MissingExtra.
    """
    check_is_file(source.path)
    allow_pixels(spec.max_pixels)  # here too where files are isolated: other decoders are given this process's limits
    if is_large(source, spec):
        image = windowed(source.path, spec)
        if source.mask is None:
            return Pixels(image, image.valid())
        region = _large_mask_of(source.mask, image.shape[:2], source.path)
        check_same_place(source, source.mask, source.mask_part, image.shape[:2], "region mask")
        if (bits := image.valid()) is not None:
            region.keep(bits)
        return Pixels(image, region)
    with source_here(source) as copy:
        return _read_whole(copy, spec)


@contained
def _read_whole(source: Source, spec: InputSpec) -> Pixels:
    check_pixels(source.path, size_of(source), spec.max_pixels)
    raster = decode(source.path, source.part, source.axis)
    pixels, valid = in_channels(raster, spec, str(source.path))
    if source.mask is not None:
        inside = _region_mask(source, source.mask, (raster.raw.shape[0], raster.raw.shape[1]))
        valid = inside if valid is None else valid & inside
    return Pixels(pixels, valid)


@contained
def region_mask(source: Source, size: tuple[int, int]) -> NDArray[np.bool_] | None:  # H W
    """What lies inside a source's region mask; None where it has none. size: its image's. Errors: ImageUnreadable."""
    return None if source.mask is None else _region_mask(source, source.mask, size)


def _region_mask(source: Source, mask: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    inside = _mask_of(mask, size, source.path, source.mask_part, source.axis)
    check_same_place(source, mask, source.mask_part, size, "region mask")
    return inside


def few_pixels(source: Source, spec: InputSpec) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """An image (H W C), of a large raster a smaller copy, and where it holds data. Errors: as `read_source`."""
    if is_large(source, spec):
        return windowed(source.path, spec).small()
    image = read_source(source, spec)
    return image.pixels, None if image.valid is None else image.valid[:]


def is_large(source: Source, spec: InputSpec) -> bool:
    """Whether it is read a window at a time: one whose windows would be other pixels than the whole never is."""
    large = in_parts(source) and (size := size_of(source)) is not None and in_windows(*size, spec)
    return large and by_windows(source.path)


def read_image(path: Path, *, white: float | None = None) -> NDArray[Any]:  # H W 3
    """A file's only image as RGB: uint8, or float32 in 0..255 where the file holds more than 8 bits."""
    return read_source(Source("", path), InputSpec(white=white)).pixels


def decode(path: Path, part: int | str | None = None, axis: int = 2) -> Raster:
    """One image of a file, as the file has it. Errors: ImageUnreadable, MissingExtra."""
    with image_here(path) as copy:
        return _decode(copy, part, axis)


@contained
def _decode(path: Path, part: int | str | None, axis: int, *, stored: bool = False) -> Raster:
    check_is_file(path)
    raster = _decoded(_kind(path), path, part, axis, stored=stored)
    if 0 in raster.raw.shape:
        raise ImageUnreadable(f"{str(path)!r} holds no pixels: its shape is {raster.raw.shape}. Replace or remove it.")
    if raster.raw.dtype.kind not in "buif":
        raise ImageUnreadable(f"{str(path)!r} holds values of type {raster.raw.dtype}, which are no real numbers.")
    return raster


def _decoded(kind: Kind, path: Path, part: int | str | None, axis: int, *, stored: bool) -> Raster:
    """stored: the samples of a TIFF, raster or DICOM file as they are, an index in place of its colour."""
    number = part if isinstance(part, int) else None
    if kind == "tiff":
        return read_tiff(path, number, stored=stored)
    if kind == "raster":
        return read_raster(path, stored=stored)
    if kind == "array":
        return read_array(path, part)
    if kind == "volume":
        if number is None and (count := volume_shape(path)[axis]) > 1:
            raise several(path, count)
        return Raster(read_slice(path, number or 0, axis))
    if kind == "dicom":
        return read_dicom(path, number, stored=stored)
    if kind == "video":
        if number is None and (count := frame_count(path)) > 1:
            raise several(path, count)
        return Raster(read_frame(path, number or 0))
    return read_picture(path, number, clear=number is None and _is_placed(path))


def _is_placed(path: Path) -> bool:
    """Whether a file beside a picture says where it lies."""
    try:
        return placed_beside(path) and picture_geometry(path).placed
    except ImageUnreadable:  # GDAL does not know its format: reported where its place is asked for
        return False


def read_label(path: Path, part: int | str | None = None) -> NDArray[np.int64]:  # H W
    """The class index of each pixel, read unchanged: the grey value, the index into a palette, or a whole number."""
    index = read_plane(path, part)
    if index is None:
        raise ImageUnreadable(
            f"{str(path)!r} is no label map: its pixels are colours, not one class index each. Give the card a "
            "`palette:`, one colour a class, or save it as a grey or palette PNG whose values are the class indices."
        )
    return index


def read_plane(path: Path, part: int | str | None = None, axis: int = 2) -> NDArray[np.int64] | None:  # H W
    """Whole numbers of an image of one channel; None for a picture of colours. Errors: ImageUnreadable."""
    with image_here(path) as copy:
        plane = _read_plane(copy, part, axis)
    return None if plane is None else plane.astype(np.int64, copy=False)  # not in a decoder, whose memory is limited


@contained
def _read_plane(path: Path, part: int | str | None, axis: int) -> NDArray[Any] | None:  # H W
    check_is_file(path)
    check_pixels(path, size_of(Source("", path, part=part, axis=axis)))
    kind = _kind(path)
    if kind == "picture":
        return read_indices(path, part if isinstance(part, int) else None)
    raster = read_array(path, part, LABEL_KEYS) if kind == "array" else _decode(path, part, axis, stored=True)
    raw = raster.raw if raster.alpha is None else np.delete(raster.raw, raster.alpha, axis=2)
    if raw.shape[2] != 1:
        return None
    plane = np.ascontiguousarray(raw[..., 0])
    if plane.dtype.kind != "f":
        return plane
    with np.errstate(invalid="ignore"):
        index = plane.astype(np.int64)
    if not (index == plane).all():
        raise ImageUnreadable(f"{str(path)!r} is no label map: its values are not whole numbers.")
    return index


def size_of(source: Source) -> tuple[int, int] | None:
    """Height and width by the file's header, before any EXIF rotation; None where that does not say.

    None too of a file on a store that would be copied here for it.
    """
    try:
        return _size_of(source) if by_ranges(source) or is_file(source.path) else None
    except ImageUnreadable:  # reported where its pixels are read
        return None


@contained
def _size_of(source: Source) -> tuple[int, int] | None:
    path, kind = source.path, _kind(source.path)
    if kind == "tiff" and not is_url(path):
        return tiff_size(path, source.part if isinstance(source.part, int) else None)
    if kind in ("tiff", "raster"):
        return raster_size(path)
    if kind == "array":
        return array_size(path, source.part)
    if kind == "volume":
        return slice_size(path, source.axis)
    if kind == "dicom":
        return dicom_size(path)
    if kind == "video":
        return frame_size(path)
    return picture_size(path)


def _kind(path: Path) -> Kind:
    kind = kind_of(path)
    return "dicom" if kind == "picture" and has_dicom_mark(path) else kind


def _mask_of(
    path: Path, size: tuple[int, ...], image: Path, part: int | str | None = None, axis: int = 2
) -> NDArray[np.bool_]:  # H W
    """Where a region mask is not 0; of a picture, TIFF or raster, where it is not black, also by its palette."""
    inside = _not_black_in_picture(path, part, axis) if _kind(path) in ("picture", "tiff", "raster") else None
    if inside is None:
        plane = read_plane(path, part, axis)
        inside = not_black(decode(path, part, axis)) if plane is None else plane != 0
    _check_mask(inside, path, size, image)
    return inside


def _not_black_in_picture(path: Path, part: int | str | None, axis: int) -> NDArray[np.bool_] | None:  # H W
    """Where a picture is not black; None of floats, which are whole numbers in a mask.

    By the index where the palette has no black beside other colours, as that of an index map may have none.
    """
    check_pixels(path, size_of(Source("", path, part=part, axis=axis)))
    raster = decode(path, part, axis)
    if raster.raw.dtype.kind == "f":
        return None
    lossy = _is_lossy(path)
    inside = not_black(raster, above=127 if lossy else 0)
    if lossy or (inside.any() and not inside.all()):
        return inside
    plane = read_plane(path, part, axis)
    by_index = inside if plane is None else plane != 0
    return by_index if by_index.any() and not by_index.all() else inside


def _is_lossy(path: Path) -> bool:
    """Whether black is not 0 in a picture near an edge."""
    return suffix_of(path) in _LOSSY or (_kind(path) == "tiff" and is_jpeg(path))


def _large_mask_of(path: Path, size: tuple[int, ...], image: Path) -> Bits:  # H W
    """Where a region mask is not black, in a bit a pixel; a TIFF, a raster or a PNG is read a window at a time."""
    if _kind(path) in ("tiff", "raster") or suffix_of(path) == ".png":
        check_is_file(path)
        with image_here(path) as copy:
            bits = region_in_windows(copy, lossy=_is_lossy(copy)) if by_windows(copy) else None
        if bits is not None:
            _check_mask(bits, path, size, image)
            return bits
    inside = _mask_of(path, size, image)
    bits = Bits(*inside.shape)
    bits.set_rows(0, inside)
    return bits


def _check_mask(inside: NDArray[np.bool_] | Bits, path: Path, size: tuple[int, ...], image: Path) -> None:
    """Errors: ImageUnreadable for another size, or nothing inside."""
    if inside.shape != tuple(size):
        raise ImageUnreadable(
            f"The region mask {str(path)!r} is {inside.shape[0]}x{inside.shape[1]}, its image {str(image)!r} "
            f"{size[0]}x{size[1]}. Give the mask at the image's size."
        )
    if not inside.any():
        dark = "darker than half" if _is_lossy(path) else "0"
        raise ImageUnreadable(f"The region mask {str(path)!r} is {dark} everywhere: nothing of the image is left.")
