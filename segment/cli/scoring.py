"""evaluate, sweep, select: options to one job each, and what is shown of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import Config, Device, Json, Model, Verbose, Weights, app
from segment.cli.commands import Memory, Out, listed, loaded
from segment.errors import WrongUse

Images = Annotated[str, typer.Option(help="Test images: folder, glob or text list (image, or image and label a line).")]
LabelMaps = Annotated[str | None, typer.Option(help="Their label maps, by the same names; not needed with a list.")]
ValidationImages = Annotated[str | None, typer.Option(help="Images to fit temperatures and thresholds on.")]
ValidationLabels = Annotated[str | None, typer.Option(help="Their label maps.")]
Void = Annotated[int | None, typer.Option(help="Label id that no score counts; default: the card's.")]
InsertDropout = Annotated[
    float | None,
    typer.Option(
        help="MC dropout for a network without: Dropout2d(P) after each decoder stage, else before the last layer.",
    ),
]
Unseen = Annotated[str, typer.Option(help="Label ids of things of no trained class, with commas.")]
Report = Annotated[Path | None, typer.Option(help="Markdown page to write the tables into, as docs/results.md.")]


def ids(text: str) -> tuple[int, ...]:
    """Label ids with commas between.

    >>> ids("11, 12")
    (11, 12)
    """
    parts = listed(text)
    if not all(part.isdecimal() for part in parts):
        raise WrongUse(f"--unseen {text!r} is no list of label ids; write integers with commas, as 11,12.")
    return tuple(int(part) for part in parts)


@app.command()
def evaluate(
    model: Model,
    images: Images,
    output: Out,
    labels: LabelMaps = None,
    bank: Annotated[list[Path] | None, typer.Option(help="Bank of this network; several: also their spread.")] = None,
    draws: Annotated[int | None, typer.Option(help="T, the first N of each bank; default: all.")] = None,
    methods: Annotated[str, typer.Option(help="With commas; default: all that can be. See docs.")] = "",
    validation_images: ValidationImages = None,
    validation_labels: ValidationLabels = None,
    void: Void = None,
    unseen: Unseen = "",
    measures: Annotated[str, typer.Option(help="Measures to score, with commas; default: all.")] = "",
    views: Annotated[str, typer.Option(help="Of test-time augmentation: flip, and scales, with commas.")] = "flip",
    insert_dropout: InsertDropout = None,
    ensemble: Annotated[list[Path] | None, typer.Option(help="Further weights of MODEL, one file each.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16; one for all methods.")] = "auto",
    memory: Memory = None,
    seed: Annotated[int, typer.Option(help="Of the dropout masks.")] = 0,
    report: Report = None,
    title: Annotated[str, typer.Option(help="Heading in the report; default: MODEL.")] = "",
    plots: Annotated[bool, typer.Option("--plots", help="Also curves as PNG (extra `plots`).")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Score MCBN and its rivals on labelled images: how right the uncertainty is, and what it costs."""
    from segment.files.banks import load_bank
    from segment.jobs.evaluate import EvaluatePlan, Labels
    from segment.jobs.evaluate import evaluate as run_evaluate
    from segment.jobs.evaluation.compared_methods import SCORED, MethodPlan
    from segment.methods.augmentation import views as views_of
    from segment.pictures.plots import needs_matplotlib
    from segment.report.results_page import check_page, evaluation_section, put_section
    from segment.report.tables import MASK_COLUMNS, UNCERTAINTY_COLUMNS, best_two, counted, in_short, screen_tables

    if plots:
        needs_matplotlib()
    if report is not None:
        check_page(report)
    if validation_labels is not None and validation_images is None:
        raise WrongUse("--validation-labels needs --validation-images.")
    method_plan = MethodPlan(
        methods=listed(methods),
        draws=draws,
        precision=precision,
        views=views_of(views),
        insert_dropout=insert_dropout,
        seed=seed,
        measures=listed(measures) or SCORED,
    )
    network = loaded(model, weights, device)
    members = [loaded(model, file, device) for file in ensemble or []]
    banks = [load_bank(path) for path in bank or []]
    with screen.progress() as shown:
        evaluation = run_evaluate(
            network,
            Labels(images, labels),
            output,
            banks=banks,
            members=members,
            memory=memory,
            resume=resume,
            progress=shown,
            plan=EvaluatePlan(methods=method_plan, void=void, unseen=ids(unseen)),
            validation=Labels(validation_images, validation_labels) if validation_images else None,
        )
    if plots:
        from segment.report.curves import plot_evaluation

        plot_evaluation(evaluation.scores, evaluation.folder)
    if report is not None:
        put_section(
            report,
            title or network.name,
            evaluation_section(evaluation, banks=[bank.provenance for bank in banks], title=title),
        )
    if json:
        screen.as_json(dict(evaluation.scores))
    else:
        for line in evaluation.warnings:
            screen.say(f"Warning: {line}")
        mask_rows, uncertainty_rows = screen_tables(evaluation.scores)
        screen.table(f"{network.name}: {counted(evaluation.scores)}", list(MASK_COLUMNS), mask_rows)
        screen.table("How right the uncertainty is", list(UNCERTAINTY_COLUMNS), uncertainty_rows)
        if evaluation.comparisons:
            rows = [
                [score, best, other, by, significant]
                for score, best, _, other, _, by, significant in best_two(evaluation.comparisons)
            ]
            screen.table("Best two methods", ["score", "best", "next", "difference", "significant"], rows)
            for line in in_short(evaluation.comparisons, evaluation.gains):
                screen.say(line.replace("*", ""))
        for name, note in evaluation.notes.items():
            screen.say(f"{name}: {note}.")
        screen.say(f"All scores, curves and classes: {evaluation.folder / 'scores.json'}")
    _end_with_failures(evaluation.failed, output)


def counts(text: str, option: str) -> tuple[int, ...]:
    """Integers with commas between.

    >>> counts("4,8", "--batches")
    (4, 8)
    """
    parts = listed(text)
    if not parts or not all(part.isdecimal() for part in parts):
        raise WrongUse(f"{option} {text!r} is no list of integers; write them with commas, as 4,8,16.")
    return tuple(int(part) for part in parts)


def shares(text: str) -> tuple[float, ...]:
    """Numbers with commas between.

    >>> shares("0,0.5,1")
    (0.0, 0.5, 1.0)
    """
    try:
        return tuple(float(part) for part in listed(text))
    except ValueError:
        raise WrongUse(f"--alphas {text!r} is no list of numbers; write them with commas, as 0,0.5,1.") from None


@app.command()
def sweep(
    model: Model,
    images: Images,
    output: Out,
    train: Annotated[str, typer.Option(help="Training images, that draws come from.")],
    labels: LabelMaps = None,
    batches: Annotated[str, typer.Option(help="M, with commas.")] = "4,8,16,32",
    draws: Annotated[str, typer.Option(help="T, with commas: prefixes of one run at the largest.")] = "1,2,4,8,16",
    layers: Annotated[
        str,
        typer.Option(
            help="With commas: all, encoder, decoder, first, last, or globs joined by +.",
        ),
    ] = "all",
    transforms: Annotated[str, typer.Option(help="Of statistics images: training, plain, crop:HxW.")] = "training",
    alphas: Annotated[str, typer.Option(help="Share of the draw in the statistics, the rest trained.")] = "1",
    seeds: Annotated[str, typer.Option(help="One bank each; several: also their spread.")] = "0",
    methods: Annotated[
        str,
        typer.Option(
            help="As of evaluate, but ensemble; default: deterministic,mcbn,mean_statistics.",
        ),
    ] = "",
    bank: Annotated[list[Path] | None, typer.Option(help="Further bank, distilled perhaps: all of its draws.")] = None,
    validation_images: ValidationImages = None,
    validation_labels: ValidationLabels = None,
    insert_dropout: InsertDropout = None,
    shift: Annotated[str, typer.Option(help="Corruptions of the test images: noise,blur,fog,brightness,jpeg.")] = "",
    severities: Annotated[str, typer.Option(help="Of each, from 1 to 5.")] = "1,2,3,4,5",
    adapt: Annotated[bool, typer.Option("--adapt", help="Also record banks on corrupted training images.")] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    memory: Memory = None,
    void: Void = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="PNG of the curves (extra `plots`).")] = True,
    report: Report = None,
    title: Annotated[str, typer.Option(help="Heading in the report; default: MODEL.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep in this folder.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Score every combination of M, T, layers, statistics images and alpha, and how each bears corrupted images."""
    from segment.jobs.evaluate import Labels
    from segment.jobs.evaluation.sweep_grid import Grid
    from segment.jobs.evaluation.sweep_states import SWEPT, SweepPlan
    from segment.jobs.sweep import COLUMNS, shown_rows
    from segment.jobs.sweep import sweep as run_sweep
    from segment.pictures.plots import needs_matplotlib
    from segment.report.curves import plot_sweep
    from segment.report.results_page import check_page, put_section, sweep_section

    if plots:
        needs_matplotlib()
    if report is not None:
        check_page(report)
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
        severities=counts(severities, "--severities"),
        adapt=adapt,
        void=void,
        methods=replace(
            SWEPT, methods=listed(methods) or SWEPT.methods, precision=precision, insert_dropout=insert_dropout
        ),
        banks=tuple(str(path) for path in bank or []),
    )
    network = loaded(model, weights, device)
    with screen.progress() as shown:
        result = run_sweep(
            network,
            Labels(images, labels),
            train,
            output,
            plan,
            memory=memory,
            resume=resume,
            progress=shown,
            validation=Labels(validation_images, validation_labels) if validation_images else None,
        )
    pictures = plot_sweep(result.rows, result.folder) if plots else []
    if report is not None:
        put_section(report, f"sweep of {title or network.name}", sweep_section(result, title or network.name))
    if json:
        screen.as_json(
            {"run": str(result.folder), "rows": [[row.name, row.condition, row.severity] for row in result.rows]}
        )
    else:
        screen.table(
            f"{network.name}: {len(result.rows)} settings, best NLL first", list(COLUMNS), shown_rows(result.rows)
        )
        screen.say(f"All scores: {result.folder / 'sweep.csv'} and scores.json. Plots: {len(pictures)}.")
    _end_with_failures(result.failed, output)


@app.command()
def select(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="What `segment predict` or `segment evaluate` wrote.")],
    top: Annotated[int, typer.Option(help="How many images.")] = 50,
    by: Annotated[str | None, typer.Option(help="Column that ranks, as mean.predictive_entropy.")] = None,
    method: Annotated[str | None, typer.Option(help="Of an evaluation; default: mcbn.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV; default: RUN/select.csv.")] = None,
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """List the images most worth a look or a label, most doubtful first, as CSV."""
    from segment.jobs.select import select as run_select
    from segment.jobs.select import write_selection

    selection = run_select(run, top, by=by, method=method)
    path = output or run / "select.csv"
    write_selection(selection, path)
    if json:
        listed_ = [{"id": name, "source": source, selection.by: value} for name, source, value in selection.images]
        screen.as_json({"by": selection.by, "why": selection.why, "images": listed_})
        return
    rows = [[name, f"{value:.5g}"] for name, _, value in selection.images[:10]]
    screen.table(f"The first {len(rows)} of {len(selection.images)} by {selection.by}", ["image", selection.by], rows)
    screen.say(f"{selection.by}: {selection.why}.\nAll of them: {path}")


def _end_with_failures(failed: Mapping[str, str], output: Path) -> None:
    if failed:
        name, why = next(iter(failed.items()))
        named = ", ".join(list(failed)[:5])
        images = "1 image" if len(failed) == 1 else f"{len(failed)} images"
        path = output / ("validation.json" if name.startswith("validation image") else "manifest.jsonl")
        screen.refuse(f"{images} failed ({named}), named in {path}. {name}: {why}")
        raise typer.Exit(1)
