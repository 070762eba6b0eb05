"""evaluate: options to the job, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app, end_with_failures
from segment.cli.log_messages import warn
from segment.cli.next_steps import command_line
from segment.cli.options import (
    AUTO,
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
    TriageFile,
    TunedFolder,
    Unseen,
    ValidationImagesOption,
    ValidationLabels,
    ValidationMask,
    Void,
    Workers,
    counts,
    listed,
    number_or,
    refuse_unused,
    shift_in,
)
from segment.cli.running import PlaceOptions, runner_at, see_alone
from segment.stores.urls import url_of


@app.command(
    epilog="Example: segment evaluate my_card.yaml --images IMAGES --labels LABELS --bank bank.safetensors -o scores"
)
def evaluate(
    model: Model,
    images: Images,
    output: Out,
    labels: LabelMaps = None,
    bank: Annotated[list[Path] | None, typer.Option(help="Bank of this network; several: also their spread.")] = None,
    draws: Annotated[int | None, typer.Option(help="T, the first N of each bank; default: all.")] = None,
    methods: Annotated[
        str, typer.Option(help="Methods, with commas; default: the common ones that are possible. See docs/guide.md.")
    ] = "",
    validation_images: ValidationImagesOption = None,
    validation_labels: ValidationLabels = None,
    validation_mask: ValidationMask = None,
    void: Void = None,
    unseen: Unseen = "",
    shift: Annotated[
        str, typer.Option(metavar="NAME:SEVERITY", help="Corrupt the test images first, as fog:3 of ImageNet-C.")
    ] = "",
    fails_below: Annotated[
        float | None, typer.Option(help="Dice below which a mask has failed; default: validation's lower quartile.")
    ] = None,
    measures: Annotated[
        str, typer.Option(help="Measures to score, with commas; default: all but standard_error, which is not scored.")
    ] = "",
    views: Annotated[
        str | None, typer.Option(help="Views of test-time augmentation, with commas: flip, and scales; default: flip.")
    ] = None,
    insert_dropout: InsertDropout = None,
    triage: TriageFile = None,
    tuned: TunedFolder = None,
    ensemble: Annotated[list[Path] | None, typer.Option(help="Further weights of MODEL, one file each.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16; one for all methods.")] = "auto",
    memory: Memory = None,
    batch: ImagesPerPass = "1",
    workers: Workers = 4,
    seed: Annotated[int | None, typer.Option(help="Seed of the dropout masks; default: 0.")] = None,
    report: Report = None,
    title: Title = "",
    plots: Annotated[bool, typer.Option("--plots", help="Also curves as PNG (extra `plots`).")] = False,
    groups: GroupsOver = None,
    groups_table: GroupsTable = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    label_suffix: LabelSuffix = "",
    annotator: Annotated[list[str] | None, typer.Option(help="Label maps of a further annotator; repeat it.")] = None,
    annotator_suffix: Annotated[
        list[str] | None, typer.Option(help="After an image's name in that of their label maps; one each, or for all.")
    ] = None,
    mask: Mask = None,
    *,
    frames: ListingOptions,
    loading: NetworkOptions,
    place: PlaceOptions,
    json: Json = False,
) -> None:
    """Score MCBN and other methods on labelled images: how right the uncertainty is, and what it costs."""
    from segment.files.banks.bank_file import load_bank
    from segment.files.triages import TRIAGED_TABLE, load_triage
    from segment.guarantees.groups import groups_given
    from segment.images.outside_runs import images_outside_runs
    from segment.jobs.evaluate import EvaluatePlan, evaluate_into
    from segment.jobs.evaluation.combinations import TUNED, combination
    from segment.jobs.evaluation.compared_methods import SCORED, MethodPlan
    from segment.jobs.labelled.images import Labels, validation_of
    from segment.jobs.triage.checking import outcome_rows
    from segment.jobs.tuning.tuned import read_tuned
    from segment.methods.augmentation import views as views_of
    from segment.pictures.plots import needs_matplotlib
    from segment.report.best_methods import best_two_lines, in_short
    from segment.report.results_page import check_page, evaluation_section, images_key, put_section
    from segment.report.tables import (
        ANNOTATOR_COLUMNS,
        ARROWS,
        MASK_COLUMNS,
        UNCERTAINTY_COLUMNS,
        annotator_rows,
        counted,
        screen_tables,
        units_of,
    )

    names = listed(methods)
    asked = [combination(name) for name in names if name != TUNED]
    ways = {each.passes for each in asked}
    if names and not any(each.augmented for each in asked):
        refuse_unused({"--views": views}, "tta to --methods")
    if names and "dropout" not in ways:
        refuse_unused({"--insert-dropout": insert_dropout, "--seed": seed}, "dropout to --methods")
    if names and ways.isdisjoint(("mcbn", "mean_statistics", "dropout")):
        refuse_unused({"--draws": draws}, "mcbn or dropout to --methods")
    if names and "ensemble" not in ways:
        refuse_unused({"--ensemble": ensemble}, "ensemble to --methods")
    if labels is None and not annotator and validation_labels is None:
        refuse_unused({"--label-suffix": label_suffix}, "--labels")
    if not annotator:
        refuse_unused({"--annotator-suffix": annotator_suffix}, "--annotator")
    if report is None:
        refuse_unused({"--title": title}, "--report")
    if plots:
        needs_matplotlib()
    if report is not None:
        check_page(report)
    listing = frames.listing()
    validation = validation_of(validation_images, validation_labels, label_suffix, validation_mask, listing)
    method_plan = MethodPlan(
        methods=names,
        draws=draws,
        precision=precision,
        views=MethodPlan.views if views is None else views_of(views),
        insert_dropout=insert_dropout,
        seed=MethodPlan.seed if seed is None else seed,
        measures=listed(measures) or SCORED,
    )
    where = place.work_place()
    see_alone(where.gpus)
    network = loading.load(model, where.device)
    section_name = title or network.name
    image_key = "" if report is None else images_key(images_outside_runs(images, listing, warn=False), shift_in(shift))
    if report is not None:
        check_page(report, section_name, image_key)
    members = [loading.load(model, where.device, weights=file) for file in ensemble or []]
    banks = [load_bank(path) for path in bank or []]
    asked_triage = None if triage is None else load_triage(triage)
    with (
        runner_at(where, network.device.type) as runner,
        screen.progress() as shown,
    ):
        evaluation = evaluate_into(
            network,
            Labels(
                images,
                labels,
                label_suffix,
                mask,
                listing,
                tuple(annotator or ()),
                tuple(annotator_suffix or ()),
            ),
            output,
            banks=banks,
            members=members,
            memory=memory,
            resume=resume,
            progress=shown,
            runner=runner,
            plan=EvaluatePlan(
                methods=method_plan,
                void=void,
                unseen=counts(unseen, "--unseen", empty=True),
                shift=shift_in(shift),
                fails_below=fails_below,
                workers=workers,
                batch=number_or("--batch", batch, AUTO, "images from 1 up"),
                groups=groups_given(groups, groups_table),
            ),
            validation=validation,
            triage=asked_triage,
            tuned=None if tuned is None else read_tuned(tuned),
        )
    folder, pictures = evaluation.folder or output, list[Path]()
    if plots:
        from segment.report.curves import plot_evaluation

        pictures = plot_evaluation(evaluation.scores, folder)
    if report is not None:
        section = evaluation_section(evaluation, banks=[bank.provenance for bank in banks], title=title)
        put_section(report, section_name, section, image_key)
    if json:
        triaged = {} if evaluation.triaged is None else {"triaged": evaluation.triaged}
        screen.as_json({**evaluation.scores, **triaged})
    else:
        for line in evaluation.warnings:
            warn(line)
        for line in in_short(evaluation.comparisons, evaluation.gains, *units_of(evaluation.scores)):
            screen.print_text(line.replace("*", ""))
        mask_rows, uncertainty_rows = screen_tables(evaluation.scores)
        screen.table(f"{network.name}: {counted(evaluation.scores)}", list(MASK_COLUMNS), mask_rows)
        screen.table(f"How right the uncertainty is ({ARROWS[:-1]})", list(UNCERTAINTY_COLUMNS), uncertainty_rows)
        if evaluation.comparisons:
            heading = "Best two methods in each score, their difference, and whether it is significant:"
            screen.print_text("\n  ".join([heading, *best_two_lines(evaluation.comparisons)]))
        for name, note in evaluation.notes.items():
            screen.print_text(f"{name}: {note}.")
        if evaluation.annotators:
            count, differ = evaluation.annotators["annotators"], evaluation.annotators["differ"]
            title = f"Against {count} annotators, who differ in {differ:.1%} of the pixels"
            screen.table(title, list(ANNOTATOR_COLUMNS), annotator_rows(evaluation.annotators))
        if evaluation.triaged is not None:
            columns = ["unit", "measure", "accepted", "mean loss", "wrong in accepted", "above the limit"]
            screen.table("What the triage kept", columns, outcome_rows(evaluation.triaged), words=("measure",))
            for line in evaluation.triaged["text"]:
                screen.print_text(line)
            screen.print_text(f"Image by image: {url_of(folder / TRIAGED_TABLE)}")
        if evaluation.uncertain:
            first = ", ".join(f"{name} {value:.3g}" for name, value in evaluation.uncertain.items())
            screen.print_text(f"Most uncertain, by mean predictive_entropy: {first}.")
        files = ["scores.json", "comparisons.json", "per_image.csv", *(picture.name for picture in pictures)]
        page = "" if report is None else f" The page: {url_of(report)}."
        screen.print_text(f"In {url_of(folder)}: {', '.join(files)}.{page}")
        screen.print_text(f"Then: {command_line('report', url_of(folder), output='report.html')}")
    end_with_failures(evaluation.failed, output, held_out=evaluation.validation.failed, uncertain=evaluation.uncertain)
