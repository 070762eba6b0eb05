"""tune: options to the job that chooses a setting, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app, end_with_failures
from segment.cli.next_steps import command_line
from segment.cli.options import (
    Alphas,
    Batches,
    Device,
    GroupsTable,
    Json,
    LabelSuffix,
    ListingOptions,
    Mask,
    Memory,
    Model,
    NetworkOptions,
    OutHere,
    Transforms,
    Void,
    counts,
    listed,
    refuse_unused,
    shares,
)


@app.command(
    epilog="Example: segment tune my_card.yaml --train TRAINING_IMAGES --images VAL --labels VAL_LABELS -o tuned"
)
def tune(
    model: Model,
    train: Annotated[str, typer.Option(help="Training images that the draws come from.")],
    images: Annotated[str, typer.Option(help="Validation images, which training never saw; not the test images.")],
    output: OutHere,
    labels: Annotated[str | None, typer.Option(help="Their label maps; not needed with a list.")] = None,
    passes: Annotated[int, typer.Option(help="The most passes that a map may take.")] = 16,
    rule: Annotated[
        str,
        typer.Option(
            help="best: the lowest NLL, unless one pass is as good; cheapest: the fewest passes that are as good."
        ),
    ] = "best",
    batches: Batches = "4,8,16,32",
    transforms: Transforms = "training",
    layers: Annotated[
        str, typer.Option(help="Layers that are drawn, with commas: all, encoder, decoder, first, last, or globs.")
    ] = "all",
    alphas: Alphas = "1",
    bank: Annotated[list[Path] | None, typer.Option(help="A further bank, such as a distilled one.")] = None,
    views: Annotated[
        str, typer.Option(help="Views of test-time augmentation, with commas: flip, and scales.")
    ] = "flip",
    scalings: Annotated[
        str,
        typer.Option(
            help="Scalings to try, with commas: temperature, vector_scaling; the latter may lose rare classes."
        ),
    ] = "temperature",
    groups: Annotated[
        str | None,
        typer.Option(
            help="Groups that are not divided, and that tests are over: folder, sequence, or a column of the list or "
            "--groups-table; default: sequences are not divided where there are enough."
        ),
    ] = None,
    groups_table: GroupsTable = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of mini-batches.")] = 0,
    precision: Annotated[str, typer.Option(help="Precision of the passes: fp32, bf16 or fp16.")] = "fp32",
    memory: Memory = None,
    void: Void = None,
    label_suffix: LabelSuffix = "",
    mask: Mask = None,
    *,
    frames: ListingOptions,
    loading: NetworkOptions,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Choose M, T, views, scaling and more under a budget of passes, by cross-validation on validation images."""
    from segment.guarantees.groups import groups_given
    from segment.jobs.labelled.images import Labels
    from segment.jobs.sweeping.grid import Grid
    from segment.jobs.tuning.tune import TunePlan
    from segment.jobs.tuning.tune import tune as run_tune
    from segment.methods.augmentation import views as views_of
    from segment.report.tables import ARROWS, heading
    from segment.report.tuned_page import candidate_rows

    if labels is None:
        refuse_unused({"--label-suffix": label_suffix}, "--labels")
    plan = TunePlan(
        passes=passes,
        rule=rule,  # type: ignore[arg-type]  # the plan refuses others
        grid=Grid(
            batches=counts(batches, "--batches"),
            transforms=listed(transforms),
            layers=listed(layers),
            alphas=shares(alphas),
            seeds=(seed,),
        ),
        banks=tuple(str(path) for path in bank or []),
        views=views_of(views),
        scalings=listed(scalings),
        precision=precision,
        void=void,
        groups=groups_given(groups, groups_table),
    )
    network = loading.load(model, device)
    data = Labels(images, labels, label_suffix, mask, frames.listing())
    with screen.progress() as shown:
        tuning = run_tune(network, data, train, output, plan, memory=memory, progress=shown)
    if json:
        screen.as_json(
            {
                "folder": str(tuning.folder),
                "chosen": tuning.choice.chosen.as_dict(),
                "best": tuning.choice.best.as_dict(),
                "single": tuning.choice.single.as_dict(),
                "gain": None if tuning.choice.gain is None else tuning.choice.gain.difference.as_dict(),
                "rule": tuning.choice.rule,
                "cheapest": tuning.choice.cheapest.as_dict(),
                "loss": None if tuning.choice.loss is None else tuning.choice.loss.difference.as_dict(),
                "candidates": [each.as_dict() for each in tuning.candidates],
                "dropped": list(tuning.dropped),
                "failed": dict(tuning.failed),
                "images": tuning.tuned.images,
                "cost": tuning.cost,
                "why": tuning.tuned.why,
            }
        )
        end_with_failures(tuning.failed, tuning.folder, "tuned.json")
        return
    rows = [
        [name.rpartition(", ")[0], mark, passes, *(score.removeprefix("0") for score in scores)]
        for name, passes, *scores, mark in candidate_rows(tuning.candidates, tuning.choice)
    ]
    columns = ["setting", "mark", "passes", *map(heading, ("nll", "ause", "ece", "miou"))]
    screen.table(f"Settings, cross-validated ({ARROWS[:-1]})", columns, rows, words=("mark",))
    refused = " refused: its mIoU is below that of the plain pass." if tuning.choice.refused else ""
    screen.print_text(f"Pareto: nothing of as few passes has a lower NLL.{refused}")
    screen.print_text(tuning.tuned.why)
    screen.print_text(f"In {tuning.folder}: tuned.md, the page, and tuned.json.")
    then = command_line("predict", model, "IMAGES", **loading.given(), tuned=tuning.folder, output="RUN")
    screen.print_text(f"Then: {then}")
    end_with_failures(tuning.failed, tuning.folder, "tuned.json")
