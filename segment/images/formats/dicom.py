"""DICOM slices, by pydicom (the extra `medical`): ordered by their place in a series, in modality units.

Must not know what the slices are used for.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import size_text
from segment.errors import ImageUnreadable, imported, one_line
from segment.images.formats.kinds import kind_of, suffix_of
from segment.images.formats.pictures import several
from segment.images.formats.raster import Raster
from segment.images.limits import check_is_file, is_file
from segment.images.placing.geometry import Affine, Geometry
from segment.stores.copies import here

log = logging.getLogger(__name__)

Slice = tuple[Path, int | None, Geometry]
"""A file, the number of a frame where it has several, and where the slice lies."""

_MAGIC = b"DICM"
_UNITS = "PixelValueTransformationSequence"

PARALLEL, APART, EVEN = 1e-3, 1e-6, 0.1
"""How far the axes of parallel slices may differ, in parts of their length; millimetres between slices at least; how
far an evenly spaced slice may lie from its place, in parts of the mean step."""


@dataclass(frozen=True)
class _Frame:
    """A slice by its header. position, axes: NaN where it does not say them.

    size: rows and columns; number: of the frame in its file, None of its only one; order: in a series without positions
    """

    path: Path
    number: int | None
    size: tuple[int, int]
    order: int
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: NDArray[np.float64]
    thickness: float


def is_dicom(path: Path) -> bool:
    """Whether the file is DICOM by its suffix, or by its bytes where it has none."""
    return kind_of(path) == "dicom" or has_dicom_mark(path)


def has_dicom_mark(path: Path) -> bool:
    """Whether the file has no suffix, and DICOM's mark after its preamble; a DICOMDIR lists files and is no image."""
    if suffix_of(path) or path.name.upper() == "DICOMDIR" or not is_file(path):
        return False
    try:
        with path.open("rb", buffering=0) as stream:
            return stream.read(132)[128:] == _MAGIC
    except OSError:
        return False


def slices_of(paths: Iterable[Path]) -> list[Slice]:
    """Slices by series, each in the order of its positions along the series' normal; a damaged file comes last.

    A file with several frames is a volume of its own, and so are the slices of a series of another size than most.
    Errors: MissingExtra without pydicom.
    """
    volumes: dict[str, list[_Frame]] = defaultdict(list)
    damaged: list[Slice] = []
    for path in paths:
        try:
            with here(path) as copy:
                series, frames = _frames_of(path, _header(copy))
        except (ImageUnreadable, OSError):  # reported where its pixels are read
            damaged.append((path, None, Geometry()))
            continue
        volumes[series if len(frames) == 1 else str(path)] += frames
    parts = [part for volume, frames in volumes.items() for part in _by_size(volume, frames)]
    return [slice for volume, frames in parts for slice in _ordered(volume, frames)] + damaged


def _by_size(volume: str, frames: Sequence[_Frame]) -> Iterator[tuple[str, list[_Frame]]]:
    """The slices of each size; the most frequent one keeps the name of the volume."""
    for place, (size, _) in enumerate(Counter(frame.size for frame in frames).most_common()):
        name = f"{volume} {size_text(size)}" if place else volume
        yield name, [frame for frame in frames if frame.size == size]


def read_dicom(path: Path, frame: int | None = None, *, stored: bool = False) -> Raster:
    """The pixels in modality units (Hounsfield units of a CT), float32 where the file has a slope or intercept.

    Without units, values whose lowest is white (MONOCHROME1) are inverted, and indices are colours.
    stored: neither of the two
    """
    pydicom = imported("pydicom", extra="medical", what="DICOM files")
    processing = imported("pydicom.pixels", extra="medical", what="DICOM files")
    try:
        data = pydicom.dcmread(path)
        if frame is None and int(data.get("NumberOfFrames", 1) or 1) > 1:
            raise several(path, len(_frames_of(path, data)[1]))
        pixels = np.asarray(processing.pixel_array(data, index=frame or 0))
        unchanged = pixels
        kind = str(data.get("PhotometricInterpretation", ""))
        slope = float(_value(data, frame or 0, _UNITS, "RescaleSlope", 1))
        intercept = float(_value(data, frame or 0, _UNITS, "RescaleIntercept", 0))
        if data.get("ModalityLUTSequence"):
            pixels = processing.apply_modality_lut(pixels, data)
        elif (slope, intercept) != (1.0, 0.0):
            pixels = (pixels.astype(np.float64) * slope + intercept).astype(np.float32)
        if not stored and pixels is unchanged:
            if kind == "MONOCHROME1":
                pixels = _inverted(pixels, int(data.BitsStored))
            elif kind == "PALETTE COLOR":
                colours = processing.apply_color_lut(pixels, data)
                pixels = colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)
    except ImageUnreadable:
        raise
    except FileNotFoundError:
        raise ImageUnreadable(f"{str(path)!r} cannot be read: No such file. Correct the path.") from None
    except Exception as error:  # pydicom and its codecs raise of every class
        raise ImageUnreadable(f"{str(path)!r} does not decode as DICOM: {one_line(error, 300)}") from None
    return Raster(pixels if pixels.ndim == 3 else pixels[..., None])


def _inverted(pixels: NDArray[Any], bits: int) -> NDArray[Any]:
    """Stored values of `bits` bits, the largest for the smallest."""
    if pixels.dtype.kind not in "iu":
        raise ValueError(f"MONOCHROME1 of {pixels.dtype} is not read")
    top = pixels.dtype.type(2**bits - 1 if pixels.dtype.kind == "u" else -1)
    return top - pixels


def dicom_size(path: Path) -> tuple[int, int] | None:
    try:
        header = _header(path)
        return int(header.Rows), int(header.Columns)
    except (ImageUnreadable, AttributeError, TypeError, ValueError):
        return None


def _header(path: Path) -> Any:
    pydicom = imported("pydicom", extra="medical", what="DICOM files")
    check_is_file(path)
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        _check_numbers(header, path.stat().st_size)
        return header
    except Exception as error:
        raise ImageUnreadable(f"{str(path)!r} does not open as DICOM: {one_line(error, 200)}.") from None


def _check_numbers(header: Any, size: int) -> None:
    """Raises an error of some class for values that do not decode or that a series cannot be put in order by."""
    for name in ("SeriesInstanceUID", "Rows", "Columns"):
        header.get(name)  # pydicom decodes a value where it is first asked for
    for name, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        if name in header and not np.isfinite(np.array(header[name].value, float).reshape(count)).all():
            raise ValueError(f"{name} is {header[name].value}")
    for name in ("InstanceNumber", "SliceThickness"):
        float(header.get(name, 0) or 0)
    if not 0 <= int(header.get("NumberOfFrames", 1) or 1) <= size:
        raise ValueError(f"its {size} bytes hold no {header.NumberOfFrames} frames")


def _value(header: Any, frame: int, group: str, name: str, default: Any = None) -> Any:
    """An attribute of a frame: by its own functional groups, those of all frames, or the file itself."""
    for sequence, place in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        groups = header.get(sequence)
        part = groups[place].get(group) if groups else None
        if part and part[0].get(name) is not None:
            return part[0].get(name)
    value = header.get(name)
    return default if value is None else value


def _frames_of(path: Path, header: Any) -> tuple[str, list[_Frame]]:
    """The series of a file, and its frames. Errors: ImageUnreadable for values that do not decode."""

    def numbers(frame: int, group: str, name: str, missing: Sequence[float]) -> NDArray[np.float64]:
        value = _value(header, frame, group, name)
        if value is None:
            return np.array(missing)
        floats = np.array(value, float).reshape(len(missing))
        if not np.isfinite(floats).all():
            raise ValueError(f"{name} is {value}")
        return floats

    def frame_of(frame: int) -> _Frame:
        position = numbers(frame, "PlanePositionSequence", "ImagePositionPatient", [np.nan] * 3)
        axes = numbers(frame, "PlaneOrientationSequence", "ImageOrientationPatient", [np.nan] * 6)
        spacing = numbers(frame, "PixelMeasuresSequence", "PixelSpacing", [1.0, 1.0])
        thickness = float(_value(header, frame, "PixelMeasuresSequence", "SliceThickness") or 1)
        order = frame if count > 1 else int(header.get("InstanceNumber", 0) or 0)
        return _Frame(path, frame if count > 1 else None, size, order, position, axes, spacing, thickness)

    try:
        count = int(header.get("NumberOfFrames", 1) or 1)
        size = int(header.get("Rows", 0) or 0), int(header.get("Columns", 0) or 0)
        return str(header.get("SeriesInstanceUID", path.parent)), [frame_of(frame) for frame in range(count)]
    except Exception as error:
        raise ImageUnreadable(f"{str(path)!r} does not open as DICOM: {one_line(error, 200)}.") from None


def _ordered(volume: str, frames: Sequence[_Frame]) -> list[Slice]:
    """The slices of a volume in order; without an affine where no single one places them all.

    That is where they are not parallel, lie upon each other, or are unevenly spaced, which a warning says; and where
    the files say no places.
    """
    frames = sorted(frames, key=lambda frame: (frame.order, str(frame.path)))
    known = all(np.isfinite([*frame.axes, *frame.position]).all() for frame in frames)
    normal = np.cross(*frames[0].axes.reshape(2, 3))
    placed = sorted(frames, key=lambda frame: float(normal @ frame.position)) if known else []
    places = np.array([normal @ frame.position for frame in placed])
    steps = np.diff(places)
    affine, why = None, ""
    if not known:
        pass
    elif not np.allclose([frame.axes for frame in frames], frames[0].axes, rtol=0, atol=PARALLEL):
        why = "are not parallel"
    elif not (steps > APART).all():
        why = "lie upon each other, as the phases of a series do, and keep the order of their numbers"
    else:
        frames = placed
        even = np.linspace(places[0], places[-1], len(places))
        if np.abs(places - even).max() <= EVEN * (places[-1] - places[0]) / max(1, len(steps)):
            affine = _affine(placed)
        else:
            why = f"are {steps.min():.3g} to {steps.max():.3g} mm apart, perhaps because some are missing"
    if why:
        log.warning(
            "The slices of volume %s %s: no affine gives the places of all, so that a volume of them has none.",
            volume,
            why,
        )
    return [
        (frame.path, frame.number, Geometry(volume=volume, affine=affine, axis=2, index=index, count=len(frames)))
        for index, frame in enumerate(frames)
    ]


def _affine(frames: Sequence[_Frame]) -> Affine:
    """Voxel (column, row, slice) to millimetres, right-anterior-superior; DICOM's own axes point left and back."""
    first, last = frames[0], frames[-1]
    right, down = first.axes.reshape(2, 3)
    between_rows, between_columns = first.spacing
    if len(frames) > 1:
        step = (last.position - first.position) / (len(frames) - 1)
    else:
        step = np.cross(right, down) * first.thickness
    affine = np.eye(4)
    affine[:3] = np.stack([right * between_columns, down * between_rows, step, first.position], axis=1)
    affine[:2] *= -1
    return tuple(tuple(float(value) for value in row) for row in affine)
