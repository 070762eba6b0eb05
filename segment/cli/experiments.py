"""`segment experiment NAME`: the paper's tables and figures, and the training of the shipped network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segment.cli import screen
from segment.cli.app import Config, Json, Verbose, app

experiment = typer.Typer(help="Rebuild a result of the paper, or the shipped network.", no_args_is_help=True)
app.add_typer(experiment, name="experiment")

Out = Annotated[Path, typer.Option("--output", "-o", help="Folder for what it writes.")]


@experiment.command("train-scenes")
def train_scenes(
    output: Out, seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    steps: Annotated[int, typer.Option(help="Mini-batches of 4 scenes.")] = 2400,
    threads: Annotated[int, typer.Option(help="Of torch.")] = 2,
    json: Json = False, config: Config = None, verbose: Verbose = False,
) -> None:  # fmt: skip
    """Train the shipped network from nothing on generated scenes (about four minutes of processor time)."""
    from segment.experiments.scenes_training import train_scenes as train

    with screen.progress() as shown:
        scores = train(
            output, seed=seed, steps=steps, threads=threads,
            progress=lambda done, total, loss: shown("training", done, total),
        )  # fmt: skip
    if json:
        screen.as_json(scores)
    else:
        screen.say(f"{output}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
