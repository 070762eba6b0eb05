"""export: options to the job that writes a network and its draws as one graph, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import app
from segment.cli.options import Json, Model, NetworkOptions, here_only
from segment.errors import count_of


@app.command(epilog="Example: segment export my_card.yaml --bank bank.safetensors -o mcbn.onnx")
def export(
    model: Model,
    bank: Annotated[Path, typer.Option(help="Bank of MODEL; a distilled one has the fewest passes.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="FILE.onnx; or FILE.xml, with FILE.bin, for OpenVINO.", callback=here_only),
    ],
    draws: Annotated[int | None, typer.Option(help="Take the first N draws of the bank; default: all.")] = None,
    *,
    loading: NetworkOptions,
    json: Json = False,
) -> None:
    """Write MODEL under the draws of a bank as one graph: pixels in, probability and maps of uncertainty out."""
    from segment.estimation.memory_budget import bytes_text
    from segment.files.banks.bank_file import load_bank
    from segment.jobs.prediction.export import export as run_export

    whole = load_bank(bank)
    used = whole if draws is None else whole.first(draws)
    exported = run_export(loading.load(model, "cpu"), used, output)
    if json:
        screen.as_json(
            {
                "graph": str(exported.path),
                "draws": exported.draws,
                "bytes": exported.bytes,
                "compared_by": exported.engine,
                "largest_difference": exported.differences,
            }
        )
        return
    screen.print_text(
        f"{exported.path}: one graph of {count_of(exported.draws, 'draw')}, {bytes_text(exported.bytes)}. Run by "
        f"{exported.engine} at several sizes it differs from segment by at most "
        f"{max(exported.differences.values()):.1e}."
    )
