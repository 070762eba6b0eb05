"""A file on its way to a store: made here, then put under its name, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segment.stores.requests import put
from segment.stores.scratch import remove_scratch, scratch_folder


@contextmanager
def outgoing(path: Path) -> Iterator[Path]:
    """A place here for what goes to a URL when the block ends well.

    Errors: OSError, and those of a store.
    """
    folder = scratch_folder()
    try:
        yield folder / path.name
        put([(folder / path.name, path)])
    finally:
        remove_scratch(folder)
