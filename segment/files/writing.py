"""Maps and pictures to disk, whole or not at all, and 16-bit maps read back.

Must not know a network or how a map came about. Every file is written beside its place and renamed into it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.errors import ImageUnreadable, WrongUse
from segment.files import png
from segment.files.lazy_arrays import ComputedRows, blocks
from segment.stores.outgoing import outgoing
from segment.stores.requests import remove
from segment.stores.urls import is_url, refuse_file_url, url_of
from segment.uncertainty.class_indices import index_type

Text = Mapping[str, str]
FULL = 65535
"""The largest 16-bit pixel; in a map with pixels of no value, what stands for them."""


@contextmanager
def fresh(path: Path) -> Iterator[BinaryIO]:
    """A file that appears under its name, with its folders, when the block ends well; else nothing is left behind.

    Its bytes are on the disk before its name is. A URL's file is made here and then put on its store.
    """
    with fresh_path(path) as place, place.open("wb") as stream:
        yield stream


def _sync(path: Path) -> None:
    """Puts a file's bytes on the disk."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def discard(paths: Iterable[Path], top: Path) -> None:
    """Take files away, and the folders below `top` that are empty then; a path that leads elsewhere stays."""
    top = top.resolve()
    for path in paths:
        place = Path(os.path.realpath(path))  # resolve() has no answer for a link to itself
        if not place.is_relative_to(top):
            continue
        if place.name == "zarr.json":  # it stands for its whole group
            shutil.rmtree(place.parent, ignore_errors=True)
            place = place.parent
        place.unlink(missing_ok=True)
        with suppress(OSError):  # there are other files in it
            for folder in place.parents[: len(place.relative_to(top).parts) - 1]:
                folder.rmdir()


def sync_folder(folder: Path) -> None:
    """Puts the names of a folder's files on the disk, so that a renamed file outlives a power failure.

    Windows has no such call, and some network file systems refuse it; the name is then on the disk a little later.
    """
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def fresh_path(path: Path) -> Iterator[Path]:
    """A place beside a file, of its suffix, for a library to write to; renamed to the file when the block ends well."""
    refuse_file_url(path)
    part = path.with_name(_part_name(path.stem, path.suffix))
    try:
        if is_url(path):
            with outgoing(path) as place:
                yield place
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        if not part.exists():
            raise OSError(errno.ENOENT, "another process took the file away while it was written")
        _sync(part)
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        _discard(part)


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name when the block ends well; one that was there before is replaced."""
    if is_url(path):
        raise WrongUse(f"{url_of(path)} would be a folder written as one: choose a folder here.")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise WrongUse(f"Cannot write the folder {str(path)!r}: a file or a link is there. Choose another place.")
    part, old = path.with_name(_part_name(path.name)), path.with_name(_part_name(f"{path.name}.old"))
    try:
        part.mkdir(parents=True)
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                _sync(file)
        with suppress(FileNotFoundError):
            path.replace(old)
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for folder in (old, part):
            shutil.rmtree(folder, ignore_errors=True)


def _part_name(name: str, suffix: str = "") -> str:
    """The name of a file that is not whole yet; names are limited to 255 bytes."""
    short = name.encode()[:200].decode(errors="ignore")
    return f".{short}.{os.getpid()}-{threading.get_ident()}.part{suffix}"


def check_writable(path: Path) -> None:
    """Refuse now what could not be written at the end of a long job: the folder of `path` is made and tried."""
    probe = path.with_name(_part_name(path.name))
    if is_url(path):
        with fresh(probe):
            pass
        remove([probe])
        return
    try:
        if path.is_dir():
            raise WrongUse(f"Cannot write {str(path)!r}: it is a folder. Name a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        _discard(probe)


def unwritable(path: Path, error: OSError) -> WrongUse:
    """The refusal for a file or folder that cannot be written, in one line; another file that is to blame is named."""
    why = error.strerror or str(error)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
    if isinstance(error.filename, str) and not full and _read_for(path, Path(error.filename)):
        return WrongUse(f"Cannot write {url_of(path)!r}, for {error.filename!r} cannot be read: {why}.")
    return WrongUse(
        f"Cannot write {url_of(path)!r}: {why}. Choose an output folder that can be written, on a disk with free space."
    )


def _read_for(path: Path, other: Path) -> bool:
    """Whether another file is neither a folder of `path`, nor in it, nor a file that is not whole yet."""
    related = path.is_relative_to(other) or other.is_relative_to(path)
    return not related and not any(".part" in Path(name).suffixes for name in other.parts)


def _discard(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        return  # its folder is not one: nothing was written there


def write_bytes(path: Path, data: bytes) -> None:
    with fresh(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented, keys in the order given; NaN and infinity are refused, for JSON has neither (ValueError)."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_png(path: Path, picture: Plane, text: Text | None = None) -> None:  # uint8, H W 3 RGB or H W grey
    with fresh(path) as stream:
        stream.writelines(png.encoded(picture, text=text))


def write_palette_png(
    path: Path,
    labels: Plane,  # H W
    palette: NDArray[np.uint8],  # K 3
) -> None:
    """Class indices as pixel values, shown in their colours; above 256 classes a 16-bit grey PNG of the indices."""
    indices = ComputedRows(labels.shape, index_type(len(palette)), lambda rows: as_indices(labels[rows], len(palette)))
    with fresh(path) as stream:
        stream.writelines(png.encoded(indices, palette=palette if len(palette) <= 256 else None))


def as_indices(labels: NDArray[np.integer], classes: int) -> NDArray[np.uint8] | NDArray[np.uint16]:  # H W -> H W
    """uint8 up to 256 classes, uint16 up to 65536; a label outside 0..K - 1 is refused.

    >>> as_indices(np.array([[0, 300]]), 301).dtype
    dtype('uint16')
    """
    kind = index_type(classes)
    if labels.size and (labels.min() < 0 or labels.max() >= classes):
        raise WrongUse(f"A prediction holds labels {labels.min()}..{labels.max()}; {classes} classes were named.")
    return labels.astype(kind, copy=False)


def write_map_png(
    path: Path,
    values: Plane,  # H W
    *,
    measure: str,
    unit: str,
    high: float,
    absent: bool = False,
) -> None:
    """A 16-bit grey PNG, pixel = round(value / high * 65535), with that scale in its text chunks.

    high: the measure's largest possible value, so that files compare and nothing saturates; what exceeds the scale by
    more than rounding (one step), or is not finite, is refused.
    absent: pixels may be NaN: they become 65535, which the text calls nodata, and the scale ends at 65534
    Error: half a step, high / 131070.
    """
    steps = FULL - 1 if absent else FULL

    def grey(rows: slice) -> NDArray[np.uint16]:
        block = values[rows]
        pixels = block.astype(np.float64) * (steps / high)
        nothing = np.isnan(block) if absent else np.zeros(block.shape, np.bool_)
        if not ((pixels >= -1) & (pixels <= steps + 1) | nothing).all():  # NaN is neither
            raise WrongUse(
                f"{path.name}: {measure} holds {block.min()}..{block.max()}, beyond its scale 0..{high}; "
                "give the largest value it can take."
            )
        return np.where(nothing, FULL, np.rint(np.where(nothing, 0, pixels)).clip(0, steps)).astype(np.uint16)

    notes = {
        "measure": measure,
        "unit": unit,
        "low": "0.0",
        "high": repr(float(high)),
        "formula": f"value = low + pixel / {steps} * (high - low)",
    }
    if absent:
        notes["nodata"] = str(FULL)
    with fresh(path) as stream:
        stream.writelines(png.encoded(ComputedRows(values.shape, np.dtype(np.uint16), grey), text=notes))


def read_map_png(path: str | Path) -> tuple[NDArray[np.float32], dict[str, str]]:  # -> H W
    """The values of a map that `write_map_png` wrote, NaN where it has none, and its text chunks."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageUnreadable(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    info = png.text_of(data) if data.startswith(png.SIGNATURE) else {}
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if {"low", "high"} <= set(info) else None
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageUnreadable(f"{str(path)!r} is not a 16-bit map with its scale in text chunks.")
    low, high = float(info["low"]), float(info["high"])
    steps = FULL - 1 if "nodata" in info else FULL
    values = (low + pixels.astype(np.float64) * ((high - low) / steps)).astype(np.float32)
    if "nodata" in info:
        values[pixels == FULL] = np.nan
    return values, info


def write_npz(path: Path, maps: Mapping[str, Plane]) -> None:  # H W or K H W
    """Arrays by name for `numpy.load`: numbers as float32, stored plain; whole numbers as they are, packed.

    The low bits of a float32 map do not compress: a tenth of the size would be saved in ten times the time.
    The same arrays give the same bytes (members carry no date).
    """
    with fresh(path) as stream, zipfile.ZipFile(stream, "w") as archive:
        for name, values in maps.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            real = np.issubdtype(values.dtype, np.floating)
            member.compress_type = zipfile.ZIP_STORED if real else zipfile.ZIP_DEFLATED
            kind = np.dtype(np.float32) if real else values.dtype
            head = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": tuple(values.shape)}
            with archive.open(member, "w", force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(cast(BinaryIO, entry), head)
                for plane in [values] if len(values.shape) == 2 else [values[k] for k in range(values.shape[0])]:
                    for block in blocks(plane):
                        entry.write(np.ascontiguousarray(block, kind).tobytes())
