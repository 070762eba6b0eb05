"""Images on stores as files here; one that cannot be copied is an image that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from segment.errors import ImageUnreadable
from segment.images.find import Source
from segment.images.formats.kinds import kind_of
from segment.stores.copies import here
from segment.stores.urls import is_url, url_of


def by_ranges(source: Source) -> bool:
    """Whether the file lies on a store, where parts of it can be read."""
    return is_url(source.path) and in_parts(source)


def in_parts(source: Source) -> bool:
    """Whether parts of the file can be read."""
    return source.part is None and kind_of(source.path) in ("tiff", "raster") and find_spec("rasterio") is not None


@contextmanager
def image_here(path: Path) -> Iterator[Path]:
    """The file itself; of a URL a copy here, within the block. Errors: ImageUnreadable; those of a store."""
    if not is_url(path):
        yield path
        return
    try:
        with here(path) as copy:
            yield copy
    except OSError as error:
        raise ImageUnreadable(f"{url_of(path)!r} cannot be read: {error.strerror or error}.") from error


@contextmanager
def source_here(source: Source) -> Iterator[Source]:
    """The image with its file and region mask here, within the block. Errors: as `image_here`."""
    with image_here(source.path) as path, nullcontext() if source.mask is None else image_here(source.mask) as mask:
        yield replace(source, path=path, mask=mask)
