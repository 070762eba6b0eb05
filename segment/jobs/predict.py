"""A network, a bank and a folder of images to a RUN folder: `segment predict`."""

from __future__ import annotations

import itertools
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

import cv2
import torch
from numpy.typing import NDArray

from segment.axes import Plane
from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.identity import fitted
from segment.errors import ImageUnreadable, PredictionFailed, WrongUse, error_message, near
from segment.estimation.estimate import Estimate, ReadOut
from segment.estimation.estimator import EstimatePlan, Estimator, Tiling
from segment.estimation.mcbn import Draws, resolve_draws, resolve_precision
from segment.estimation.memory_budget import MemoryBudget, memory_budget, resident
from segment.files.runs import MANIFEST, RECORD, Entry, Run
from segment.files.versions import versions
from segment.files.windows import Windowed
from segment.files.writing import unwritable
from segment.images.find import Source, find_images, in_text
from segment.images.prepare import Normalised
from segment.images.read import read_image, sha256_of, size_in
from segment.jobs.progress import Progress, silent
from segment.methods.mcbn import mcbn
from segment.networks.load import Network
from segment.passes.passes import PassPlan
from segment.pictures.palettes import Picture
from segment.report.image_files import FORMATS, PictureStyle, on_sheet, render, sheet, shown, thumbnails
from segment.uncertainty.measures import MEASURES
from segment.uncertainty.stopping import StopPlan

log = logging.getLogger(__name__)

MAPS = ("prediction", "variance", "predictive_entropy", "mutual_information")
"""Written by default."""

LARGE = 2**22
"""Pixels of an image above which it is written before the next one is computed: estimates of several take memory."""

Thumbnails = dict[str, dict[str, Picture]]
"""Image that is on the contact sheet -> column -> picture; empty until it is rendered."""

IMAGE_ERRORS = (
    ImageUnreadable,
    PredictionFailed,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    cv2.error,
)
"""What one image may run into (a network that does not take its size raises one of these); the others go on."""


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
    used, stop = resolve_draws(plan.draws, bank, StopPlan(tolerance=plan.tolerance))
    sources = _images_of(source) if isinstance(source, str | Path) else tuple(source)
    precision, why = resolve_precision(plan.precision, bank, drawn.device)
    passes = PassPlan(fold=plan.fold, precision=precision, channels_last=True, fuse=True)
    network.accept.check_files()
    settings = _settings(network, source, bank, plan)
    run = Run.create(Path(folder), settings, resume=resume)
    sources = run.keep_ids(sources)
    earlier = run.record.get("plan", {})  # of a run that goes on: the same plan gives the same bits
    if earlier:
        precision, _ = resolve_precision(earlier["precision"], bank, drawn.device)
        passes, why = replace(passes, precision=precision), earlier["precision_why"]
    threads = earlier.get("threads", torch.get_num_threads())
    free = earlier["room"] if "room" in earlier else memory_budget(plan.memory, drawn.device).free
    held = 0 if plan.memory is None else resident()
    method = mcbn(drawn, used, passes, network.card.input)
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
        "draws": len(used),
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
    if "room" in earlier or plan.memory is not None:
        plan_record["room"] = free
    run.note(
        plan=plan_record,
        fingerprints={"network": network.fingerprint, "bank": bank_fingerprint(bank)},
        versions=versions(),
        classes=list(network.card.classes),
    )
    style = PictureStyle.of(network, plan.heat, plan.heat_max)
    for part in run.folder.rglob(".*.part"):  # what a kill left half-written
        part.unlink(missing_ok=True)
    pending = run.pending(sources)
    kept: Thumbnails = {source.id: {} for source in on_sheet(sources) if "png" in plan.formats}
    before = len(sources) - len(pending)
    sizes = {item.id: size for item in pending if (size := size_in(item.path))}
    if sizes:  # now what would be refused after hours
        estimator.side_for(*max(sizes.values(), key=math.prod))
    start, draws = time.perf_counter(), 0
    progress("predicting", before, len(sources))
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer, _torch_threads(threads):
        writing: deque[Future[Entry]] = deque()
        finished: list[Source] = []
        try:
            for number, (item, image, sha256) in enumerate(_read(pending, sizes, network, reader), start=1):
                began = time.perf_counter()
                estimate = image if isinstance(image, str) else _estimate(network, estimator, image, run)
                seconds = time.perf_counter() - began
                if isinstance(estimate, Estimate):
                    draws += estimate.draws
                if estimator.planned and "room" not in plan_record:  # only where it decided something
                    plan_record["room"] = free
                    run.note(plan=plan_record)
                if estimator.to_redo:
                    _add_entries(run, writing)
                    writing.clear()
                    _redo_images(run, network, estimator, finished[-estimator.to_redo :], style, plan, kept)
                finished.append(item)
                writing.append(
                    writer.submit(_write_image, run, item, image, sha256, estimate, style, plan, seconds, kept)
                )
                waiting = 0 if item.id in sizes and math.prod(sizes[item.id]) > LARGE else 2
                del image, estimate
                while len(writing) > waiting or (writing and writing[0].done()):
                    run.add(writing.popleft().result())
                progress("predicting", before + number, len(sources), draws)
        finally:  # after Ctrl-C too: what is whole gets its line
            _add_entries(run, writing)
    seconds = time.perf_counter() - start
    entries = run.entries()
    run.note(
        plan=plan_record | {"tile": estimator.plan.tile, "fold": method.passes.plan.fold}
    )  # less, where a device ran out of memory
    run.note(timings={"seconds": round(seconds, 3), "images": len(pending), "draws": draws})
    if "png" in plan.formats:
        sheet(run, sources, style, network, {name: pictures for name, pictures in kept.items() if pictures})
    failed = {item.id: str(entries[item.id]["error"]) for item in sources if entries[item.id]["status"] == "failed"}
    drawn_of = [entries[item.id]["draws"] for item in sources if item.id not in failed]
    mean = sum(drawn_of) / len(drawn_of) if drawn_of else 0.0
    return Summary(run.folder, len(sources) - len(failed), failed, seconds, precision, len(used), mean)


def _add_entries(run: Run, writing: Collection[Future[Entry]]) -> None:
    """A line for every image that is whole, also behind one that could not be written; that refusal comes last."""
    first_error: Exception | None = None
    for future in writing:
        try:
            run.add(future.result())
        except Exception as error:  # of a full disk, the first is told
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
    below = {folder for source in sources for folder in source.path.parents if top in folder.parents}
    runs = {folder for folder in below if (folder / MANIFEST).is_file() and (folder / RECORD).is_file()}
    kept = tuple(source for source in sources if runs.isdisjoint(source.path.parents))
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


def _read(
    sources: Sequence[Source], sizes: Mapping[str, tuple[int, int]], network: Network, reader: ThreadPoolExecutor
) -> Iterator[tuple[Source, NDArray[Any] | str, str]]:
    """Decoded images with their SHA-256 in order; a refusal in words where one fails.

    One ahead of the network, but no large one: two of them take memory.
    """
    ahead: Future[tuple[NDArray[Any] | str, str]] | None = None
    for source, following in itertools.zip_longest(sources, sources[1:]):
        image, sha256 = _decoded(source, network) if ahead is None else ahead.result()
        ahead = None
        if following is not None and all(
            math.prod(sizes.get(image_source.id, ())) <= LARGE for image_source in (source, following)
        ):
            ahead = reader.submit(_decoded, following, network)
        yield source, image, sha256
        del image


def _decoded(source: Source, network: Network) -> tuple[NDArray[Any] | str, str]:
    sha256 = sha256_of(source.path)
    try:
        return read_image(source.path, white=network.card.input.white), sha256
    except (ImageUnreadable, OSError, MemoryError) as error:
        return error_message(error), sha256


def _estimate(network: Network, estimator: Estimator, image: NDArray[Any], run: Run) -> Estimate[Plane] | str:
    """The estimate of one image, or why there is none."""
    height, width = image.shape[:2]
    try:
        return estimator(Normalised(image, network.card.input))[""].arrays(network.classes)
    except OSError as error:  # of the files that hold its maps
        raise unwritable(run.folder, error) from error
    except IMAGE_ERRORS as error:
        return f"{height} x {width} image: {error_message(error)}"


def _redo_images(
    run: Run,
    network: Network,
    estimator: Estimator,
    sources: Sequence[Source],
    style: PictureStyle,
    plan: PredictPlan,
    kept: Thumbnails,
) -> None:
    """Write images again that a fast path has spoiled; until then their lines say that they failed, for a resume."""
    log.warning(
        "A fast way to make passes gave other numbers than plain passes (%s); plain ones are made from now on, and for "
        "the %d images before this one again.",
        estimator.why,
        len(sources),
    )
    estimator.to_redo = 0
    for source in sources:
        run.add(Entry(id=source.id, source=str(source.path), status="failed", error="to be made again"))
    for source in sources:
        began = time.perf_counter()
        image, sha256 = _decoded(source, network)
        estimate = image if isinstance(image, str) else _estimate(network, estimator, image, run)
        run.add(_write_image(run, source, image, sha256, estimate, style, plan, time.perf_counter() - began, kept))


def _write_image(
    run: Run,
    source: Source,
    image: NDArray[Any] | str,
    sha256: str,
    estimate: Estimate[Plane] | str,
    style: PictureStyle,
    plan: PredictPlan,
    seconds: float,
    kept: Thumbnails,
) -> Entry:
    where = str(source.path)
    if isinstance(estimate, str) or isinstance(image, str):
        log.warning("%s: %s", source.id, estimate)
        return Entry(id=source.id, source=where, sha256=sha256, status="failed", error=str(estimate), seconds=seconds)
    picture = shown(image)
    try:
        files, measures = render(run, source.id, picture, estimate, style, maps=plan.maps, formats=plan.formats)
        if source.id in kept:
            kept[source.id] = thumbnails(picture, estimate, style, plan.maps)
    except IMAGE_ERRORS as error:
        return _write_image(
            run, source, image, sha256, f"its pictures: {error_message(error)}", style, plan, seconds, kept
        )
    return Entry(
        id=source.id,
        source=where,
        sha256=sha256,
        files=files,
        seconds=round(seconds, 4),
        draws=estimate.draws,
        reached_error=estimate.reached_error,
        measures=measures,
        notes=dict(estimate.withheld),
    )
