"""inspect, demo, doctor: options to one job each, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from segment.cli import screen
from segment.cli.app import app
from segment.cli.next_steps import command_line
from segment.cli.options import (
    Device,
    Json,
    Model,
    NetworkOptions,
    here_only,
    size_of,
)
from segment.errors import WrongUse, count_of


@app.command()
def inspect(
    model: Model,
    layers: Annotated[str, typer.Option(help="BN layers that are drawn: all, or globs with commas.")] = "all",
    size: Annotated[str, typer.Option(help="Image size HxW of the pass whose memory is counted.")] = "480x640",
    *,
    loading: NetworkOptions,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """List the BN layers of MODEL: stochastic, fixed and why; and the memory of one pass."""
    from segment.estimation.memory_budget import bytes_text
    from segment.jobs.inspect import inspect_network

    inspection = inspect_network(loading.load(model, device), layers=layers, size=size_of(size) or (480, 640))
    if json:
        screen.as_json(
            {
                "name": inspection.name,
                "parameters": inspection.parameters,
                "classes": inspection.classes,
                "head": inspection.head,
                "preprocessing": inspection.preprocessing,
                "size": list(inspection.size),
                "pass_bytes": inspection.pass_bytes,
                "layers": [
                    {
                        "name": layer.name,
                        "kind": layer.kind,
                        "channels": layer.channels,
                        "status": layer.status,
                        "reason": layer.reason,
                    }
                    for layer in inspection.layers
                ],
            }
        )
        return
    rows = [
        [
            layer.name,
            layer.kind,
            str(layer.channels or ""),
            layer.status + (f": {layer.reason}" if layer.reason else ""),
        ]
        for layer in inspection.layers
    ]
    columns = ["layer", "kind", "channels", "status"]
    screen.table(f"{inspection.name}: BN layers in the order of the data", columns, rows, words=("kind", "status"))
    screen.print_text(
        f"{inspection.stochastic} of {len(inspection.layers)} BN layers are stochastic. "
        f"{inspection.parameters:,} parameters, {inspection.classes} classes ({inspection.head}).\n"
        f"One pass over {inspection.size[0]}x{inspection.size[1]} holds {bytes_text(inspection.pass_bytes)} of "
        f"activations at once in fp32.\nImages: {inspection.preprocessing}."
    )
    if inspection.few:
        screen.print_text(inspection.few)
    if inspection.whole_image:
        screen.print_text(
            "A layer sees one value an image (global pooling): with M = 1 it has no variance; use --batch 2 or more."
        )


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the demo's images, bank and run.", callback=here_only)
    ] = Path("outputs/demo"),
    json: Json = False,
) -> None:
    """Run the whole way on generated street scenes and the shipped network, offline."""
    from segment.jobs.demo import demo as run_demo

    with screen.progress() as shown:
        demonstration = run_demo(output, progress=shown)
    if json:
        screen.as_json(demonstration.as_dict())
        return
    screen.table(demonstration.title, list(demonstration.columns), [list(row) for row in demonstration.rows])
    for line in demonstration.findings:
        screen.print_text(line)
    screen.print_text(f"Look at {demonstration.sheet} first.")
    run, labels = Path(demonstration.sheet).parent, output / "labels"
    screen.print_text(f"Then: {command_line('report', run, labels=labels, output=output / 'report.html')}")


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Compare this network's fast passes with plain passes.")
    ] = None,
    images: Annotated[str | None, typer.Option(help="Images to compare on, the first 3; needed with MODEL.")] = None,
    bank: Annotated[Path | None, typer.Option(help="Bank of MODEL; default: 4 draws recorded from the images.")] = None,
    *,
    loading: NetworkOptions,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """List versions, devices and what is missing and how to get it; with MODEL, compare fast passes with plain ones.

    With MODEL the exit code is 1 where the passes differ by more than their tolerance.
    """
    if model is None:
        if images is not None or bank is not None or loading.weights is not None:
            raise WrongUse("--images, --bank and --weights go with a MODEL: segment doctor MODEL --images SRC.")
        _show_machine(json=json)
        return
    if images is None:
        raise WrongUse("Passes are compared on images: give --images SRC, a few images that MODEL is used on.")
    from segment.files.banks.bank_file import load_bank
    from segment.jobs.doctor import compare_passes

    network = loading.load(model, device)
    with screen.progress() as shown:
        comparison = compare_passes(network, images, None if bank is None else load_bank(bank), progress=shown)
    if json:
        screen.as_json(comparison.as_dict())
    else:
        columns = ["image", "passes", "probability", "variance map", "tolerance", "within"]
        rows = []
        for image in comparison.images:
            figures = [f"{value:.1e}" for value in (image.probability, image.variance, image.tolerance)]
            rows.append([image.image, image.way, *figures, "yes" if image.within else "no"])
        draws = count_of(comparison.draws, "draw")
        title = f"{comparison.network}: fast against plain passes, {draws}, largest differences"
        screen.table(title, columns, rows, words=("passes",))
        for reason in comparison.reasons:
            screen.print_text(reason)
        screen.print_text("Fast and plain passes agree." if comparison.agree else "Fast and plain passes differ.")
    if not comparison.agree:
        raise typer.Exit(1)


def _show_machine(*, json: bool) -> None:
    from segment.jobs.doctor import examine

    findings: dict[str, Any] = examine()
    if json:
        screen.as_json(findings)
        return
    rows = [[name, str(value)] for name, value in findings.items()]
    screen.table("What this machine has", ["what", "value"], rows, words=("value",))
