"""sweep: options to the job, and what is shown of it."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app, end_with_failures
from segment.cli.log_messages import warn
from segment.cli.next_steps import command_line
from segment.cli.options import (
    AUTO,
    Alphas,
    Batches,
    GroupsOver,
    GroupsTable,
    Images,
    ImagesPerPass,
    InsertDropout,
    Json,
    LabelMaps,
    LabelSuffix,
    ListingOptions,
    Mask,
    Memory,
    Model,
    NetworkOptions,
    Out,
    Report,
    Title,
    Transforms,
    ValidationImagesOption,
    ValidationLabels,
    ValidationMask,
    Void,
    counts,
    listed,
    number_or,
    refuse_unused,
    shares,
)
from segment.cli.running import PlaceOptions, runner_at, see_alone
from segment.stores.urls import url_of


@app.command(
    epilog="Example: segment sweep my_card.yaml --train TRAINING_IMAGES --images IMAGES --labels LABELS -o sweep"
)
def sweep(
    model: Model,
    images: Images,
    output: Out,
    train: Annotated[str, typer.Option(help="Training images that the draws come from.")],
    labels: LabelMaps = None,
    batches: Batches = "4,8,16,32",
    draws: Annotated[
        str, typer.Option(help="Values of T, with commas; the smaller ones are the first draws of the largest.")
    ] = "1,2,4,8,16",
    layers: Annotated[
        str,
        typer.Option(
            help="Layers that are drawn, with commas: all, encoder, decoder, first, last, or globs joined by +.",
        ),
    ] = "all",
    transforms: Transforms = "training",
    alphas: Alphas = "1",
    seeds: Annotated[str, typer.Option(help="Seeds, with commas: a bank each; several: also their spread.")] = "0",
    methods: Annotated[
        str,
        typer.Option(
            help="Methods as of evaluate, without ensemble; default: deterministic,mcbn,mean_statistics.",
        ),
    ] = "",
    bank: Annotated[
        list[Path] | None, typer.Option(help="A further bank, such as a distilled one, with all of its draws.")
    ] = None,
    validation_images: ValidationImagesOption = None,
    validation_labels: ValidationLabels = None,
    validation_mask: ValidationMask = None,
    insert_dropout: InsertDropout = None,
    shift: Annotated[
        str,
        typer.Option(help="Corruptions: ImageNet-C's, as fog,snow; and noise,blur,jpeg."),
    ] = "",
    severities: Annotated[
        str | None, typer.Option(help="Severities of each corruption of --shift; default: 1,2,3,4,5.")
    ] = None,
    adapt: Annotated[bool, typer.Option("--adapt", help="Also record banks on corrupted training images.")] = False,
    precision: Annotated[str, typer.Option(help="Precision of the passes: auto, fp32, bf16 or fp16.")] = "auto",
    memory: Memory = None,
    batch: ImagesPerPass = "1",
    void: Void = None,
    plots: Annotated[
        bool | None,
        typer.Option("--plots/--no-plots", help="PNG of the curves (extra `plots`); default: where it is installed."),
    ] = None,
    report: Report = None,
    title: Title = "",
    groups: GroupsOver = None,
    groups_table: GroupsTable = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in this folder.")] = False,
    label_suffix: LabelSuffix = "",
    mask: Mask = None,
    *,
    frames: ListingOptions,
    loading: NetworkOptions,
    place: PlaceOptions,
    json: Json = False,
) -> None:
    """Score every combination of M, T, layers, statistics images and alpha, and how robust each is to corruptions."""
    from segment.guarantees.groups import groups_given
    from segment.images.outside_runs import images_outside_runs
    from segment.jobs.evaluation.combinations import combination
    from segment.jobs.labelled.images import Labels, validation_of
    from segment.jobs.sweep import sweep as run_sweep
    from segment.jobs.sweeping.grid import Grid
    from segment.jobs.sweeping.states import SWEPT, SweepPlan
    from segment.jobs.sweeping.tables import best_rows
    from segment.pictures.plots import needs_matplotlib
    from segment.report.curves import plot_sweep
    from segment.report.results_page import check_page, images_key, put_section, sweep_section
    from segment.report.sweep_words import shown_names, sweep_sentences
    from segment.report.tables import ARROWS

    names = listed(methods) or SWEPT.methods
    if not any(combination(name).passes == "dropout" for name in names):
        refuse_unused({"--insert-dropout": insert_dropout}, "dropout to --methods")
    if not listed(shift):
        refuse_unused({"--severities": severities, "--adapt": adapt or None}, "--shift")
    if labels is None and validation_labels is None:
        refuse_unused({"--label-suffix": label_suffix}, "--labels")
    if report is None:
        refuse_unused({"--title": title}, "--report")
    if plots:
        needs_matplotlib()
    elif plots is None:
        plots = find_spec("matplotlib") is not None
    if report is not None:
        check_page(report)
    listing = frames.listing()
    validation = validation_of(validation_images, validation_labels, label_suffix, validation_mask, listing)
    grid = Grid(
        batches=counts(batches, "--batches"),
        draws=tuple(sorted(counts(draws, "--draws"))),
        layers=listed(layers),
        transforms=listed(transforms),
        alphas=shares(alphas),
        seeds=counts(seeds, "--seeds"),
    )
    plan = SweepPlan(
        grid=grid,
        shifts=listed(shift),
        severities=SweepPlan.severities if severities is None else counts(severities, "--severities"),
        adapt=adapt,
        void=void,
        methods=replace(SWEPT, methods=names, precision=precision, insert_dropout=insert_dropout),
        banks=tuple(str(path) for path in bank or []),
        batch=number_or("--batch", batch, AUTO, "images from 1 up"),
        groups=groups_given(groups, groups_table),
    )
    where = place.work_place()
    see_alone(where.gpus)
    network = loading.load(model, where.device)
    section_name, image_key = f"sweep of {title or network.name}", ""
    if report is not None:
        image_key = images_key(images_outside_runs(images, listing, warn=False))
        check_page(report, section_name, image_key)
    with (
        runner_at(where, network.device.type) as runner,
        screen.progress() as shown,
    ):
        result = run_sweep(
            network,
            Labels(images, labels, label_suffix, mask, listing),
            train,
            output,
            plan,
            memory=memory,
            resume=resume,
            progress=shown,
            runner=runner,
            validation=validation,
        )
    pictures = plot_sweep(result.rows, result.folder) if plots else []
    if report is not None:
        put_section(report, section_name, sweep_section(result, title or network.name), image_key)
    if json:
        screen.as_json(
            {
                "run": url_of(result.folder),
                "rows": [[row.name, row.condition, row.severity] for row in result.rows],
                "warnings": list(result.warnings),
            }
        )
    else:
        for line in result.warnings:
            warn(line)
        for line in sweep_sentences(result.rows):
            screen.print_text(line)
        columns, cells, ends = best_rows(result.rows)
        shifted = "shift" in columns  # then setting and shift name a row
        order = "best NLL first within each shift" if shifted else "best NLL first"
        heading = f"{network.name}: {order}, {len(cells)} of {len(result.rows)} settings ({ARROWS[:-1]})"
        if shared := shown_names(result.rows)[0]:
            screen.print_text(shared)
        screen.table(heading, columns, cells, keys=2 if shifted else 1, ends=ends)
        files = ["sweep.csv", "scores.json", *(picture.name for picture in pictures)]
        screen.print_text(f"In {url_of(result.folder)}: {', '.join(files)}.")
        screen.print_text(f"Then: {command_line('report', url_of(result.folder), output='report.html')}")
    end_with_failures(result.failed, output)
