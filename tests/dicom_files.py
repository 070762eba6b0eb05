"""DICOM files, written for the tests of reading and of volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid


def group(**attributes: Any) -> Dataset:
    """A data set; an attribute that is a data set becomes a sequence of it."""
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, [value] if isinstance(value, Dataset) else value)
    return made


def dicom(path: Path, pixels: NDArray[Any], kind: str = "MONOCHROME2", *, bits: int = 0, **attributes: Any) -> Path:
    """pixels: H W, or F H W of several frames."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2.1")
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = group(SOPClassUID=meta.MediaStorageSOPClassUID, SOPInstanceUID=meta.MediaStorageSOPInstanceUID)
    file.file_meta = meta
    file.Rows, file.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        file.NumberOfFrames = len(pixels)
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, kind
    file.BitsAllocated = 8 * pixels.dtype.itemsize
    file.BitsStored = bits or file.BitsAllocated
    file.HighBit, file.PixelRepresentation = file.BitsStored - 1, int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in attributes.items():
        setattr(file, name, value)
    path.parent.mkdir(exist_ok=True, parents=True)
    pydicom.dcmwrite(path, file, enforce_file_format=True)
    return path
