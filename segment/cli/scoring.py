"""evaluate, sweep, select: options to one job each, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import Config, Device, Json, Model, Verbose, Weights, app
from segment.cli.commands import Out, listed, loaded
from segment.errors import WrongUse

Images = Annotated[str, typer.Option(help="Test images: folder, glob or text list (image, or image and label a line).")]
LabelMaps = Annotated[str | None, typer.Option(help="Their label maps, by the same names; not needed with a list.")]
ValidationImages = Annotated[str | None, typer.Option(help="Images to fit temperatures and thresholds on.")]
ValidationLabels = Annotated[str | None, typer.Option(help="Their label maps.")]
Void = Annotated[int | None, typer.Option(help="Label id that no score counts; default: the card's.")]
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
    model: Model, images: Images, output: Out,
    labels: LabelMaps = None,
    bank: Annotated[list[Path] | None, typer.Option(help="Bank of this network; several: also their spread.")] = None,
    draws: Annotated[int | None, typer.Option(help="T, the first N of each bank; default: all.")] = None,
    methods: Annotated[str, typer.Option(help="With commas; default: all that can be. See docs.")] = "",
    validation_images: ValidationImages = None, validation_labels: ValidationLabels = None,
    void: Void = None, unseen: Unseen = "",
    measures: Annotated[str, typer.Option(help="Measures to score, with commas; default: all.")] = "",
    views: Annotated[str, typer.Option(help="Of test-time augmentation: flip, and scales, with commas.")] = "flip",
    insert_dropout: Annotated[float | None, typer.Option(
        help="MC dropout for a network without: Dropout2d(P) after each decoder stage, else before the last layer.",
    )] = None,
    ensemble: Annotated[list[Path] | None, typer.Option(help="Further weights of MODEL, one file each.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16; one for all methods.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the dropout masks.")] = 0,
    report: Report = None,
    title: Annotated[str, typer.Option(help="Heading in the report; default: MODEL.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    weights: Weights = None, device: Device = "auto", json: Json = False, config: Config = None,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Score MCBN and its rivals on labelled images: how right the uncertainty is, and what it costs."""
    from segment.files.banks import load_bank
    from segment.jobs.comparing import COLUMNS, WINNERS, table, winners
    from segment.jobs.contenders import SCORED, MethodPlan
    from segment.jobs.evaluate import EvaluatePlan, Labels
    from segment.jobs.evaluate import evaluate as run_evaluate
    from segment.jobs.telling import put, told
    from segment.sampling.views import views as views_of

    if (validation_labels is not None) and validation_images is None:
        raise WrongUse("--validation-labels needs --validation-images.")
    asked = MethodPlan(
        methods=listed(methods), draws=draws, precision=precision, views=views_of(views),
        insert_dropout=insert_dropout, seed=seed, measures=listed(measures) or SCORED,
    )  # fmt: skip
    network = loaded(model, weights, device)
    members = [loaded(model, file, device) for file in ensemble or []]
    banks = [load_bank(path) for path in bank or []]
    with screen.progress() as shown:
        found = run_evaluate(
            network, Labels(images, labels), output, banks=banks, members=members, resume=resume, progress=shown,
            plan=EvaluatePlan(methods=asked, void=void, unseen=ids(unseen)),
            validation=Labels(validation_images, validation_labels) if validation_images else None,
        )  # fmt: skip
    if report is not None:
        put(report, title or network.name, told(found, banks=[one.provenance for one in banks], title=title))
    if json:
        screen.as_json(dict(found.scores))
    else:
        counted = f"{found.scores['images']} images, {found.scores['pixels']:,} labelled pixels"
        screen.table(f"{network.name}: {counted}", list(COLUMNS), table(found.scores))
        if found.comparisons:
            screen.table("Who wins", list(WINNERS), winners(found.comparisons))
        for name, note in found.notes.items():
            screen.say(f"{name}: {note}.")
        screen.say(f"All scores, curves and classes: {found.folder / 'scores.json'}")
    _end_with_failures(found.failed, output)


def _end_with_failures(failed: dict[str, str] | object, output: Path) -> None:
    if isinstance(failed, dict) and failed:
        name, why = next(iter(failed.items()))
        named = ", ".join(list(failed)[:5])
        screen.refuse(f"{len(failed)} images failed ({named}), named in {output / 'manifest.jsonl'}. {name}: {why}")
        raise typer.Exit(1)
