"""A run whose folder is on a store: its files are written into a folder here, and go to the store as they are made.

Files of images go together, in a thread, and then an object with the lines that stand for them, in the folder of
shards: so a line is there only where all its files are. Files are overwritten with the same bytes where an image is
made again. Must not know how an image is predicted.
"""

from __future__ import annotations

import os
import platform
import queue
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from segment.files.runs.manifest import MANIFEST, SHARDS, Entry, encoded
from segment.files.writing import discard
from segment.images.contents.states import FileState, state_of
from segment.stores.requests import fetch, files_below, put, remove
from segment.stores.scratch import remove_scratch, scratch_folder

TOGETHER, SECONDS = 64, 2.0
"""Images that go to the store at once at most, and for how long the first of them waits for others."""


def writer_name() -> str:
    """A name for a process that adds lines to a run, unlike any other's."""
    return f"{platform.node()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Delivery:
    """The way of a run's files from a folder here to its URL.

    Args:
        url: The run's folder on a store.
        writer: Who adds lines, unlike any other process of the run.

    """

    def __init__(self, url: Path, writer: str) -> None:
        self.url, self.folder = url, scratch_folder()
        self._writer, self._count = writer, 0
        self._there: set[str] = set()
        self._sent: list[str] = []  # shards
        self._delivered: dict[str, FileState | None] = {}
        self._queue: queue.Queue[Entry | None] = queue.Queue(TOGETHER)
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Note which files are on the store. Errors: those of a store."""
        self._there = {path.relative_to(self.url).as_posix() for path in files_below(self.url)}

    def begin(self, *, whole: bool) -> None:
        """Have the run's own files, and the shards of others, in `folder`; or the whole run.

        Errors: those of a store.
        """
        self.look()
        if MANIFEST in self._there or any(map(self._is_others, self._there)):  # else it is no run
            self.bring(name for name in self._there if whole or "/" not in name or self._is_others(name))

    def bring_shards(self) -> None:
        """Have the shards of other processes in `folder`. Errors: those of a store."""
        self.look()
        self.bring(name for name in self._there if self._is_others(name))

    def _is_others(self, name: str) -> bool:
        return name.startswith(f"{SHARDS}/") and not name.startswith(f"{SHARDS}/{self._writer}")

    def holds(self, name: str) -> bool:
        """Whether a file of the run is there or here."""
        return name in self._there or (self.folder / name).is_file()

    def bring(self, names: Iterable[str]) -> None:
        """Have some of the run's files in `folder`, as far as they are there. Errors: those of a store."""
        wanted = [name for name in names if name in self._there and not (self.folder / name).is_file()]
        for name in wanted:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        fetch([(self.url / name, self.folder / name) for name in wanted])
        self._delivered |= {name: state_of(self.folder / name) for name in wanted}

    def add(self, entry: Entry) -> None:
        """Have an image's files and then its line go to the store; waits while many do. Errors: of earlier ones."""
        self._raise()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        while True:
            with suppress(queue.Full):
                self._queue.put(entry, timeout=1)
                return
            self._raise()

    def settle(self) -> None:
        """Wait until all that was added is there. Errors: those of a store."""
        if self._thread is not None:
            self._queue.put(None)  # those before it do not wait for others
            self._queue.join()
        self._raise()

    def deliver_changes(self) -> None:
        """Have all that is new in `folder`, but the manifest, on the store now. Errors: those of a store."""
        changed: dict[str, FileState | None] = {}
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            hidden = any(part.startswith(".") for part in name.split("/"))
            if hidden or name == MANIFEST or not path.is_file():
                continue
            state = state_of(path)
            if self._delivered.get(name) != state:
                changed[name] = state
        self.deliver(changed)
        self._delivered |= changed

    def deliver(self, names: Iterable[str]) -> None:
        """Have files of `folder` on the store now. Errors: those of a store."""
        names = list(names)
        put([(self.folder / name, self.url / name) for name in names])
        self._there |= {name for name in names if "/" not in name}  # of images there may be many

    def discard(self, names: Iterable[str]) -> None:
        """Take files of the run away, there and here. Errors: those of a store."""
        names = list(names)
        if not names:
            return
        self.settle()  # what is on its way would come back
        discard((self.folder / name for name in names), self.folder)
        gone = self._there.intersection(names)
        if groups := tuple(name.removesuffix("zarr.json") for name in names if name.endswith("/zarr.json")):
            gone |= {name for name in list(self._there) if name.startswith(groups)}
        remove([self.url / name for name in gone])
        self._there.difference_update(gone)

    def discard_folders(self, *folders: str) -> None:
        """Take all files of the run in some of its folders away there. Errors: those of a store."""
        gone = {name for name in self._there if name.split("/")[0] in folders}
        remove([self.url / name for name in gone])
        self._there -= gone

    def deliver_lines(self) -> None:
        """Have the whole manifest on the store, in place of the shards that it holds. Errors: those of a store."""
        self.settle()
        self.deliver([MANIFEST])
        merged = [name for name in self._there if self._is_merged(name)]
        remove([self.url / name for name in {*merged, *self._sent}])
        self._there.difference_update(merged)
        self._sent.clear()

    def _is_merged(self, name: str) -> bool:
        """Whether it is a shard that was brought here, and whose lines are in the manifest: it is gone here then."""
        brought = name.startswith(f"{SHARDS}/") and name in self._delivered
        return brought and not (self.folder / name).exists()

    def end(self) -> None:
        """Have all files on the store, and the folder here taken away. Errors: those of a store."""
        try:
            self.settle()
            self.deliver_changes()
            self.deliver_lines()
        finally:
            remove_scratch(self.folder)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            entries, ends = self._next()
            try:
                if entries and self._error is None:
                    self._send(entries)
            except BaseException as error:  # raised by whoever adds or waits
                self._error = error
            for _ in range(len(entries) + ends):
                self._queue.task_done()

    def _next(self) -> tuple[list[Entry], int]:
        """Some entries, and how many marks that nothing is to be waited for were among them."""
        entries, first = list[Entry](), self._queue.get()
        if first is None:
            return entries, 1
        entries.append(first)
        until = time.monotonic() + SECONDS
        while len(entries) < TOGETHER:
            try:
                entry = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if entry is None:
                return entries, 1
            entries.append(entry)
        return entries, 0

    def _send(self, entries: list[Entry]) -> None:
        names = [name for entry in entries for name in self._files(entry)]
        self.deliver(names)
        self._count += 1
        shard = f"{SHARDS}/{self._writer}-{self._count:06d}.jsonl"
        place = self.folder / f".{self._writer}"
        place.write_bytes(b"".join(encoded(entry.line()) for entry in entries))
        put([(place, self.url / shard)])
        self._sent.append(shard)
        discard((self.folder / name for entry in entries for name in entry.files), self.folder)

    def _files(self, entry: Entry) -> list[str]:
        """The files of an entry, with all those of a group, of which it names the mark."""
        names: list[str] = []
        for name in entry.files:
            if name.endswith("/zarr.json"):
                group = (self.folder / name).parent
                members = [path for path in group.rglob("*") if path.is_file() and path != self.folder / name]
                names += [path.relative_to(self.folder).as_posix() for path in members]
            names.append(name)
        return names
