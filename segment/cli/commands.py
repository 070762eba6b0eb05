"""inspect, fit, predict, demo, doctor: options to one job each, and what is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segment.cli import screen
from segment.cli.app import Config, Device, Json, Model, Verbose, Weights, app
from segment.errors import WrongUse

if TYPE_CHECKING:
    from segment.estimation.estimator import Tiling
    from segment.estimation.mcbn import Draws
    from segment.networks.load import Network

Memory = Annotated[
    str | None, typer.Option(help="Most memory of this process, as 4GiB; default: 80 % of what is free.")
]
Out = Annotated[Path, typer.Option("--output", "-o", help="Where it goes.")]


def loaded(model: str, weights: Path | None, device: str) -> Network:
    """The network of a command line, on its device."""
    import torch

    from segment.estimation.memory_budget import keep_freed_pages
    from segment.networks.load import load_network

    keep_freed_pages()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_network(model, weights=weights, device=device)


def size_of(text: str | None) -> tuple[int, int] | None:
    """HxW to (H, W).

    >>> size_of("360x480")
    (360, 480)
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise WrongUse(f"--size {text!r} is not HxW; write rows x columns, as 360x480.")
    return int(parts[0]), int(parts[1])


def listed(text: str) -> tuple[str, ...]:
    """Names with commas between.

    >>> listed("png, npz")
    ('png', 'npz')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def tiling_of(text: str) -> Tiling:
    """auto, off, or N pixels.

    >>> tiling_of("auto"), tiling_of("512")
    ('auto', 512)
    """
    if text.isdecimal() and int(text) > 0:
        return int(text)
    if text not in ("auto", "off"):
        raise WrongUse(f"--tile is auto, off or a number of pixels from 1 up, not {text!r}.")
    return "off" if text == "off" else "auto"


def draws_of(text: str | None) -> Draws:
    """auto, or N draws; None: all.

    >>> draws_of("auto"), draws_of("16")
    ('auto', 16)
    """
    if text is None or text == "auto":
        return "auto" if text else None
    try:
        return int(text)
    except ValueError:
        raise WrongUse(f"--draws is auto or a number of draws, not {text!r}.") from None


def mebibytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


@app.command()
def inspect(
    model: Model,
    layers: Annotated[str, typer.Option(help="all, or globs with commas.")] = "all",
    size: Annotated[str, typer.Option(help="HxW of the pass whose memory is counted.")] = "480x640",
    weights: Weights = None,
    device: Device = "cpu",
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """List the BN layers of MODEL: stochastic, fixed and why; and the memory of one pass."""
    from segment.jobs.inspect import inspect_network

    found = inspect_network(loaded(model, weights, device), layers=layers, size=size_of(size) or (480, 640))
    if json:
        screen.as_json(
            {
                "name": found.name,
                "parameters": found.parameters,
                "classes": found.classes,
                "head": found.head,
                "size": list(found.size),
                "pass_bytes": found.pass_bytes,
                "layers": [
                    {
                        "name": layer.name,
                        "kind": layer.kind,
                        "channels": layer.channels,
                        "status": layer.status,
                        "reason": layer.reason,
                    }
                    for layer in found.layers
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
        for layer in found.layers
    ]
    columns = ["layer", "kind", "channels", "in a draw"]
    screen.table(f"{found.name}: BN layers in the order of the data", columns, rows, words=("kind", "in a draw"))
    screen.say(
        f"{found.stochastic} of {len(found.layers)} BN layers are stochastic. {found.parameters:,} parameters, "
        f"{found.classes} classes ({found.head}).\nOne pass over {found.size[0]}x{found.size[1]} holds "
        f"{mebibytes(found.pass_bytes)} of activations at once in fp32."
    )
    if found.whole_image:
        screen.say(
            "A layer sees one value an image (global pooling): with M = 1 it has no variance; use --batch 2 or more."
        )


@app.command()
def fit(
    model: Model,
    images: Annotated[str, typer.Option(help="Training images: folder, glob, image or text list.")],
    output: Out,
    batch: Annotated[int | None, typer.Option(help="M, images behind a draw; default: the card's, else 32.")] = None,
    draws: Annotated[int, typer.Option(help="T, draws to record.")] = 128,
    seed: Annotated[int, typer.Option(help="Picks the mini-batches.")] = 0,
    layers: Annotated[str, typer.Option(help="all, or globs with commas, as decoder.*")] = "all",
    size: Annotated[str | None, typer.Option(help="HxW, where the card has no training pipeline.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16; statistics of bf16 are off by about 4e-3.")] = "fp32",
    memory: Memory = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Take a bank that was recorded of the very same before; --no-cache: record anew.",
        ),
    ] = True,
    weights: Weights = None,
    device: Device = "auto",
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Record a bank of T draws from M-image mini-batches that look as in training."""
    import time

    from segment.draws.reference import sentence
    from segment.estimation.precision import choose
    from segment.files.bank_cache import BankCache
    from segment.files.writing import check_writable
    from segment.jobs.fit import fit as run_fit

    if precision not in ("fp32", "bf16"):
        raise WrongUse(f"--precision {precision!r}: a bank is recorded in fp32 or bf16.")
    if output.suffix != ".safetensors":
        raise WrongUse(f"A bank is written as .safetensors; add the suffix: -o {output}.safetensors")
    check_writable(output)
    network = loaded(model, weights, device)
    start = time.perf_counter()

    with screen.progress() as shown:
        bank, found = run_fit(
            network,
            images,
            output,
            batch=batch,
            draws=draws,
            seed=seed,
            layers=layers,
            size=size_of(size),
            precision="bf16" if precision == "bf16" else "fp32",
            memory=memory,
            cache=BankCache.of_user() if cache else None,
            progress=shown,
        )
    seconds = time.perf_counter() - start
    record = bank.provenance
    device_type = next(parameter.device.type for parameter in network.module.parameters())
    chosen, why = choose(record["audit"].get(device_type, {}))
    if json:
        kept = ("network", "batch", "draws", "seed", "images", "layers", "audit")
        screen.as_json(
            {
                "bank": str(output),
                "layers_drawn": len(bank.layers),
                "seconds": round(seconds, 2),
                "reused": None if found is None else str(found),
                **{key: record[key] for key in kept},
                "reference": record.get("reference"),
                "precision": chosen,
            }
        )
        return
    screen.say(
        f"{output}: {len(bank)} draws of {len(bank.layers)} BN layers, M = {record['batch']} of {record['images']} "
        f"images, in {seconds:.1f} s{_reused(found, output)}.\n--precision auto will take {chosen}: {why}."
    )
    screen.say(f"{sentence(record['reference'])}." if record.get("reference") else "No running statistics to compare.")


def _reused(found: Path | None, output: Path) -> str:
    if found is None:
        return ""
    where = "it was there already" if found == output else f"copied from {found}"
    return f" (recorded of the very same before, {where}; --no-cache records anew)"


@app.command()
def predict(
    model: Model,
    source: Annotated[str, typer.Argument(metavar="SRC", help="Images: folder, glob, image or text list.")],
    bank: Annotated[Path, typer.Option(help="Bank that `segment fit` recorded for this network.")],
    output: Out,
    draws: Annotated[
        str | None,
        typer.Option(metavar="N|auto", help="The first N of the bank; auto: as many as an image needs; default: all."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="With --draws auto: the Monte Carlo standard error of a probability that is enough.")
    ] = 0.02,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    maps: Annotated[str, typer.Option(help="With commas: prediction, probability or any measure.")] = (
        "prediction,variance,predictive_entropy,mutual_information"
    ),
    heat: Annotated[str, typer.Option(help="Measure shown in heat.png and overlay.png.")] = "predictive_entropy",
    heat_max: Annotated[float | None, typer.Option(help="Its last colour; one scale for the run.")] = None,
    format: Annotated[str, typer.Option(help="png, npz, with commas.")] = "png,npz",
    fold: Annotated[int, typer.Option(help="Draws in one pass.")] = 1,
    memory: Memory = None,
    tile: Annotated[
        str, typer.Option(help="auto: tiles where an image does not fit in memory; off; or N: tiles of N x N pixels.")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in this folder.")] = False,
    weights: Weights = None,
    device: Device = "auto",
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Write mask, uncertainty maps, heat map and overlay of every image into a RUN folder."""
    from segment.files.banks import load_bank
    from segment.jobs.predict import PredictPlan, predict

    plan = PredictPlan(
        draws=draws_of(draws),
        tolerance=tolerance,
        precision=precision,
        maps=listed(maps),
        heat=heat,
        heat_max=heat_max,
        formats=listed(format),
        fold=fold,
        tile=tiling_of(tile),
        memory=memory,
    )
    network = loaded(model, weights, device)
    with screen.progress() as shown:
        summary = predict(network, source, load_bank(bank), output, plan, resume=resume, progress=shown)
    if json:
        screen.as_json(
            {
                "run": str(summary.folder),
                "done": summary.done,
                "failed": dict(summary.failed),
                "draws": summary.draws,
                "precision": summary.precision,
                "seconds": round(summary.seconds, 2),
                **({"mean_draws": round(summary.mean_draws, 2)} if plan.draws == "auto" else {}),
            }
        )
    else:
        each = f"{summary.draws} draws each"
        if plan.draws == "auto":
            each = f"{summary.mean_draws:.1f} of {summary.draws} draws on average"
        screen.say(
            f"{summary.folder}: {summary.done} done, {len(summary.failed)} failed, {each}, "
            f"{summary.precision}, {summary.seconds:.1f} s."
        )
        if summary.done:
            screen.say(f"Look at {summary.folder / 'sheet.png'} first.")
    if summary.failed:
        total, first = summary.done + len(summary.failed), next(iter(summary.failed.items()))
        screen.refuse(
            f"{len(summary.failed)} of {total} images failed, named in {summary.folder / 'manifest.jsonl'}, "
            f"the others are done. {first[0]}: {first[1]}"
        )
        raise typer.Exit(1)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the demo's images, bank and run.")] = Path(
        "outputs/demo"
    ),
    json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Run the whole way on generated street scenes and the shipped network, offline."""
    from segment.jobs.demo import demo as run_demo

    with screen.progress() as shown:
        found = run_demo(output, progress=shown)
    if json:
        screen.as_json(found.as_dict())
        return
    screen.table(found.title, list(found.columns), [list(row) for row in found.rows])
    for line in found.findings:
        screen.say(line)
    screen.say(f"Look at {found.sheet} first.")


@app.command()
def doctor(json: Json = False, config: Config = None, verbose: Verbose = False) -> None:
    """Tell versions, devices and what is missing and how to get it."""
    from segment.jobs.doctor import examine

    found: dict[str, Any] = examine()
    if json:
        screen.as_json(found)
        return
    rows = [[name, str(value)] for name, value in found.items()]
    screen.table("What this machine has", ["what", "found"], rows, words=("found",))
