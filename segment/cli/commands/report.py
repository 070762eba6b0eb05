"""report: options to one HTML file about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app
from segment.cli.log_messages import warn
from segment.cli.options import Device, Json, NetworkOptions
from segment.errors import count_of


@app.command(epilog="Example: segment report outputs/my_run outputs/scores -o report.html")
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_SCORES...",
            help="A run of predict; beside it folders of evaluate and sweep, and JSON files of triages or comparisons.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading of the report; default: the run's folder and network.")] = "",
    labels: Annotated[
        str | None, typer.Option(help="Label maps of the run's images; default: those of an evaluation given.")
    ] = None,
    flip_book: Annotated[
        list[str] | None, typer.Option(help="Id of an image whose single draws are shown; may be repeated.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Network of the run, for --flip-book.")] = None,
    bank: Annotated[Path | None, typer.Option(help="Bank of the run, for --flip-book.")] = None,
    *,
    loading: NetworkOptions,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write one self-contained HTML file to decide by: which images, and which pixels, to trust."""
    from segment.files.banks.bank_file import load_bank
    from segment.jobs.report import report as write_report

    network = loading.load_if_named(model, device)
    with screen.progress() as shown:
        written = write_report(
            paths,
            output,
            title=title,
            labels=labels,
            flip_book=flip_book or (),
            network=network,
            bank=None if bank is None else load_bank(bank),
            progress=shown,
        )
    if json:
        names = [str(path) for path in written.files]
        numbers = {"bytes": written.size, "images": written.images, "failed": written.failed}
        screen.as_json({"files": names, **numbers, "warnings": list(written.warnings)})
        return
    for line in written.warnings:
        warn(line)
    pages = "" if len(written.files) == 1 else f" in {len(written.files)} pages"
    failed = "" if not written.failed else f", {written.failed} failed"
    images = count_of(written.images, "image") if written.images or written.failed else "scores and no images"
    screen.print_text(f"{written.files[0]}: {images}{failed}, {written.size / 1e6:.1f} MB{pages}.")
