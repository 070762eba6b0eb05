"""fit, distill: options to the job that makes a bank, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segment.cli import screen
from segment.cli.app import app
from segment.cli.next_steps import command_line
from segment.cli.options import (
    Device,
    EngineName,
    Json,
    ListingOptions,
    Memory,
    Model,
    NetworkOptions,
    Out,
    choice,
    size_of,
)
from segment.cli.running import PlaceOptions, runner_at, see_alone
from segment.errors import WrongUse, count_of

if TYPE_CHECKING:
    from segment.draws.bank import Bank
    from segment.passes.passes import Engine

WHOLE = ".all.safetensors"
"""The suffix of the bank of all T draws, beside the bank that is distilled from them."""


@app.command(epilog="Example: segment fit my_card.yaml --images TRAINING_IMAGES -o bank.safetensors")
def fit(
    model: Model,
    images: Annotated[str, typer.Option(help="Training images: folder, glob, image or text list.")],
    output: Out,
    batch: Annotated[int | None, typer.Option(help="M, images behind a draw; default: the card's, else 32.")] = None,
    draws: Annotated[int, typer.Option(help="T, draws to record.")] = 128,
    distill: Annotated[
        int | None,
        typer.Option(
            help="K: then distil them to K draws, as `segment distill`; all T stay in OUTPUT.all.safetensors."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the choice of mini-batches.")] = 0,
    layers: Annotated[
        str, typer.Option(help="BN layers that are drawn: all, or globs with commas, as decoder.*")
    ] = "all",
    size: Annotated[
        str | None, typer.Option(help="Size HxW of the images, where the card has no training pipeline.")
    ] = None,
    *,
    frames: ListingOptions,
    precision: Annotated[
        str, typer.Option(help="Precision of recording: fp32 or bf16; statistics of bf16 are off by about 4e-3.")
    ] = "fp32",
    memory: Memory = None,
    engine: EngineName = "torch",
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Reuse a bank that was recorded of the same network, images and options; --no-cache: record anew.",
        ),
    ] = True,
    loading: NetworkOptions,
    place: PlaceOptions,
    json: Json = False,
) -> None:
    """Record a bank of T draws from mini-batches of M images, transformed as in training."""
    import time

    from segment.draws.reference import sentence
    from segment.estimation.precision import resolve_precision
    from segment.files.banks.cache import BankCache
    from segment.files.writing import check_writable
    from segment.jobs.distill import check_output, distill_bank
    from segment.jobs.fit import fit as run_fit
    from segment.jobs.recording.plan import FitPlan

    recorded_in: Literal["fp32", "bf16"] = choice("--precision of a bank", precision, ("fp32", "bf16"))
    engine_name: Engine = choice("--engine", engine, ("torch", "openvino"))
    if output.suffix != ".safetensors":
        raise WrongUse(f"A bank is written as .safetensors; add the suffix: -o {output}.safetensors")
    if distill is not None and not 1 <= distill < draws:
        raise WrongUse(f"--distill {distill} of --draws {draws}: distilling leaves fewer draws, 1 or more.")
    where = place.work_place(engine)
    check_writable(output)
    whole = output if distill is None else output.with_suffix(WHOLE)
    see_alone(where.gpus)
    network = loading.load(model, where.device)
    listing = frames.listing()
    plan = FitPlan(
        batch=batch,
        draws=draws,
        seed=seed,
        layers=layers,
        size=size_of(size),
        precision=recorded_in,
        memory=memory,
        engine=engine_name,
    )
    if distill is not None:  # the draws take long: what is there is looked at before as well
        check_output(output, network, images, plan, distill, listing)
    start = time.perf_counter()

    with (
        runner_at(where, network.device.type) as runner,
        screen.progress() as shown,
    ):
        bank, reused_file = run_fit(
            network,
            images,
            whole,
            plan,
            cache=BankCache.of_user() if cache else None,
            listing=listing,
            progress=shown,
            runner=runner,
        )
        seconds = time.perf_counter() - start
        small = None
        if distill is not None:
            small = distill_bank(
                network, bank, images, draws=distill, size=size_of(size), listing=listing, output=output, progress=shown
            )
    provenance = bank.provenance
    chosen, why = resolve_precision("auto", bank, network.device, engine_name)
    if json:
        keys = ("network", "batch", "draws", "seed", "images", "layers", "audit")
        screen.as_json(
            {
                "bank": str(whole),
                "layers_drawn": len(bank.layers),
                "seconds": round(seconds, 2),
                "reused": None if reused_file is None else str(reused_file),
                **{key: provenance[key] for key in keys},
                "reference": provenance.get("reference"),
                "precision": chosen,
                **({} if small is None else {"distilled": _distilled(small, len(bank), output)}),
            }
        )
        return
    screen.print_text(
        f"{whole}: {count_of(len(bank), 'draw')} of {count_of(len(bank.layers), 'BN layer')}, "
        f"M = {provenance['batch']} of {count_of(provenance['images'], 'image')}, in {seconds:.1f} s"
        f"{_reused(reused_file, whole)}."
    )
    reference = provenance.get("reference")
    screen.print_text(f"{sentence(reference)}." if reference else "No running statistics to compare.")
    screen.print_text(f"--precision auto will take {chosen}: {why}.")
    if small is not None:
        _print_distilled(small, len(bank), output)
    after = command_line("predict", model, "IMAGES", **loading.given(), bank=output, output="RUN")
    screen.print_text(f"Next: {after}")


def _reused(file: Path | None, output: Path) -> str:
    if file is None:
        return ""
    where = "it was there already" if file == output else f"copied from {file}"
    return f" (recorded of the very same before, {where}; --no-cache records anew)"


def _distilled(small: Bank, draws: int, output: Path) -> dict[str, Any]:
    """What is shown of a bank that was distilled from `draws` draws."""
    distillation = small.provenance["distillation"]
    return {
        "bank": str(output),
        "draws": len(small),
        "of": draws,
        "step": distillation["step"],
        "held_out_error_chosen": distillation["error_chosen"],
        "held_out_error": distillation["error"],
        "weights": [round(weight, 5) for weight in small.weights.tolist()],
        "seconds": distillation["seconds"],
    }


def _print_distilled(small: Bank, draws: int, output: Path) -> None:
    shown = _distilled(small, draws, output)
    refined = f"refined {shown['held_out_error']:.3f}" if shown["step"] else "no step of refinement came nearer"
    screen.print_text(
        f"{output}: {len(small)} weighted draws stand for {draws}, in {shown['seconds']:.0f} s.\n"
        f"Variance map on held-out views, relative L1 error against the whole bank: "
        f"chosen {shown['held_out_error_chosen']:.3f}, "
        f"{refined}.\nIts draws are no random sample: it has no standard_error, and is used whole."
    )


@app.command(
    epilog="Example: segment distill bank.safetensors my_card.yaml --images TRAINING_IMAGES -o small.safetensors"
)
def distill(
    bank: Annotated[Path, typer.Argument(metavar="BANK", help="Bank that `segment fit` recorded for MODEL.")],
    model: Model,
    images: Annotated[str, typer.Option(help="Training images: folder, glob, image or text list.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The distilled bank to write.")],
    draws: Annotated[int, typer.Option(help="K, the number of distilled draws.")] = 8,
    views: Annotated[int, typer.Option(help="Training views to choose and refine by; more are better.")] = 128,
    held_out: Annotated[int, typer.Option(help="Views of other training images, which decide when to stop.")] = 16,
    steps: Annotated[int, typer.Option(help="Most steps of refinement; 0: choose draws only.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of all random choices.")] = 0,
    *,
    frames: ListingOptions,
    loading: NetworkOptions,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Make K weighted draws that stand for a whole bank, so that a map takes K passes."""
    from segment.files.banks.bank_file import load_bank
    from segment.files.writing import check_writable
    from segment.jobs.distill import distill_bank

    if output.suffix != ".safetensors":
        raise WrongUse(f"A bank is written as .safetensors; add the suffix: -o {output}.safetensors")
    check_writable(output)
    whole = load_bank(bank)
    network = loading.load(model, device)
    with screen.progress() as shown:
        small = distill_bank(
            network,
            whole,
            images,
            draws=draws,
            seed=seed,
            views=views,
            held_out=held_out,
            steps=steps,
            listing=frames.listing(),
            output=output,
            progress=shown,
        )
    if json:
        screen.as_json(_distilled(small, len(whole), output))
    else:
        _print_distilled(small, len(whole), output)
