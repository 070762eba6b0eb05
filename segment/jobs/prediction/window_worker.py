"""Estimates groups of a large raster's windows in one process, then puts the image together.

An image has the bytes that it has in one piece of work: its tiles are the same ones, and what is summed over them is
summed in their order. Must not know which process it is in.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from segment.axes import Plane
from segment.estimation.estimate import Estimate
from segment.estimation.estimator import Estimator
from segment.estimation.failures import estimates_or_reasons
from segment.estimation.tiling.assembly import window_text
from segment.estimation.tiling.groups import TileGroup
from segment.estimation.tiling.tiles import Cut
from segment.files.runs.window_groups import GroupFiles
from segment.files.writing import unwritable
from segment.images.find import Source
from segment.images.prepare import Normalised
from segment.images.windowed import windowed
from segment.jobs.prediction.images import CHANGED, failed
from segment.jobs.prediction.loop import PredictLoop, PredictPart

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedRaster:
    """A large raster whose windows are shared out.

    size: H, W. plan: what its files say of it: the SHA-256 of its bytes, its version on a store, its groups, and the
    draws of the round
    """

    source: Source
    size: tuple[int, int]
    cut: Cut
    plan: Mapping[str, Any] = field(hash=False)

    @property
    def content(self) -> tuple[str, str, str]:
        """SHA-256 of its bytes, its version on a store, SHA-256 of the files that belong to it."""
        return str(self.plan["sha256"]), str(self.plan["version"]), str(self.plan["beside_sha256"])

    @cached_property
    def groups(self) -> tuple[TileGroup, ...]:
        return tuple(TileGroup((top, bottom), (left, right)) for top, bottom, left, right in self.plan["groups"])


@dataclass(frozen=True)
class Unit:
    """A group of a raster's windows, by its number, in a round of `draws` draws (None: of all).

    number: None: all groups are there, and the image is put together from them
    """

    raster: SharedRaster
    draws: int | None
    number: int | None


@dataclass
class WindowPart:
    """What a worker elsewhere has done: images, and why groups failed, by image and number."""

    images: PredictPart
    failed: dict[tuple[str, int], str] = field(default_factory=dict)

    def merge(self, other: WindowPart) -> None:
        self.images.merge(other.images)
        self.failed |= other.failed


class WindowLoop:
    """Called with units, estimates groups of windows into files of their own, and puts images together from these.

    loop: what makes other images in the same process. failed: why groups have failed, by image and number
    """

    units_per_call = 1

    def __init__(self, loop: PredictLoop) -> None:
        self.loop = loop
        self.failed: dict[tuple[str, int], str] = {}
        self._done: list[Unit] = []
        self.estimator.planned |= loop.execution.budget_recorded

    @property
    def estimator(self) -> Estimator:
        return self.loop.predictor.estimator

    def files(self, raster: SharedRaster) -> GroupFiles:
        return GroupFiles(self.loop.predictor.run.place, raster.source.id)

    def __call__(self, units: Sequence[Unit]) -> None:
        """Do them. Errors: WrongUse where files cannot be written; OutOfMemory."""
        for unit in units:
            try:
                if unit.number is None:
                    self._put_together(unit)
                elif not self.files(unit.raster).has(unit.number, unit.draws):  # a process that ended has done it
                    self._estimate(unit, unit.number)
            except OSError as error:  # of the files that hold maps
                raise unwritable(self.loop.predictor.run.folder, error) from error
            self.loop.keep_plan()
            if count := self.estimator.to_redo:
                self._redo(self._done[-count:])
            self._done.append(unit)

    def _estimate(self, unit: Unit, number: int) -> None:
        raster, spec = unit.raster, self.loop.predictor.network.input

        def make(rasters: Sequence[SharedRaster]) -> list[int]:
            image = Normalised(windowed(raster.source.path, spec), spec)
            group = raster.groups[number]
            made = self.estimator.group(image, raster.cut, group, unit.draws, raster.source.id)
            self.files(raster).write(number, unit.draws, made)
            return [number]

        self.loop.spent.start()
        (made,) = estimates_or_reasons([raster], make)
        self.loop.spent.end("network")
        if isinstance(made, str):
            self.failed[raster.source.id, number] = made
        else:
            log.info("%s: group %d of %d is estimated.", raster.source.id, number + 1, len(raster.groups))

    def _put_together(self, unit: Unit) -> None:
        raster, predictor, begun = unit.raster, self.loop.predictor, time.perf_counter()
        self.loop.spent.start()
        windows = [group.window(raster.cut, raster.size) for group in raster.groups]
        image = predictor.read(raster.source)

        def make(rasters: Sequence[SharedRaster]) -> list[Estimate[Plane]]:
            pixels = Normalised(image.pixels, predictor.network.input)
            blank = self.estimator.plan.blank
            assert blank is not None, "the maps of a run are in files"
            tiles = self.files(raster).joined(windows, unit.draws, raster.size, blank)
            made = self.estimator.put_together(pixels, raster.cut, tiles, unit.draws, raster.source.id)
            return [made[""].arrays(predictor.network.classes)]

        self.loop.sizes[raster.source.id] = raster.size
        estimate: Estimate[Plane] | str
        if image.error:
            estimate = image.error
        elif (image.sha256, image.version, image.beside_sha256) != raster.content:
            estimate = CHANGED
        else:
            (estimate,) = estimates_or_reasons([raster], make)
        seconds = time.perf_counter() - begun + (0.0 if isinstance(estimate, str) else estimate.seconds)
        written = predictor.write(image, estimate, seconds)
        predictor.add(written)
        self.loop.count(estimate)
        self.loop.spent.end("waiting_for_files")
        if written.entry.status == "done":
            self.files(raster).forget()

    def _redo(self, units: Sequence[Unit]) -> None:
        """Estimate again what a wrong fast path may have changed."""
        whole = {unit.raster.source.id: unit.raster.source for unit in units if self.files(unit.raster).plan() is None}
        groups = [unit for unit in units if unit.raster.source.id not in whole]
        self.loop.predictor.redo([*whole.values()])
        for unit in groups:
            if unit.number is not None:
                self._estimate(unit, unit.number)

    def why(self, raster: SharedRaster) -> str:
        """Why the first of a raster's groups has failed; "" where none has."""
        failed = {number: why for (id, number), why in self.failed.items() if id == raster.source.id}
        return failed[min(failed)] if failed else ""

    def fail(self, raster: SharedRaster, why: str) -> None:
        """The line of a raster that has failed. What is estimated of it stays for --resume."""
        self.loop.predictor.add(failed(raster.source, why, raster.content[0]))
        self.loop.count(why)

    def factory(self, units: Sequence[Unit]) -> Callable[[], WindowLoop]:
        return partial(_start_in_process, self.loop.factory(()))

    def take_part(self) -> WindowPart:
        part, self.failed = WindowPart(self.loop.take_part(), self.failed), {}
        return part

    def merge(self, part: WindowPart) -> None:
        self.loop.merge(part.images)
        self.failed |= part.failed

    def count_failed(self, unit: Unit, why: str) -> None:
        raster = unit.raster
        if unit.number is None:
            self.loop.count_failed(raster.source, why)
            return
        place = window_text(*raster.groups[unit.number].window(raster.cut, raster.size))
        self.failed[raster.source.id, unit.number] = f"{raster.size[0]} x {raster.size[1]} image: {why}, {place}"


def _start_in_process(make: Callable[[], PredictLoop]) -> WindowLoop:
    return WindowLoop(make())
