"""`segment distill`: a bank of T draws to K weighted ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import Config, Device, Json, Model, Verbose, Weights, app
from segment.errors import WrongUse


@app.command()
def distill(
    bank: Annotated[Path, typer.Argument(help="Bank that `segment fit` recorded for MODEL.")],
    model: Model,
    images: Annotated[str, typer.Option(help="Training images: folder, glob, image or text list.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The distilled bank.")],
    draws: Annotated[int, typer.Option(help="K, draws that are left.")] = 8,
    views: Annotated[int, typer.Option(help="Training views to choose and refine by; more are better.")] = 128,
    held_out: Annotated[int, typer.Option(help="Views of other images, which decide when to stop.")] = 16,
    steps: Annotated[int, typer.Option(help="Of refinement at most; 0: choose only.")] = 400,
    seed: Annotated[int, typer.Option(help="Of every random choice.")] = 0,
    weights: Weights = None,
    device: Device = "auto",
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Make K weighted draws that stand for a whole bank, so that a map takes K passes."""
    import time

    from segment.cli.commands import loaded
    from segment.files.banks import load_bank, save_bank
    from segment.files.writing import check_writable
    from segment.jobs.distill import distill_bank

    if output.suffix != ".safetensors":
        raise WrongUse(f"A bank is written as .safetensors; add the suffix: -o {output}.safetensors")
    check_writable(output)
    whole = load_bank(bank)
    network = loaded(model, weights, device)
    start = time.perf_counter()
    with screen.progress() as shown:
        small = distill_bank(
            network, whole, images, draws=draws, seed=seed, views=views, held_out=held_out, steps=steps, progress=shown
        )
    save_bank(small, output)
    seconds = time.perf_counter() - start
    made = small.provenance["distillation"]
    if json:
        screen.as_json(
            {
                "bank": str(output),
                "draws": len(small),
                "of": len(whole),
                "step": made["step"],
                "held_out_error_chosen": made["error_chosen"],
                "held_out_error": made["error"],
                "weights": [round(weight, 5) for weight in small.weights.tolist()],
                "seconds": round(seconds, 2),
            }
        )
        return
    refined = f"refined {made['error']:.3f}" if made["step"] else "no step of refinement came nearer"
    screen.say(
        f"{output}: {len(small)} weighted draws stand for {len(whole)}, in {seconds:.0f} s.\n"
        f"Variance map on held-out views, relative L1 error against the whole bank: chosen {made['error_chosen']:.3f}, "
        f"{refined}.\nIts draws are no random sample: it has no standard_error, and is used whole."
    )
