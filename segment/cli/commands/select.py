"""select: options to the job, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app
from segment.cli.options import Device, Json, NetworkOptions
from segment.errors import WrongUse


@app.command(epilog="Example: segment select outputs/my_run --top 20")
def select(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="What `segment predict` or `segment evaluate` wrote.")],
    top: Annotated[int, typer.Option(help="Number of images, or windows, to list.")] = 50,
    by: Annotated[str | None, typer.Option(help="Column that ranks, as mean.predictive_entropy.")] = None,
    method: Annotated[str | None, typer.Option(help="Method of an evaluation; default: mcbn.")] = None,
    ranking: Annotated[
        Path | None, typer.Option(help="Evaluation whose best ranking of validation images a predict run is ranked by.")
    ] = None,
    diverse: Annotated[
        bool, typer.Option("--diverse", help="Choose images unlike one another among four times as many.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            help="With --diverse: compare images by the features of this network, the run's; else by colours."
        ),
    ] = None,
    *,
    loading: NetworkOptions,
    device: Device = "auto",
    regions: Annotated[
        bool, typer.Option("--regions", help="List windows of a predict run, with their boxes and crops.")
    ] = False,
    side: Annotated[int | None, typer.Option(help="Side of a window of --regions, in pixels; default: 128.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV file to write; with --regions a folder; default: in RUN.")
    ] = None,
    json: Json = False,
) -> None:
    """List the images to review or label first, most uncertain first, or the windows; all of them go into a CSV."""
    of_images = {"--method": method, "--ranking": ranking, "--diverse": diverse or None, "--model": model}
    unused = [name for name, value in of_images.items() if value is not None] if regions else []
    if unused:
        raise WrongUse(f"--regions takes windows by --by; {', '.join(unused)} only chooses whole images: leave it out.")
    if regions:
        _select_regions(run, top, by, 128 if side is None else side, output, json=json)
        return
    if side is not None:
        raise WrongUse("--side is that of the windows of --regions: add --regions.")
    from segment.jobs.decisions.select import refuse_other_than_selection, write_selection
    from segment.jobs.decisions.select import select as run_select

    if model is not None and not diverse:
        raise WrongUse("--model gives the features that --diverse compares images in; add --diverse.")
    network = loading.load_if_named(model, device)
    path = output or run / "select.csv"
    refuse_other_than_selection(path)
    selection = run_select(run, top, by=by, method=method, unlike=diverse, ranking=ranking, network=network)
    everything = write_selection(selection, path)
    if json:
        listed_ = [{"id": name, "source": source, selection.by: value} for name, source, value in selection.images]
        said = {"by": selection.by, "why": selection.why, "missing": selection.missing}
        screen.as_json(said | {"images": listed_})
        return
    rows = [[name, "–" if value is None else f"{value:.5g}"] for name, _, value in selection.images]
    total = len(selection.images) + len(selection.rest)
    screen.table(f"The first {len(rows)} of {total} by {selection.by}", ["image", selection.by], rows)
    missing = f"\n{selection.missing}" if selection.missing else ""
    screen.print_text(f"{selection.by}: {selection.why}.{missing}\nThese: {path}. All {total}: {everything}")


def _select_regions(run: Path, top: int, by: str | None, side: int, output: Path | None, *, json: bool) -> None:
    from dataclasses import asdict

    from segment.jobs.decisions.regions import select_regions, write_regions

    regions = select_regions(run, top, measure=by.removeprefix("mean.") if by else None, side=side)
    path = write_regions(regions, output or run / "regions", run)
    if json:
        screen.as_json({"regions": [asdict(region) for region in regions], "file": str(path)})
        return
    rows = [[r.id, f"{r.left}, {r.top}", f"{r.width} x {r.height}", f"{r.value:.5g}"] for r in regions]
    screen.table(f"The {len(rows)} windows to label first", ["image", "x, y", "size", "mean"], rows)
    screen.print_text(f"Their boxes and crops: {path.parent}")
