"""A network, a bank and a folder of images to a RUN folder: `segment predict`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.identity import network_of_bank
from segment.errors import ImageUnreadable, WrongUse
from segment.estimation.colour_scales import scales_of
from segment.files.banks.bank_file import bank_of
from segment.files.runs.places import LISTED
from segment.files.runs.run import Run
from segment.files.versions import versions
from segment.images.display import Display, display_of
from segment.images.find import Source, in_text, with_unique_ids
from segment.images.labels.pairs import with_known_labels, with_label_parts, with_masks
from segment.images.listing.lists import LIST_SUFFIXES
from segment.images.listing.parts import Listing
from segment.images.outside_runs import images_outside_runs, refuse_output_in_images
from segment.images.read import few_pixels
from segment.images.specs import Channels
from segment.jobs.prediction.loop import PredictLoop
from segment.jobs.prediction.plan import Execution, PredictPlan
from segment.jobs.prediction.recipe import PredictRecipe
from segment.jobs.prediction.summary import Summary, summary_of
from segment.jobs.prediction.watch import WatchPlan, watched
from segment.jobs.prediction.windows import predict_images
from segment.jobs.progress import Progress, silent
from segment.jobs.triage.predicting import refuse_other_run, write_triaged_run
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.report.run_files.exported_files import write_run_exports
from segment.report.run_files.sheet import write_sheet
from segment.report.run_files.style import PictureStyle
from segment.runners.process import torch_threads
from segment.runners.runner import LOCAL, Runner
from segment.stores.urls import is_url

log = logging.getLogger(__name__)

DISPLAY_IMAGES = 4
"""Images that the stretch of a run's pictures is taken from."""


def predict(
    network: Network | nn.Module | str | Path,
    source: str | Path | Sequence[Source | str | Path],
    bank: Bank | str | Path,
    folder: str | Path,
    plan: PredictPlan | None = None,
    *,
    masks: str | Path | None = None,
    labels: str | Path | None = None,
    label_suffix: str = "",
    listing: Listing | None = None,
    watch: WatchPlan | None = None,
    resume: bool = False,
    progress: Progress = silent,
    runner: Runner = LOCAL,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
) -> Summary:
    """Mask, maps and pictures of every image into RUN; one that fails is named in the manifest and the others go on.

    network: what `load_network` gave, a URI, a card, or any torch module with BN. bank: its bank, or the file of it
    source: a folder, glob, list or file, or several of these, or what `find_images` gave
    masks: a SRC of region masks: outside (0) nothing is shown, counted or written
    labels: a SRC of label maps, shown beside predictions; label_suffix: what they have after the image's name
    listing: which frames of videos and slices of volumes are taken
    watch: `source` is a folder whose images are taken as they are dropped, until a file `stop.watch` in RUN, SIGTERM or
    Ctrl-C ends that; a file that is replaced is done again
    runner: where the images are made: here, or in processes that may be on other machines
    mean, std, channels: as `MCBN` takes them
    Errors: BankRefused where the bank is not this network's; WrongUse for the folder or the source.
    """
    network = network_of(network, mean=mean, std=std, channels=channels)
    bank = bank_of(bank)
    plan = plan or PredictPlan()
    for one in [source] if isinstance(source, str | Path) else source:
        if isinstance(one, str | Path):
            refuse_output_in_images(one, folder)
    if watch is not None:
        if masks is not None or labels is not None or not isinstance(source, str | Path):
            raise WrongUse("Only a folder is watched, and without --mask or --labels.")
        if is_url(folder):
            raise WrongUse(f"A watched folder's run lies here: give a folder in place of {in_text(folder)}.")
        images, source_text = tuple[Source, ...](), in_text(source)
    elif isinstance(source, str | Path):
        images, source_text = images_outside_runs(source, listing), in_text(source)
        if labels is None:
            images = _with_labels_of_list(images)
    else:
        images, source_text = _listed(source, listing), LISTED
    if labels is not None and network.card.head == "multilabel":
        raise WrongUse(
            "The sheet shows label maps of heads with one label a pixel, and this network's head is multi-label: leave "
            "--labels out. `segment evaluate --labels` scores it, with a folder of label maps for each label."
        )
    if labels is not None:
        images = with_known_labels(images, labels, label_suffix, listing)
    if masks is not None:
        images = with_masks(images, masks, listing)
        if plan.draws == "auto":
            log.warning(
                "--draws auto decides by all pixels of an image, also those beyond its region mask: within it the "
                "standard error may be larger than the tolerance. The map standard_error says it."
            )
    drawn = network_of_bank(network, bank)
    execution = Execution.of(plan, bank, drawn.device, runner)
    network.log_preprocessing()
    if plan.triage is not None:
        draws = len(execution.bank) if execution.stop is None else None
        refuse_other_run(
            plan.triage,
            network,
            bank,
            draws=draws,
            precision=execution.precision,
            tuned=plan.tuned,
            masked=masks is not None,
        )
    taken = listing or (Listing() if watch is None else watch.listing)
    settings = plan.settings(network, bank, source_text) | taken.settings()
    settings |= {} if masks is None else {"masks": in_text(masks)}
    palette = [list(colour) for colour in network.card.palette]
    same = {"draws": (None, len(bank)), "card.palette": (None, palette)}  # formats are named that show it or do not
    with Run.create(
        Path(folder), settings, images, resume=resume, same=same, networks=(network,), probe=bank.probe
    ) as run:
        execution = execution.as_begun(run.record.get("plan", {}))
        run.note(
            plan=execution.record(),
            fingerprints={"network": network.fingerprint, "bank": bank_fingerprint(bank)},
            versions=versions(),
            classes=list(network.class_names),
            preprocessing=network.input.sentence,
        )
        style = _style(run, network, bank, plan)
        recipe = PredictRecipe(network=network, plan=plan, execution=execution, style=style)
        predictor = recipe.predictor(run, drawn)
        loop = PredictLoop(predictor, recipe, progress, alone=watch is not None)
        start = time.perf_counter()
        # what ends a watch is no interruption: everything is whole, and the summary is written
        ends = nullcontext() if watch is None else suppress(KeyboardInterrupt)
        try:
            with torch_threads(execution.threads), ends:
                for pending in [run.pending()] if watch is None else watched(run, Path(str(source)), watch):
                    predictor.display = _display(run, network, plan)
                    predict_images(loop, pending, runner)
        finally:
            run.merge_shards()
        seconds = time.perf_counter() - start
        run.note(timings={"seconds": round(seconds, 3), **loop.timings()})
        if "png" in plan.formats:
            kept = predictor.candidates.thumbnails
            write_sheet(run, style, network, kept, plan.maps, predictor.picture, predictor.truth)
        in_order = not isinstance(source, str | Path) or Path(source).suffix.lower() in LIST_SUFFIXES
        run.note(files=write_run_exports(run, style, network, plan.formats, in_order=in_order))
        summary = summary_of(run, seconds, execution, plan.heat)
        return summary if plan.triage is None else replace(summary, triaged=write_triaged_run(run, plan.triage))


def _style(run: Run, network: Network, bank: Bank, plan: PredictPlan) -> PictureStyle:
    """The colours of the run: those of its record, so that a run that goes on keeps them, else the bank's."""
    earlier = {name: entry["high"] for name, entry in run.record.get("colours", {}).items()}
    kept = earlier or scales_of(bank.provenance)
    style = PictureStyle.of(network, plan.heat, plan.heat_max, measures=plan.shown, bank=kept)
    if "png" in plan.formats and not earlier:
        run.note(colours=style.record())
    return style


def _display(run: Run, network: Network, plan: PredictPlan) -> Display | None:
    """How bands become pictures in this run: as it began, else from some of its images, and noted in run.json."""
    if network.input.colours or "png" not in plan.formats:
        return None
    if "display" in run.record:
        return Display.of(run.record["display"])

    def pixels() -> Iterator[tuple[Any, Any]]:  # one image after the other
        for source in run.sources[:: max(1, len(run.sources) // DISPLAY_IMAGES)][:DISPLAY_IMAGES]:
            with suppress(ImageUnreadable):  # it fails in its turn
                yield few_pixels(source, network.input)

    display = display_of(pixels(), network.input)
    if display is not None:
        run.note(display=display.as_dict())
    return display


def _with_labels_of_list(images: Sequence[Source]) -> tuple[Source, ...]:
    """The images with the labels that a list names; without, where these do not fit: no prediction needs them."""
    try:
        return with_label_parts(images)
    except WrongUse as error:
        log.warning("The ground truth is not shown. %s", error)
        return tuple(replace(image, label=None) for image in images)


def _listed(images: Sequence[Source | str | Path], listing: Listing | None) -> tuple[Source, ...]:
    """Images that a caller names one by one. Errors: WrongUse for arrays, and where there is none."""
    sources: list[Source] = []
    for image in images:
        if isinstance(image, Source):
            sources.append(image)
        elif isinstance(image, str | Path):
            sources += images_outside_runs(image, listing)
        else:
            raise WrongUse(
                f"A run is made of image files, and this list holds a {type(image).__name__}: give paths, or call MCBN "
                "with arrays and tensors."
            )
    if not sources:
        raise WrongUse("There are no images: the list is empty.")
    return with_unique_ids(sources)
