"""`segment experiment NAME`: the paper's tables and figures, and the training of the shipped network."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segment.cli import screen
from segment.cli.app import App, app
from segment.cli.options import Json, counts, here_only, listed

if TYPE_CHECKING:
    from segment.experiments.reporting import Verdict

log = logging.getLogger(__name__)

experiment = App(help="Rebuild a result of the paper, or the shipped network.", no_args_is_help=True)
app.add_typer(experiment, name="experiment")

Out = Annotated[Path, typer.Option("--output", "-o", help="Folder for what it writes.", callback=here_only)]
Budget = Annotated[str, typer.Option(help="quick: minutes for all; paper: the full protocol (uci: hours to a day).")]
Data = Annotated[Path, typer.Option(help="Folder with uci/, cifar10/, camvid/ and weights/.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same tables.", min=0)]

Splits = Annotated[str, typer.Option(help="uci and uncertainty-error: seeds of the splits, as 1,2,5.")]
Finished = Annotated[
    bool,
    typer.Option("--finished", help="uci and uncertainty-error: compute nothing, take finished splits."),
]
Sets = Annotated[str, typer.Option(help="uci and uncertainty-error: data sets, as yacht,boston.")]

DATA = Path("data")
"""The repository's own folder for data, seen from its root."""
ABOUT = {
    "uci": "Regression on the UCI sets: MCBN, MC dropout, MNF and an ensemble between constant and optimum.",
    "toy": "95 % bands on a curve with gaps in its data.",
    "uncertainty-error": "Errors sorted by the uncertainty estimated for them.",
    "cifar": "Log-likelihood against the number of draws, on CIFAR-10.",
    "segmentation": "Masks, uncertainty and their scores by the size of a mini-batch.",
    "theory": "Mini-batch statistics against the central limit theorem, and weight decay as a prior.",
    "cost": "Seconds to a map, and before the first one, for every method.",
}


def _add(name: str) -> None:
    @experiment.command(name, help=ABOUT[name])
    def command(
        output: Out,
        budget: Budget = "quick",
        data: Data = DATA,
        seed: Seed = 0,
        splits: Splits = "",
        sets: Sets = "",
        finished: Finished = False,
        json: Json = False,
    ) -> None:
        from segment.experiments.reproduction import run_experiment

        verdicts = run_experiment(
            name,
            output,
            budget=budget,
            data=data,
            seed=seed,
            progress=log.info,
            splits=counts(splits, "--splits") if splits else None,
            sets=listed(sets) if sets else None,
            finished=finished,
        )
        _show(verdicts, output / "page.md", json)


for experiment_name in ABOUT:
    _add(experiment_name)


@experiment.command("all")
def run_every(
    output: Out,
    budget: Budget = "quick",
    data: Data = DATA,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Every experiment above, and index.md with all verdicts, tables and figures. --verbose says what is under way."""
    from segment.experiments.reproduction import INDEX, run_all

    _show(run_all(output, budget=budget, data=data, seed=seed, progress=log.info), output / INDEX, json)


@experiment.command("report")
def report(
    folders: Annotated[list[Path], typer.Argument(help="Folders that hold experiments' folders; the first one wins.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The Markdown file to write.")],
    json: Json = False,
) -> None:
    """Put what experiments left together in one document, with small copies of their figures beside it."""
    from segment.experiments.reproduction import report as written

    names = written(folders, output)
    if json:
        screen.as_json({"page": str(output), "experiments": names})
    else:
        screen.print_text(f"{output}: {', '.join(names)}")


def _show(verdicts: list[Verdict], page: Path, json: bool) -> None:  # noqa: FBT001 - the option itself
    if json:
        keys = ("experiment", "claim", "outcome", "numbers")
        screen.as_json(
            {"page": str(page), "verdicts": [{key: getattr(verdict, key) for key in keys} for verdict in verdicts]}
        )
        return
    for verdict in verdicts:
        screen.print_text(f"{verdict.outcome}: {verdict.claim}\n    {verdict.numbers}")
    counts = Counter(verdict.outcome for verdict in verdicts)
    screen.print_text(f"{', '.join(f'{count} {outcome}' for outcome, count in counts.items())}; all of it in {page}")


@experiment.command("train-scenes")
def train_scenes(
    output: Out,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and augmentation.", min=0)] = 0,
    steps: Annotated[int, typer.Option(help="Mini-batches of 4 scenes.", min=1)] = 2400,
    threads: Annotated[int, typer.Option(help="Threads of torch.", min=1)] = 2,
    json: Json = False,
) -> None:
    """Train the shipped network from nothing on generated scenes (about four minutes of processor time)."""
    from segment.experiments.segmentation.scenes_training import train_scenes as train

    with screen.progress() as shown:
        scores = train(
            output,
            seed=seed,
            steps=steps,
            threads=threads,
            progress=lambda done, total, loss: shown("training", done, total),
        )
    if json:
        screen.as_json(scores)
    else:
        screen.print_text(f"{output}: " + ", ".join(f"{name} {value:.4f}" for name, value in scores.items()))
