"""A file of a store read by ranges, for libraries that take an open file. Must not know its format."""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractBufferedFile

from segment.errors import SegmentError
from segment.stores.requests import asked, name_of, size_of_file, store_of
from segment.stores.urls import is_url, scheme_of

BLOCK, BLOCKS = 2**20, 64
"""Bytes that are asked for at once, and how many blocks are kept of an open file."""

ABSENT, MOST_ABSENT = 30.0, 1000
"""Seconds for which a name that is not there is not asked for again (a raster may have a dozen files beside it, and
is opened some times), and how many such names are known at most."""

_absent: dict[str, float] = {}
_failed = threading.local()


def failure() -> Exception | None:
    """What a store answered in place of a range that this thread asked for last, once."""
    error: Exception | None = getattr(_failed, "error", None)
    _failed.error = None
    return error


class RangedFile(AbstractBufferedFile):  # type: ignore[misc]
    """A file of a store, open for reading."""

    def __init__(self, path: Path) -> None:
        """Errors: FileNotFoundError, StoreRefuses, StoreUnreachable."""
        self._url = path
        super().__init__(
            store_of(scheme_of(path)),
            name_of(path),
            block_size=BLOCK,
            cache_type="blockcache",
            cache_options={"maxblocks": BLOCKS},
            size=size_of_file(path),
        )

    __hash__ = object.__hash__  # fsspec's ask the store
    __eq__ = object.__eq__

    def read(self, length: int = -1) -> bytes:
        """Nothing where the store fails: GDAL, which reads this, cannot take an exception; `failure` has it."""
        try:
            return bytes(super().read(length))
        except Exception as error:  # kept for whoever opened the raster
            _failed.error = error
            return b""

    def _fetch_range(self, start: int, end: int) -> Any:
        return asked(self._url, lambda store: store.cat_file(self.path, start=start, end=end))


def opened_by_ranges(url: str, mode: str = "rb") -> RangedFile:
    """A URL opened as `open` does a file, only for reading. Errors: OSError, as for files here; those of a store."""
    if mode not in ("r", "rb"):
        raise PermissionError(errno.EACCES, "it is read only", url)
    now = time.monotonic()
    if not is_url(url) or _absent.get(url, -ABSENT) > now - ABSENT:  # rasterio tries any name at first
        raise FileNotFoundError(errno.ENOENT, "it is not there", url)
    try:
        return RangedFile(Path(url))
    except SegmentError as error:
        _failed.error = error
        raise
    except FileNotFoundError:
        if len(_absent) > MOST_ABSENT:
            _absent.clear()
        _absent[url] = now
        raise
