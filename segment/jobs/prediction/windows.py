"""The images of a run by the workers of a runner: one by one, and large rasters by their windows.

Must not know where the workers are.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from segment.errors import ImageUnreadable
from segment.estimation.memory_budget import bytes_text
from segment.estimation.tiling.groups import split
from segment.files.runs.places import WINDOWS
from segment.files.runs.window_groups import GroupFiles, forget_others
from segment.files.versions import versions
from segment.images.contents.hashes import content_of, sha256_of_beside
from segment.images.find import Source
from segment.images.read import is_large, read_source
from segment.images.windowed import windowed
from segment.jobs.prediction.loop import PredictLoop
from segment.jobs.prediction.window_worker import SharedRaster, Unit, WindowLoop
from segment.runners.runner import Runner
from segment.stores.urls import is_url
from segment.uncertainty.class_indices import mask_type

log = logging.getLogger(__name__)

DISK = 0.25
"""Share of the free disk that may hold windows before the next images are begun."""


def predict_images(loop: PredictLoop, pending: Sequence[Source], runner: Runner) -> None:
    """Have the images made by the workers of a runner: one by one, and large rasters by their windows.

    A raster that an earlier run began by windows is continued by windows.
    Errors: as the loop's.
    """
    pending = loop.begin(pending)
    rasters = {raster.source.id: raster for raster in _shared_out(loop, pending, runner.workers)}
    forget_others(loop.predictor.run.place, rasters)
    others = [source for source in pending if source.id not in rasters]
    if others or not rasters:
        runner(loop, others)
    for some in _at_a_time(loop, [*rasters.values()]):
        worker = WindowLoop(loop)
        ready = _estimated(worker, some, runner)
        if len(ready) > 1:
            runner(worker, ready)
        else:  # no process is started for one
            worker(ready)


def _shared_out(loop: PredictLoop, pending: Sequence[Source], workers: int) -> Iterator[SharedRaster]:
    """Large rasters whose windows several workers make, or have made in part."""
    predictor = loop.predictor
    place, spec = predictor.run.place, predictor.network.input
    if workers == 1 and not (is_url(place) or (place / WINDOWS).is_dir()):
        return
    for source in pending:
        if not is_large(source, spec) or not (workers > 1 or GroupFiles(place, source.id).begun):
            continue
        try:
            image = windowed(source.path, spec)
            if source.mask is not None:  # one that does not fit is found out now
                read_source(source, spec)
        except (ImageUnreadable, OSError, MemoryError):
            continue  # it fails as any other image does
        size = image.shape[:2]
        side = predictor.estimator.side_for(*size, in_memory=False)
        loop.keep_plan()
        if side is not None:
            tiler = predictor.estimator.tiler
            tiler.warn_of_sides(*size, tiler.cut(side, predictor.estimator.plan.mode))
            yield _raster(loop, source, size, side, workers)


def _raster(loop: PredictLoop, source: Source, size: tuple[int, int], side: int, workers: int) -> SharedRaster:
    """A raster with the groups that an earlier run has begun, if it is still cut as it was."""
    estimator, files = loop.predictor.estimator, GroupFiles(loop.predictor.run.place, source.id)
    sha256, version = content_of(source)
    cut = estimator.tiler.cut(side, estimator.plan.mode)
    content = {"sha256": sha256, "version": version, "beside_sha256": sha256_of_beside(source.path, source.mask)}
    asked = {**content, "size": list(size), "cut": asdict(cut), "versions": versions()}
    earlier = {"beside_sha256": "", **(files.plan() or {})}
    if any(earlier.get(key) != value for key, value in asked.items()):
        files.forget()
        spans = [[*group.rows, *group.columns] for group in split(cut, size, workers)]
        earlier = {**asked, "groups": spans, "draws": estimator.rounds()[0]}
    return SharedRaster(source, size, cut, earlier)


def _at_a_time(loop: PredictLoop, rasters: Sequence[SharedRaster]) -> Iterator[list[SharedRaster]]:
    """The rasters in order, in groups that may take room on the disk before they are put together."""
    folder, some, taken = loop.predictor.run.folder, list[SharedRaster](), 0
    for raster in rasters:
        free, needed = shutil.disk_usage(folder).free, _bytes(loop, raster.size)
        if some and taken + needed > free * DISK:
            yield some
            some, taken = [], 0
        level, short = (logging.WARNING, f", which has {bytes_text(free)}") if needed > free else (logging.INFO, "")
        message = "%s: %d groups of windows; what is estimated of them takes %s in %s until the image is whole%s."
        log.log(level, message, raster.source.id, len(raster.groups), bytes_text(needed), folder / WINDOWS, short)
        some.append(raster)
        taken += needed
    if some:
        yield some


def _estimated(worker: WindowLoop, rasters: Sequence[SharedRaster], runner: Runner) -> list[Unit]:
    """Have all groups of some rasters estimated, in as many rounds as their draws need; the units that are left."""
    rounds, ready = worker.estimator.rounds(), list[Unit]()
    at = {raster: rounds.index(raster.plan["draws"]) for raster in rasters}
    while at:
        units = list[Unit]()
        for raster, place in at.items():
            files, draws = worker.files(raster), rounds[place]
            files.begin({**raster.plan, "draws": draws})
            for earlier in rounds[:place]:
                files.forget_round(earlier or 0)
            units += [Unit(raster, draws, number) for number in files.left(len(raster.groups), draws)]
        runner(worker, units)
        for raster, place in [*at.items()]:
            files, draws = worker.files(raster), rounds[place]
            if why := worker.why(raster):
                worker.fail(raster, why)
            elif draws == rounds[-1] or worker.estimator.enough(files.errors(len(raster.groups), draws or 0)):
                ready.append(Unit(raster, draws, None))
            else:
                at[raster] += 1
                continue
            del at[raster]
    return ready


def _bytes(loop: PredictLoop, size: tuple[int, int]) -> int:
    """Bytes on the disk of what is estimated of an image."""
    network, (read_out,) = loop.predictor.network, loop.predictor.estimator.read_outs.values()
    labels = network.classes if network.card.head == "multilabel" else 1
    values = len(read_out.measures) + network.classes * read_out.probability
    return size[0] * size[1] * (labels * mask_type(network.classes).itemsize + 4 * values)
