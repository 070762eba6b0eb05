"""What is counted of labelled images under several read-outs: saved to a file, merged, and packed for another process.

Must not know how an image is estimated.
"""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.errors import WrongUse
from segment.files.writing import fresh
from segment.guarantees.counts import ImageCounts
from segment.images.find import Source
from segment.images.formats.arrays import ARRAY_ERRORS
from segment.jobs.evaluation.annotators import further_boards
from segment.jobs.labelled.labels import contents_of
from segment.scores.scoreboard import Scoreboard

COUNTS = "image counts/"
"""Prefix of their arrays in a saved state."""

FASTEST = 1
"""Level of zlib: the histograms of a few images, of which most bins are empty, take a hundredth of their size."""


@dataclass
class PackedCounts:
    """What a process has counted of some images, each histogram packed by itself: all of them are large at once.

    boards, counts: by read-out, packed. images: how many were tried, in so many passes
    spent: seconds of each image that was counted
    differs: why nothing here counts, where a fast path turned out wrong; then nothing else is there
    The others as in `Counted`.
    """

    boards: dict[str, bytes] = field(default_factory=dict)
    counts: dict[str, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    scoring: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    contents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)
    waiting: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    images: int = 0
    passes: int = 0
    differs: str = ""

    def merge(self, other: PackedCounts) -> None:
        self.differs = self.differs or other.differs
        if self.differs:
            return
        for mine, theirs in ((self.boards, other.boards), (self.counts, other.counts)):
            for name, packed in theirs.items():
                both = unpacked(mine[name])
                both.merge(unpacked(packed))
                mine[name] = in_bytes(both)
        add_numbers(self, other)
        self.spent |= other.spent
        self.images += other.images
        self.passes += other.passes


def add_numbers(mine: PackedCounts | Counted, added: PackedCounts) -> None:
    """Add what is no histogram."""
    for name in ("seconds", "scoring", "waiting", "pixels"):
        before = getattr(mine, name)
        setattr(mine, name, {key: before[key] + value for key, value in getattr(added, name).items()})
    mine.failed = {id: why for id, why in mine.failed.items() if id not in added.contents} | added.failed
    mine.contents |= added.contents


def in_bytes(board: Scoreboard | ImageCounts) -> bytes:
    return zlib.compress(pickle.dumps(board, protocol=5), FASTEST)


def unpacked(packed: bytes) -> Any:
    return pickle.loads(zlib.decompress(packed))


class Counted:
    """A scoreboard for each read-out, the seconds they took, and the images that failed.

    counts: of every image, for thresholds with a guarantee, by read-out; empty where nobody will ask for them
    contents: of each image that is counted, `contents_of`; pixels: of their label maps, "all", "void", and those where
    annotators "differ". further: boards against further annotators; annotators: how many of these there are
    waiting: seconds of the thread that the network runs in, by what it did
    torn: an image, or a part from elsewhere, has been counted in some places only, which no saved state may hold
    groups: id to group, of the images to count; None: each is counted by itself
    """

    torn = False
    groups: Mapping[str, str] | None = None

    def __init__(
        self, boards: Mapping[str, Scoreboard], counts: Mapping[str, ImageCounts] | None = None, annotators: int = 0
    ) -> None:
        self.boards = dict(boards)
        self.further = further_boards(self.boards, annotators)
        self.counts = dict(counts or {})
        self._forget()

    def _forget(self) -> None:
        self.seconds = dict.fromkeys(self.boards, 0.0)
        self.scoring = dict.fromkeys(self.boards, 0.0)
        self.failed: dict[str, str] = {}
        self.contents: dict[str, tuple[str, ...]] = {}
        self.pixels = {"all": 0, "void": 0, "differ": 0}
        self.waiting = {"waiting_for_images": 0.0, "network": 0.0, "waiting_for_scores": 0.0}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """A block that counts something in several places; one that is interrupted leaves all of it torn."""
        before, self.torn = self.torn, True
        yield
        self.torn = before  # what another block left torn stays so

    @property
    def done(self) -> frozenset[str]:
        """Ids of the images that are counted."""
        return frozenset(str(row["id"]) for row in next(iter(self.boards.values())).per_image())

    def changed(self, sources: Sequence[Source]) -> list[str]:
        """Ids of counted images that are none of these now, whose files hold something else, or of another group."""
        now, groups = {source.id: source for source in sources}, next(iter(self.boards.values())).groups
        return [
            id
            for id in sorted(self.done)
            if id not in now
            or contents_of(now[id]) != self.contents.get(id)
            or groups.get(id) != (self.groups or {}).get(id)
        ]

    def save(self, path: Path) -> None:
        """Everything that is counted, in one file that appears whole or not at all; nothing where it is torn."""
        if self.torn:
            return
        progress = {
            "seconds": self.seconds,
            "scoring": self.scoring,
            "failed": self.failed,
            "pixels": self.pixels,
            "contents": self.contents,
        }
        arrays: dict[str, NDArray[Any]] = {"progress": np.array(json.dumps(progress))}
        for name, board in (self.boards | self.further).items():
            arrays |= {f"{name}|{key}": value for key, value in board.state().items()}
        for name, counts in self.counts.items():
            arrays |= {f"{name}|{COUNTS}{key}": value for key, value in counts.state().items()}
        with fresh(path) as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    def load(self, path: Path) -> None:
        """Go on from a saved state. Errors: WrongUse where it is damaged or of other read-outs."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                progress = json.loads(str(archive["progress"]))
                states: dict[str, dict[str, NDArray[Any]]] = {}
                for key in archive.files:
                    name, bar, part = key.rpartition("|")  # a bank's name may hold one
                    if bar:
                        states.setdefault(name, {})[part] = archive[key]
        except ARRAY_ERRORS as error:
            raise WrongUse(f"{str(path)!r} does not read as a saved state: {error}. Remove it to begin anew.") from None
        boards = {name: Scoreboard.of(state) for name, state in states.items()}
        if any(f"{COUNTS}ids" not in states.get(name, {}) for name in self.counts):
            raise WrongUse(f"{str(path)!r} lacks the counts of each image. Remove it to score all images anew.")
        asked = self.boards | self.further
        if {name: board.plan for name, board in boards.items()} != {name: board.plan for name, board in asked.items()}:
            raise WrongUse(f"{str(path)!r} was made for other methods or measures; choose another folder.")
        self.boards, self.further = ({name: boards[name] for name in some} for some in (self.boards, self.further))
        for name, counts in self.counts.items():
            kept = {key.removeprefix(COUNTS): part for key, part in states[name].items() if key.startswith(COUNTS)}
            self.counts[name] = ImageCounts.of(counts.plan, kept)
        self.seconds, self.scoring, self.failed = (
            dict(progress["seconds"]),
            dict(progress["scoring"]),
            dict(progress["failed"]),
        )
        self.contents = {name: tuple(sums) for name, sums in progress["contents"].items()}
        self.pixels = dict(progress["pixels"])

    def packed(self) -> PackedCounts:
        """All that is counted, for another process; then nothing is."""
        boards = self.boards | self.further
        packed = PackedCounts(
            {name: in_bytes(board) for name, board in boards.items()},
            {name: in_bytes(counts) for name, counts in self.counts.items()},
            self.seconds,
            self.scoring,
            self.failed,
            self.contents,
            self.pixels,
            self.waiting,
        )
        for board in boards.values():
            board.reset()
        self.counts = {name: ImageCounts(counts.plan) for name, counts in self.counts.items()}
        self._forget()
        return packed

    def add(self, packed: PackedCounts) -> None:
        """Add what was counted of other images: the same bits as one run over all."""
        for name, board in (self.boards | self.further).items():
            board.merge(unpacked(packed.boards[name]))
        for name, counts in self.counts.items():
            counts.merge(unpacked(packed.counts[name]))
        add_numbers(self, packed)
