"""DICOM slices, by pydicom (the extra `medical`): ordered by their place in a series, in modality units.

Must not know what the slices are used for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segment.errors import ImageUnreadable, imported, one_line
from segment.images.formats.raster import Raster
from segment.images.geometry import Affine, Geometry
from segment.images.limits import check_is_file, is_file
from segment.stores.copies import here

Slice = tuple[Path, int | None, Geometry]
"""A file, the number of a frame where it has several, and where the slice lies."""

_MAGIC = b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether the file has DICOM's mark after its preamble, whatever its name."""
    if not is_file(path):
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == _MAGIC
    except OSError:
        return False


def slices_of(paths: Iterable[Path]) -> list[Slice]:
    """Slices by series, each in the order of its positions along the series' normal; a damaged file comes last.

    Errors: MissingExtra without pydicom.
    """
    series: dict[str, list[tuple[Path, Any]]] = defaultdict(list)
    damaged: list[Slice] = []
    for path in paths:
        try:
            with here(path) as copy:
                header = _header(copy)
        except (ImageUnreadable, OSError):  # reported where its pixels are read
            damaged.append((path, None, Geometry()))
            continue
        series[str(header.get("SeriesInstanceUID", path.parent))].append((path, header))
    return [slice for uid, files in series.items() for slice in _ordered(uid, files)] + damaged


def read_dicom(path: Path, frame: int | None = None) -> Raster:
    """The pixels in modality units (Hounsfield units of a CT), float32 where the file has a slope or intercept."""
    pydicom = imported("pydicom", extra="medical", what="DICOM files")
    try:
        data = pydicom.dcmread(path)
        pixels = np.asarray(data.pixel_array)
        if int(data.get("NumberOfFrames", 1) or 1) > 1:
            pixels = pixels[frame or 0]
        if "RescaleSlope" in data or "RescaleIntercept" in data:
            slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
            if (slope, intercept) != (1.0, 0.0):
                pixels = (pixels.astype(np.float64) * slope + intercept).astype(np.float32)
    except FileNotFoundError:
        raise ImageUnreadable(f"{str(path)!r} cannot be read: No such file. Correct the path.") from None
    except Exception as error:  # pydicom and its codecs raise of every class
        raise ImageUnreadable(f"{str(path)!r} does not decode as DICOM: {one_line(error, 300)}") from None
    return Raster(pixels if pixels.ndim == 3 else pixels[..., None])


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


def _ordered(uid: str, files: Sequence[tuple[Path, Any]]) -> list[Slice]:
    first = files[0][1]
    frames = int(first.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        return [
            (path, number, Geometry(volume=uid, index=number, count=int(header.get("NumberOfFrames", 1))))
            for path, header in files
            for number in range(int(header.get("NumberOfFrames", 1)))
        ]
    placed = all("ImagePositionPatient" in header and "ImageOrientationPatient" in header for _, header in files)
    if placed:
        normal = np.cross(*np.array(first.ImageOrientationPatient, float).reshape(2, 3))
        files = sorted(files, key=lambda file: float(normal @ np.array(file[1].ImagePositionPatient, float)))
    else:
        files = sorted(files, key=lambda file: (int(file[1].get("InstanceNumber", 0) or 0), str(file[0])))
    affine = _affine([header for _, header in files]) if placed else None
    return [
        (path, None, Geometry(volume=uid, affine=affine, axis=2, index=index, count=len(files)))
        for index, (path, _) in enumerate(files)
    ]


def _affine(headers: Sequence[Any]) -> Affine:
    """Voxel (column, row, slice) to millimetres, right-anterior-superior; DICOM's own axes point left and back."""
    first, last = headers[0], headers[-1]
    right, down = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in first.get("PixelSpacing", (1, 1)))
    start = np.array(first.ImagePositionPatient, float)
    if len(headers) > 1:
        step = (np.array(last.ImagePositionPatient, float) - start) / (len(headers) - 1)
    else:
        step = np.cross(right, down) * float(first.get("SliceThickness", 1) or 1)
    affine = np.eye(4)
    affine[:3] = np.stack([right * between_columns, down * between_rows, step, start], axis=1)
    affine[:2] *= -1
    return tuple(tuple(float(value) for value in row) for row in affine)
