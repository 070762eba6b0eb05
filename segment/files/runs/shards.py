"""The manifests of processes that make images of one run at the same time: a shard each, merged into the run's.

A line is in its shard, on the disk, before anybody is told that the image is done; so neither the end of a process nor
that of the one that merges loses it. Must not know what does the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from segment.files.runs.delivery import Delivery, writer_name
from segment.files.runs.manifest import MANIFEST, SHARDS, Lines, read_manifest
from segment.files.runs.places import RunPlaces
from segment.files.writing import unwritable
from segment.stores.urls import is_url


def begin_shards(folder: Path) -> None:
    """Makes the folder of shards."""
    try:
        (folder / SHARDS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder / SHARDS, error) from error


def open_shard(place: Path) -> RunPlaces:
    """The run for a process that is not the run's own: what it adds goes into a shard of its own.

    place: as `RunPlaces.place`
    """
    name, record = writer_name(), dict[str, Any]()
    if is_url(place):
        delivery = Delivery(place, name)
        (delivery.folder / SHARDS).mkdir()
        return RunPlaces(delivery.folder, Lines(delivery.folder / SHARDS / f"{name}.jsonl"), record, delivery)
    return RunPlaces(place, Lines(place / SHARDS / f"{name}.jsonl"), record)


def merge_shards(folder: Path, ids: Sequence[str]) -> Lines | None:
    """Puts the shards' lines at the end of the manifest, in the order of the ids, and takes the shards away.

    An image that one process has done and another has not is done.

    Returns:
        The lines of the manifest; None where no other process was begun.

    """
    shards = sorted((folder / SHARDS).glob("*.jsonl"))
    begun = (folder / SHARDS).is_dir()  # perhaps by processes that have no line
    lines = read_manifest(folder / MANIFEST) if begun else None  # first, for it may end in half a line
    of_writers: dict[str, dict[str, dict[str, Any]]] = {}
    for shard in shards:  # what a writer says last is what it means
        of_writers.setdefault(_writer_of(shard), {}).update(read_manifest(shard))
    newest: dict[str, dict[str, Any]] = {}
    for of_writer in of_writers.values():
        for id, line in of_writer.items():
            if id not in newest or line["status"] == "done":
                newest[id] = line
    if lines is not None:
        order = {id: number for number, id in enumerate(ids)}
        lines.add_lines([newest[id] for id in sorted(newest, key=lambda id: (order.get(id, len(order)), id))])
    for shard in shards:
        shard.unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or a process that nobody waits for any more has written again
        (folder / SHARDS).rmdir()
    return lines


def _writer_of(shard: Path) -> str:
    """The name of a shard's writer, whose shards on a store are numbered.

    >>> _writer_of(Path("host-12-ab-000002.jsonl")), _writer_of(Path("host-12-1a2b3c4d.jsonl"))
    ('host-12-ab', 'host-12-1a2b3c4d')
    """
    name, _, number = shard.stem.rpartition("-")
    return name if len(number) == 6 and number.isdecimal() else shard.stem
