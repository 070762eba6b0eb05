"""compare: two runs to the tests of what differs, and what is shown of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app
from segment.cli.options import GroupsTable, Json, here_only, refuse_unused


@app.command(epilog="Example: segment compare outputs/a outputs/b -o outputs/comparison")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="RUN that `segment evaluate` or `segment predict` wrote.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another RUN: of other images, another bank or method.")],
    method: Annotated[str | None, typer.Option(help="Method of an evaluation; default: mcbn.")] = None,
    other_method: Annotated[str | None, typer.Option(help="Method of B, where it is another than A's.")] = None,
    pair: Annotated[
        bool, typer.Option("--pair/--no-pair", help="Compare images of the same id; --no-pair: the sets as wholes.")
    ] = True,
    known: Annotated[
        list[Path] | None, typer.Option(help="Labelled run under another shift, to check estimated accuracies on.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="Test over groups of images: folder, sequence, or a column of --groups-table."),
    ] = None,
    groups_table: GroupsTable = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Folder for a page, a picture and JSON; default: nothing is written.",
            callback=here_only,
        ),
    ] = None,
    plots: Annotated[
        bool | None,
        typer.Option("--plots/--no-plots", help="With --output: the picture (extra `plots`); default: --plots."),
    ] = None,
    json: Json = False,
) -> None:
    """Compare two runs: which numbers differ, whether that is significant, and what accuracy to expect."""
    from segment.jobs.decisions.compare import compare as run_compare
    from segment.jobs.decisions.compare import write_comparison
    from segment.pictures.plots import needs_matplotlib
    from segment.report.comparison_rows import screen_rows
    from segment.report.run_comparison import comparison_sentences

    if output is None:
        refuse_unused({"--plots": plots or None}, "--output FOLDER")
    picture = plots is not False
    if picture and output is not None:
        needs_matplotlib()
    compared = run_compare(
        first,
        second,
        method=method,
        other_method=other_method,
        pair=pair,
        known=known or (),
        groups=groups,
        table=groups_table,
    )
    page = None
    if output is not None:
        page = write_comparison(compared, output, (str(first), str(second)), picture=picture)
    if json:
        screen.as_json(compared.as_dict())
        return
    columns, rows = screen_rows(compared)
    if rows:
        title = f"A: {compared.names[0]}, B: {compared.names[1]}; last: where significant after Holm's correction"
        screen.table(title, list(columns), rows, words=columns[-1:])
    for line in comparison_sentences(compared):
        screen.print_text(line)
    if page is not None:
        screen.print_text(f"Look at {page}.")
