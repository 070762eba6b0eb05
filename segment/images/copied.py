"""Images on stores as files here; one that cannot be copied is an image that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from segment.errors import ImageUnreadable
from segment.images.find import Source
from segment.stores.copies import here
from segment.stores.urls import is_url, url_of


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
