"""triage: options to the job that calibrates thresholds, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from segment.cli import screen
from segment.cli.app import app
from segment.cli.log_messages import warn
from segment.cli.options import GroupsTable, Json, refuse_unused


@app.command(epilog="Example: segment triage outputs/scores --max-error 0.02 -o triage.json")
def triage(
    scores: Annotated[
        Path, typer.Argument(metavar="SCORES", help="What `segment evaluate` wrote for labelled validation images.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The JSON file to write, for predict and evaluate --triage.")
    ] = Path("triage.json"),
    max_error: Annotated[float, typer.Option(help="Limit of the loss, a share: 0.02 is 2 % of the pixels.")] = 0.02,
    guarantee: Annotated[
        str,
        typer.Option(
            help="expectation: the mean loss of new images; images: most images, with confidence; mean: the mean over "
            "all images, with confidence (takes many).",
        ),
    ] = "expectation",
    confidence: Annotated[
        float | None, typer.Option(help="Confidence of the guarantees `images` and `mean`; default: 0.95.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Share of images that the guarantee `images` holds for; default: 0.9.")
    ] = None,
    unit: Annotated[str, typer.Option(help="What is accepted as a whole: pixel, segment or image.")] = "pixel",
    loss: Annotated[str, typer.Option(help="error: wrong pixels; dice: 1 - Dice (unit image).")] = "error",
    protect: Annotated[str | None, typer.Option(help="Class whose missed pixels are the loss.")] = None,
    measure: Annotated[
        str | None,
        typer.Option(help="Measure that ranks; default: chosen on half of the images where they are enough."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Method of the evaluation; default: tuned where it was scored, else mcbn.")
    ] = None,
    coverage: Annotated[
        float | None, typer.Option(help="Also make prediction sets that cover this share of the pixels.")
    ] = None,
    sets: Annotated[
        str | None,
        typer.Option(help="With --coverage: kind of sets, aps, or raps, which makes large sets rarer; default: aps."),
    ] = None,
    penalty: Annotated[
        float | None, typer.Option(help="With --sets raps: penalty for each rank; default: 0.05.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="Images that belong together: folder, sequence, or a column of --groups-table."),
    ] = None,
    groups_table: GroupsTable = None,
    seed: Annotated[int, typer.Option(help="Seed of the division into halves.")] = 0,
    json: Json = False,
) -> None:
    """Choose which pixels or images may be accepted, so that their error on new images is bounded."""
    from segment.files.triages import refuse_other_than_triage, save_triage
    from segment.files.writing import check_writable
    from segment.guarantees.sentences import sentences, shown_accepted, shown_loss, shown_threshold
    from segment.guarantees.triage import Guarantee, TriagePlan, Unit, percent
    from segment.jobs.triage.calibration import calibrate_triage

    if guarantee == "expectation":
        refuse_unused({"--confidence": confidence}, "--guarantee images or --guarantee mean")
    if guarantee != "images":
        refuse_unused({"--share": share}, "--guarantee images")
    if coverage is None:
        refuse_unused({"--sets": sets, "--penalty": penalty}, "--coverage")
    if sets != "raps":
        refuse_unused({"--penalty": penalty}, "--sets raps")
    check_writable(output)
    refuse_other_than_triage(output)
    plan = TriagePlan(
        max_error=max_error,
        guarantee=cast(Guarantee, guarantee),
        confidence=TriagePlan.confidence if confidence is None else confidence,
        share=TriagePlan.share if share is None else share,
        unit=cast(Unit, unit),
        loss=loss,
        protect=protect,
        measure=measure,
        coverage=coverage,
        sets=TriagePlan.sets if sets is None else sets,
        penalty=TriagePlan.penalty if penalty is None else penalty,
        seed=seed,
    )
    made = calibrate_triage(scores, plan, method=method, groups=groups, table=groups_table)
    lines = sentences(made)
    save_triage(made, output, text=" ".join(lines))
    if json:
        screen.as_json({"triage": str(output), "text": " ".join(lines), **made.as_dict()})
        return
    for line in made.warnings:
        warn(line)
    rows = [
        [
            decision.unit,
            decision.measure,
            shown_threshold(decision),
            shown_accepted(decision),
            shown_loss(decision),
            f"{decision.groups}",
        ]
        for decision in made.decisions.values()
    ]
    columns = ["unit", "measure", "accept below", "accepted", "mean loss", "calibrated on"]
    screen.table(f"Accept or review, limit {percent(max_error)}", columns, rows, words=("measure",))
    for line in lines:
        screen.print_text(line)
    screen.print_text(f"{output}: for segment predict --triage and segment evaluate --triage.")
