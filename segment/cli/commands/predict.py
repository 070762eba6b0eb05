"""predict: options to a run over a folder of images, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app, end_with_failures
from segment.cli.next_steps import command_line
from segment.cli.options import (
    AUTO,
    AUTO_OR_OFF,
    EngineName,
    ImagesPerPass,
    Json,
    LabelSuffix,
    ListingOptions,
    Mask,
    Memory,
    Model,
    NetworkOptions,
    Out,
    TriageFile,
    TunedFolder,
    Workers,
    choice,
    listed,
    number_or,
    refuse_unused,
)
from segment.cli.running import PlaceOptions, runner_at, see_alone
from segment.errors import WrongUse, count_of
from segment.files.exports.formats import FORMATS
from segment.stores.urls import url_of


@app.command(epilog="Example: segment predict my_card.yaml IMAGES --bank bank.safetensors -o outputs/my_run")
def predict(
    model: Model,
    output: Out,
    source: Annotated[
        str, typer.Argument(metavar="[SRC]", help="Images: folder, glob, image or text list.", show_default=False)
    ] = "",
    watch: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="In place of SRC: images as they are dropped there, until a file RUN/stop.watch, Ctrl-C or SIGTERM.",
        ),
    ] = "",
    bank: Annotated[Path | None, typer.Option(help="Bank that `segment fit` recorded for this network.")] = None,
    tuned: TunedFolder = None,
    draws: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto", help="Take the first N draws of the bank; auto: as many as an image needs; default: all."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="With --draws auto: the Monte Carlo standard error of a probability at which it stops; default: 0.02."
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help="Precision of the passes: auto, fp32, bf16 or fp16.")] = "auto",
    maps: Annotated[
        str,
        typer.Option(
            help="Maps to write, with commas: prediction, probability or any measure; default: prediction, variance, "
            "predictive_entropy, mutual_information.",
            show_default=False,
        ),
    ] = "prediction,variance,predictive_entropy,mutual_information",
    heat: Annotated[str, typer.Option(help="Measure of overlay_uncertainty.png; the sheet is ordered by it.")] = (
        "predictive_entropy"
    ),
    heat_max: Annotated[
        float | None, typer.Option(help="With png: value of the last colour of its scale; one scale for the run.")
    ] = None,
    border: Annotated[
        int, typer.Option(help="Pixels at each side of an image where no uncertainty is shown or counted.")
    ] = 0,
    format: Annotated[
        str, typer.Option(help=f"Formats to write, with commas: {', '.join(FORMATS)} (docs/outputs.md).")
    ] = "png,npz",
    fold: Annotated[int, typer.Option(help="Draws in one pass.")] = 1,
    engine: EngineName = "torch",
    memory: Memory = None,
    tile: Annotated[
        str, typer.Option(help="auto: tiles where an image does not fit in memory; off; or N: tiles of N x N pixels.")
    ] = "auto",
    tile_mode: Annotated[
        str, typer.Option(help="exact, or blended: tiles overlap less and are mixed there; the difference is measured.")
    ] = "exact",
    batch: ImagesPerPass = "1",
    workers: Workers = 4,
    triage: TriageFile = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    mask: Mask = None,
    labels: Annotated[str | None, typer.Option(help="Label maps, shown beside the predictions in the sheet.")] = None,
    label_suffix: LabelSuffix = "",
    *,
    frames: ListingOptions,
    loading: NetworkOptions,
    place: PlaceOptions,
    json: Json = False,
) -> None:
    """Write mask, uncertainty maps, heat map and overlay of every image into a RUN folder."""
    from segment.files.banks.bank_file import load_bank
    from segment.files.runs.places import STOP
    from segment.files.triages import TRIAGED_TABLE, load_triage
    from segment.jobs.predict import predict
    from segment.jobs.prediction.plan import PredictPlan
    from segment.jobs.prediction.watch import WatchPlan
    from segment.jobs.tuning.tuned import read_tuned

    if bool(source) == bool(watch):
        raise WrongUse("Give either SRC, the images there are, or --watch FOLDER, where they will be dropped.")
    if (bank is None) == (tuned is None):
        raise WrongUse("Give either --bank, which `segment fit` records, or --tuned, which `segment tune` writes.")
    if draws != "auto":
        refuse_unused({"--tolerance": tolerance}, "--draws auto")
    if labels is None:
        refuse_unused({"--label-suffix": label_suffix}, "--labels")
    if tile == "off" and tile_mode != "exact":
        refuse_unused({"--tile-mode": tile_mode}, "--tile auto or N")
    if "png" not in listed(format):
        refuse_unused({"--heat-max": heat_max}, "--format png")
    where = place.work_place(engine)
    if watch and where.runner != "local":
        raise WrongUse("A folder is watched by --runner local: leave --runner out, or give SRC.")
    listing = frames.listing()
    setting = None if tuned is None else read_tuned(tuned)
    plan = PredictPlan(
        draws=None if draws is None else number_or("--draws", draws, AUTO, "draws"),
        tolerance=PredictPlan.tolerance if tolerance is None else tolerance,
        precision=precision,
        maps=listed(maps),
        heat=heat,
        heat_max=heat_max,
        border=border,
        formats=listed(format),
        fold=fold,
        engine=choice("--engine", engine, ("torch", "openvino")),
        tile=number_or("--tile", tile, AUTO_OR_OFF, "pixels from 1 up"),
        tile_mode=choice("--tile-mode", tile_mode, ("exact", "blended")),
        memory=memory,
        triage=None if triage is None else load_triage(triage),
        tuned=setting,
        batch=number_or("--batch", batch, AUTO, "images from 1 up"),
        workers=workers,
    )
    if watch and not json:
        screen.print_text(f"Watching {watch}. A file {url_of(output / STOP)}, Ctrl-C or SIGTERM ends that.")
    see_alone(where.gpus)
    network = loading.load(model, where.device)
    with (
        runner_at(where, network.device.type) as runner,
        screen.progress() as shown,
    ):
        used = setting.bank if setting is not None else load_bank(bank or Path())
        summary = predict(
            network,
            source or watch,
            used,
            output,
            plan,
            masks=mask,
            labels=labels,
            label_suffix=label_suffix,
            listing=listing,
            watch=WatchPlan(listing=listing) if watch else None,
            resume=resume,
            progress=shown,
            runner=runner,
        )
    if json:
        screen.as_json(
            {
                "run": url_of(summary.folder),
                "done": summary.done,
                "failed": dict(summary.failed),
                "draws": summary.draws,
                "precision": summary.precision,
                "seconds": round(summary.seconds, 2),
                **(
                    {"mean_draws": round(summary.mean_draws, 2), "missed_tolerance": summary.missed}
                    if plan.draws == "auto"
                    else {}
                ),
                **({} if summary.triaged is None else {"triaged": summary.triaged}),
            }
        )
    else:
        draws_text = f"{count_of(summary.draws, 'draw' if setting is None else 'pass')} each"
        if plan.draws == "auto":
            draws_text = f"{summary.mean_draws:.1f} of {summary.draws} draws on average"
        screen.print_text(
            f"{url_of(summary.folder)}: {summary.done} done, {len(summary.failed)} failed, {draws_text}, "
            f"{summary.precision}, {summary.seconds:.1f} s."
        )
        if summary.missed:
            images = "the image" if summary.done == 1 else f"{summary.missed} of {summary.done} images"
            screen.print_text(
                f"In {images} all {summary.draws} draws do not reach the tolerance of {plan.tolerance:g} "
                "(--tolerance); the manifest has the error that they reach."
            )
        if summary.uncertain:
            first = ", ".join(f"{name} {value:.3g}" for name, value in summary.uncertain.items())
            screen.print_text(f"Most uncertain, by mean {summary.heat}: {first}.")
        if summary.equal:
            screen.print_text(f"{summary.equal}.")
        if summary.tiling:
            screen.print_text(summary.tiling)
        if summary.triaged is not None:
            for line in summary.triaged["text"]:
                screen.print_text(line)
            screen.print_text(
                f"Image by image: {url_of(summary.folder / TRIAGED_TABLE)}, pixel by pixel: accepted.png of "
                "each (black: accepted, white: for review)."
            )
        if summary.done and "png" in plan.formats:
            screen.print_text(f"Look at {url_of(summary.folder / 'sheet.png')} first.")
        if summary.done and "prediction" in plan.maps and {"png", "npz"}.intersection(plan.formats):
            known = None if label_suffix else labels  # a report finds labels by the images' own names
            report = command_line("report", url_of(summary.folder), labels=known, output="report.html")
            screen.print_text(f"Then: {report}")
    end_with_failures(summary.failed, output, total=summary.done + len(summary.failed), uncertain=summary.uncertain)
