"""The images of a TIFF by tifffile: which of its pages hold them, in which order, and their samples.

Must not know what the samples mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from segment.stores.ranges import opened_by_ranges
from segment.stores.urls import is_url, url_of

_JPEG = (6, 7)
"""TIFF 6.0 and its technical note 2, Compression."""
MASK = 4
_SMALLER = 1
NOT_A_PAGE = _SMALLER | MASK
"""TIFF 6.0, NewSubfileType: a smaller copy of another page, a transparency mask."""

_CHANNEL_AXES = "CS"
_BYTEORDER: Mapping[str, Literal["little", "big"]] = {"<": "little", ">": "big"}


@dataclass(frozen=True)
class TiffImage:
    """Where one image lies in a file.

    series: as tifffile has it
    pages: those of its channels, counted in the series
    samples: the axes of a page
    stacked: whether the file has only the first page of the series, whose samples those of the others follow
    """

    series: Any
    pages: tuple[int, ...]
    samples: str
    stacked: bool = False

    @property
    def page(self) -> Any:
        """The page that has its tags; None for one that OME-XML names and the file lacks."""
        return self.series.pages[0 if self.stacked else self.pages[0]]

    def planes(self) -> NDArray[Any]:  # -> H W B
        planes = []
        for number in self.pages:
            values = _in_stack(self.page, number) if self.stacked else self.series.pages[number].asarray()
            if self.samples == "SYX":  # planar
                values = np.moveaxis(values, 0, -1)
            elif self.samples == "YX":
                values = values[..., None]
            elif self.samples != "YXS":
                raise ValueError(f"its axes are {self.samples}, not rows, columns and samples")
            planes.append(values)
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)


@contextmanager
def opened_tiff(path: Path) -> Iterator[tifffile.TiffFile]:
    """A TIFF with its own pages only: OME-XML and Micro-Manager's index name other files, each an image by itself.

    Errors: ValueError where its pages lead back to one another.
    """
    alone: dict[str, Any] = {"_multifile": False, "is_micromanager": False}
    if is_url(path):
        with opened_by_ranges(url_of(path)) as stream, tifffile.TiffFile(stream, name=path.name, **alone) as file:
            _check_pages(file)
            yield file
        return
    with tifffile.TiffFile(path, **alone) as file:
        _check_pages(file)
        yield file


def is_jpeg(path: Path) -> bool:
    """Whether the samples of a TIFF are compressed by JPEG, so that they are not those that were written."""
    with opened_tiff(path) as file:
        return int(file.pages.first.compression) in _JPEG


def _check_pages(file: Any) -> None:
    """Raises ValueError where a page leads back to an earlier one: tifffile would go round for ever."""
    handle, form = file.filehandle, file.tiff
    place, seen = int(file.pages.first.offset), set[int]()
    while 0 < place < handle.size:
        if place in seen:
            raise ValueError("its pages lead back to one another")
        seen.add(place)
        handle.seek(place)
        count = handle.read(form.tagnosize)
        handle.seek(form.tagsize * int.from_bytes(count, _BYTEORDER[form.byteorder]), 1)
        place = int.from_bytes(handle.read(form.offsetsize), _BYTEORDER[form.byteorder])


def images_in(file: tifffile.TiffFile) -> list[TiffImage]:
    """The images of a file in the order of its pages, which tifffile groups by layout, size and type."""
    images = list(_images_of(file)) or [TiffImage(file.series[0], (0,), file.series[0].keyframe.axes)]
    if len({id(image.series) for image in images}) == 1:
        return images
    return sorted(images, key=lambda image: tuple((image.page or image.series.keyframe).treeindex))


def is_below(page: Any) -> bool:
    """Whether it is no page of the file but one below a page (SubIFDs), which Pillow and rasterio do not count."""
    return len(page.treeindex) > 1


def _series_of(file: tifffile.TiffFile) -> Iterator[Any]:
    """The series of a file. A page of half the size is a smaller copy where it says so, which tifffile does not ask."""
    for series in file.series:
        yield series
        for smaller in series.levels[1:] if series.kind == "generic" else ():
            if not is_below(smaller.keyframe):
                yield smaller


def _images_of(file: tifffile.TiffFile) -> Iterator[TiffImage]:
    """Every image; channels that lie in pages of their own belong to one."""
    for series in _series_of(file):
        page: Any = series.keyframe
        if int(page.subfiletype) & NOT_A_PAGE:
            continue
        leading = series.axes[: max(0, len(series.axes) - len(page.axes))]
        lengths = series.shape[: len(leading)]
        count = math.prod(lengths)
        stacked = count > len(series.pages)
        if not leading or (stacked and not _holds(file, page, count)):
            yield TiffImage(series, (0,), page.axes)
            continue
        order = np.arange(count).reshape(lengths)
        channels = [axis for axis, letter in enumerate(leading) if letter in _CHANNEL_AXES]
        order = np.moveaxis(order, channels, range(-len(channels), 0)) if channels else order[..., None]
        width = math.prod(lengths[axis] for axis in channels)
        for pages in order.reshape(-1, width):
            yield TiffImage(series, tuple(int(page) for page in pages), page.axes, stacked)


def _holds(file: tifffile.TiffFile, page: Any, count: int) -> bool:
    """Whether the file is as long as its description says, which a program may have kept when it wrote one page."""
    return page.is_contiguous and page.dataoffsets[0] + count * page.nbytes <= file.filehandle.size


def _in_stack(page: Any, number: int) -> NDArray[Any]:
    handle, kind = page.parent.filehandle, page.dtype.newbyteorder(page.parent.byteorder)
    values = handle.read_array(kind, page.size, offset=page.dataoffsets[0] + number * page.nbytes)
    return np.asarray(values, page.dtype).reshape(page.shape)
