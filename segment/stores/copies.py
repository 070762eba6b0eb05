"""Files of a store as files here: a copy of each is kept while it is used, and then while there is room.

Must not know what reads them.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from segment.errors import SegmentError
from segment.stores.requests import fetch, files_below, version_of
from segment.stores.scratch import scratch_folder
from segment.stores.urls import is_url, url_of

KEPT = 2**30
"""Bytes of copies that are kept when nobody uses them."""


@dataclass
class _Copy:
    """A file here, how many read it now, its bytes, and its version; none before it has been copied.

    fetching: held while it is copied
    """

    place: Path
    users: int = 0
    size: int = 0
    version: str | None = None
    fetching: threading.Lock = field(default_factory=threading.Lock)


class Copies:
    """The copies of one process, in a folder that goes with it."""

    def __init__(self) -> None:
        self._folder = scratch_folder()
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def use(self, path: Path) -> Iterator[Path]:
        """The copy of a file, within the block. Errors: FileNotFoundError, and those of a store."""
        url = url_of(path)
        with self._lock:
            copy = self._copies.get(url)
            if copy is None:
                folder = Path(self._folder, hashlib.sha256(url.encode()).hexdigest()[:16])
                copy = self._copies[url] = _Copy(folder / path.name)
            copy.users += 1
            first = copy.users == 1
            self._copies.move_to_end(url)
        try:
            with copy.fetching:
                if first or copy.version is None:  # it may have changed while nobody read it
                    self._renew(path, copy)
            yield copy.place
        finally:
            with self._lock:
                copy.users -= 1
                self._make_room()

    @staticmethod
    def _renew(path: Path, copy: _Copy) -> None:
        version = version_of(path)
        if not version or copy.version != version:
            copy.version = None
            copy.place.parent.mkdir(exist_ok=True)
            fetch([(path, copy.place)])
            copy.size, copy.version = copy.place.stat().st_size, version

    def _make_room(self) -> None:
        """Remove copies: those that were used longest ago first, and what was not fetched at all."""
        held = sum(copy.size for copy in self._copies.values())
        for url, copy in list(self._copies.items()):
            if not copy.users and (held > KEPT or copy.version is None):
                held -= copy.size
                with suppress(OSError):
                    copy.place.unlink(missing_ok=True)
                    copy.place.parent.rmdir()
                del self._copies[url]


_copies: list[Copies] = []
_making = threading.Lock()


@contextmanager
def here(path: Path) -> Iterator[Path]:
    """The file itself; of a URL a copy here, within the block. Errors that name the copy name the URL instead.

    Raises:
        FileNotFoundError: It is not on its store.
        StoreRefuses, StoreUnreachable: As `requests.asked`.

    """
    if not is_url(path):
        yield path
        return
    with _making:
        if not _copies:
            _copies.append(Copies())
    with _copies[0].use(path) as place:
        try:
            yield place
        except SegmentError as error:
            raise type(error)(str(error).replace(str(place), url_of(path))) from error


def folder_here(folder: Path, *, whole: bool = False) -> Path:
    """The folder itself; of a URL a copy of its files here, which goes with the process.

    whole: with the files in its folders. Errors: those of a store.
    """
    if not is_url(folder):
        return folder
    names = [path.relative_to(folder) for path in files_below(folder)]
    place = scratch_folder() / (folder.name or "bucket")
    wanted = [name for name in names if whole or len(name.parts) == 1]
    for name in wanted:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
    fetch([(folder / name, place / name) for name in wanted])
    return place
