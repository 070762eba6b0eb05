"""A network, a bank and a folder of images to a RUN folder: `segment predict`."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.identity import fitted
from segment.errors import WrongUse, near
from segment.estimation.estimate import Estimate, ReadOut
from segment.estimation.estimator import EstimatePlan, Estimator, Tiling
from segment.estimation.mcbn import Draws, resolve_draws, resolve_precision
from segment.estimation.memory_budget import MemoryBudget, memory_budget, resident
from segment.files.runs import MANIFEST, RECORD, Entry, Run
from segment.files.versions import versions
from segment.files.windows import Windowed
from segment.images.find import Source, find_images, in_text
from segment.images.read import size_in
from segment.jobs.predict_images import LARGE, ImagePredictor
from segment.jobs.progress import Progress, silent
from segment.methods.mcbn import mcbn
from segment.networks.load import Network
from segment.passes.passes import PassPlan
from segment.report.image_files import FORMATS, PictureStyle, on_sheet, sheet
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.stopping import StopPlan

log = logging.getLogger(__name__)

MAPS = ("prediction", "variance", "predictive_entropy", "mutual_information")
"""Written by default."""

FREE = "memory_free"
"""Key of a run's plan: the bytes that could be taken, where they decided something."""


@dataclass(frozen=True, kw_only=True)
class PredictPlan:
    """What to predict with and what to write.

    draws: the first N of the bank; "auto": as many as each image needs for a standard error of `tolerance`; None: all
    precision: "auto", "fp32", "bf16" or "fp16"
    maps: measures, "prediction" and "probability" (npz only); heat: the measure shown; heat_max: its last colour
    formats: of "png", "npz"; fold: draws in one pass
    tile: "auto": images that do not fit in memory go through in overlapping tiles; "off": never; N: tiles of N x N
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free
    """

    draws: Draws = None
    tolerance: float = StopPlan.tolerance
    precision: str = "auto"
    maps: tuple[str, ...] = MAPS
    heat: str = "predictive_entropy"
    heat_max: float | None = None
    formats: tuple[str, ...] = FORMATS
    fold: int = 1
    tile: Tiling = "auto"
    memory: int | str | None = None

    def __post_init__(self) -> None:
        StopPlan(tolerance=self.tolerance)  # refuses what is out of range
        known = (*MEASURES, "prediction", "probability")
        for name in (*self.maps, self.heat):
            if name not in known:
                raise WrongUse(f"No map is called {name!r}.{near(name, known)} Known: {', '.join(known)}.")
        if self.heat not in MEASURES:
            raise WrongUse(f"--heat shows a measure, not {self.heat!r}. Known: {', '.join(MEASURES)}.")
        for name in self.formats:
            if name not in FORMATS:
                raise WrongUse(f"No format is called {name!r}.{near(name, FORMATS)} Known: {', '.join(FORMATS)}.")
        if not self.formats:
            raise WrongUse(f"No format is named, so nothing would be written. Known: {', '.join(FORMATS)}.")
        if self.heat_max is not None and not 0 < self.heat_max < math.inf:
            raise WrongUse(f"--heat-max is a number above 0, the value of the last colour, not {self.heat_max}.")
        if "probability" in self.maps and "npz" not in self.formats:
            raise WrongUse("probability is written to maps.npz only; add npz to --format.")
        if self.tile not in ("auto", "off") and not (isinstance(self.tile, int) and self.tile > 0):
            raise WrongUse(f"--tile is auto, off or a number of pixels from 1 up, not {self.tile}.")

    @property
    def measures(self) -> tuple[str, ...]:
        """Those that are computed: asked for as maps, or shown."""
        return tuple(dict.fromkeys([*(name for name in self.maps if name in MEASURES), self.heat]))


@dataclass(frozen=True)
class Summary:
    """How a run ended: its folder, images done and failed (id -> why), seconds, draws at most and on average."""

    folder: Path
    done: int
    failed: Mapping[str, str]
    seconds: float
    precision: str
    draws: int
    mean_draws: float


def predict(
    network: Network,
    source: str | Path | Sequence[Source],
    bank: Bank,
    folder: str | Path,
    plan: PredictPlan | None = None,
    *,
    resume: bool = False,
    progress: Progress = silent,
) -> Summary:
    """Mask, maps and pictures of every image into RUN; one that fails is named in the manifest and the others go on.

    Errors: BankRefused where the bank is not this network's; WrongUse for the folder or the source.
    """
    plan = plan or PredictPlan()
    drawn = fitted(network, bank)
    used_bank, stop = resolve_draws(plan.draws, bank, StopPlan(tolerance=plan.tolerance))
    sources = _images_of(source) if isinstance(source, str | Path) else tuple(source)
    precision, why = resolve_precision(plan.precision, bank, drawn.device)
    passes = PassPlan(fold=plan.fold, precision=precision, channels_last=True, fuse=True)
    network.accept.check_files()
    run = Run.create(Path(folder), _settings(network, source, bank, plan), resume=resume)
    sources = run.keep_ids(sources)
    earlier = run.record.get("plan", {})  # of a run that goes on: the same plan gives the same bits
    if earlier:
        precision, why = resolve_precision(earlier["precision"], bank, drawn.device)[0], earlier["precision_why"]
        passes = replace(passes, precision=precision)
    threads = earlier.get("threads", torch.get_num_threads())
    free = earlier[FREE] if FREE in earlier else memory_budget(plan.memory, drawn.device).free
    held = 0 if plan.memory is None else resident()
    method = mcbn(drawn, used_bank, passes, network.card.input)
    likely = "probability" in plan.maps or network.card.head == "multilabel"  # whose pictures show the likeliest label
    estimator = Estimator(
        network,
        {"": ReadOut(method=method, measures=plan.measures, probability=likely)},
        EstimatePlan(
            tile=earlier.get("tile", plan.tile),
            budget=MemoryBudget(free, held),
            blank=partial(Windowed, run.folder),
            stop=stop,
        ),
    )
    plan_record = {
        "draws": len(used_bank),
        "precision": precision,
        "precision_why": why,
        "fold": plan.fold,
        "images": 1,
        "tile": estimator.plan.tile,
        "threads": threads,
        "device": str(drawn.device),
    }
    if stop is not None:
        plan_record["stop"] = asdict(stop)
    if FREE in earlier or plan.memory is not None:
        plan_record[FREE] = free
    run.note(
        plan=plan_record,
        fingerprints={"network": network.fingerprint, "bank": bank_fingerprint(bank)},
        versions=versions(),
        classes=list(network.card.classes),
    )
    for part in run.folder.rglob(".*.part"):  # what a kill left half-written
        part.unlink(missing_ok=True)
    style = PictureStyle.of(network, plan.heat, plan.heat_max)
    predictor = ImagePredictor(run, network, estimator, style, plan.maps, plan.formats)
    if "png" in plan.formats:
        predictor.thumbnails.update({source.id: {} for source in on_sheet(sources)})
    start = time.perf_counter()
    with _torch_threads(threads):
        count, draws = _predict_all(predictor, sources, plan_record, free, progress)
    seconds = time.perf_counter() - start
    # less than planned, where a device ran out of memory
    run.note(plan=plan_record | {"tile": estimator.plan.tile, "fold": method.passes.plan.fold})
    run.note(timings={"seconds": round(seconds, 3), "images": count, "draws": draws})
    if "png" in plan.formats:
        sheet(run, sources, style, network, {id: kept for id, kept in predictor.thumbnails.items() if kept})
    return _summary(run, sources, seconds, precision, len(used_bank))


def _predict_all(
    predictor: ImagePredictor, sources: Sequence[Source], plan_record: dict[str, Any], free: int, progress: Progress
) -> tuple[int, int]:
    """Every image that is not done, written while the next is estimated; how many there were, and their draws."""
    run, estimator = predictor.run, predictor.estimator
    pending = run.pending(sources)
    before, draws = len(sources) - len(pending), 0
    sizes = {source.id: size for source in pending if (size := size_in(source.path))}
    if sizes:  # now what would be refused after hours
        estimator.side_for(*max(sizes.values(), key=math.prod))
    progress("predicting", before, len(sources))
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        writing: deque[Future[Entry]] = deque()
        finished: list[Source] = []
        try:
            for number, image in enumerate(predictor.read(pending, sizes, reader), start=1):
                source = image.source
                begun = time.perf_counter()
                estimate = predictor.estimate(image)
                seconds = time.perf_counter() - begun
                if isinstance(estimate, Estimate):
                    draws += estimate.draws
                if estimator.planned and FREE not in plan_record:  # only where it decided something
                    plan_record[FREE] = free
                    run.note(plan=plan_record)
                if estimator.to_redo:
                    _add_entries(run, writing)
                    writing.clear()
                    predictor.redo(finished[-estimator.to_redo :])
                finished.append(source)
                writing.append(writer.submit(predictor.write, image, estimate, seconds))
                waiting = 0 if source.id in sizes and math.prod(sizes[source.id]) > LARGE else 2
                del image, estimate
                while len(writing) > waiting or (writing and writing[0].done()):
                    run.add(writing.popleft().result())
                progress("predicting", before + number, len(sources), draws)
        finally:  # after Ctrl-C too: what is whole gets its line
            _add_entries(run, writing)
    return len(pending), draws


def _summary(run: Run, sources: Sequence[Source], seconds: float, precision: str, most: int) -> Summary:
    entries = run.entries()
    failed = {
        source.id: str(entries[source.id]["error"]) for source in sources if entries[source.id]["status"] == "failed"
    }
    draws = [entries[source.id]["draws"] for source in sources if source.id not in failed]
    mean = sum(draws) / len(draws) if draws else 0.0
    return Summary(run.folder, len(sources) - len(failed), failed, seconds, precision, most, mean)


def _add_entries(run: Run, writing: Collection[Future[Entry]]) -> None:
    """A line for every image that is whole, also behind one that could not be written; that refusal comes last."""
    first_error: Exception | None = None
    for future in writing:
        try:
            run.add(future.result())
        except Exception as error:  # of a full disk, the first is raised
            first_error = first_error or error
    if first_error is not None:
        raise first_error


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _images_of(source: str | Path) -> tuple[Source, ...]:
    """The images of a SRC, less the pictures of runs in a folder's sub-folders, as `predict MODEL . -o run` makes.

    Errors: WrongUse where nothing is left.
    """
    sources, top = find_images(source), Path(source)
    if not top.is_dir():
        return sources
    below = {folder for image in sources for folder in image.path.parents if top in folder.parents}
    runs = {folder for folder in below if (folder / MANIFEST).is_file() and (folder / RECORD).is_file()}
    kept = tuple(image for image in sources if runs.isdisjoint(image.path.parents))
    if len(kept) < len(sources):
        log.warning("%d pictures of runs below %r are left out.", len(sources) - len(kept), str(source))
    if not kept:
        raise WrongUse(f"{str(source)!r} holds the pictures of runs and no other image. Give a folder of images.")
    return kept


def _settings(network: Network, source: Any, bank: Bank, plan: PredictPlan) -> dict[str, Any]:
    card = network.card.settings()
    if "png" not in plan.formats:
        del card["palette"]  # no file shows it
    return {
        "model": network.name,
        "card": card,
        "source": in_text(source) if isinstance(source, str | Path) else f"{len(source)} images",
        "bank": bank_fingerprint(bank),
        "draws": plan.draws,
        "tolerance": plan.tolerance if plan.draws == "auto" else None,
        "precision": plan.precision,
        "maps": list(plan.maps),
        "heat": plan.heat,
        "heat_max": plan.heat_max,
        "formats": list(plan.formats),
        "fold": plan.fold,
        "tile": plan.tile,
    }
