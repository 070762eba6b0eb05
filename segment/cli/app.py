"""The commands and how they end: exit codes, one-line refusals, options from a YAML.

Jobs are imported by the command that runs them, so that `--help` needs no torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import click
import typer

from segment.cli import screen
from segment.errors import SegmentError

app = typer.Typer(
    name="segment", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False,
    help="Trustworthy uncertainty for semantic segmentation, from batch-normalised networks people already have.",
    epilog="Exit codes: 0 done, 1 some images failed, 2 wrong use, 3 model or bank refused, 4 out of memory, "
    "130 interrupted.",
)  # fmt: skip


def run() -> None:
    """Run the command line; end with the exit code that the refusal carries."""
    _load_commands()
    try:
        code = app(standalone_mode=False)
    except SegmentError as refusal:
        screen.refuse(str(refusal))
        sys.exit(refusal.exit_code)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except (click.exceptions.Abort, KeyboardInterrupt):
        screen.refuse("Interrupted. What was finished is whole; a run goes on with --resume.")
        sys.exit(130)
    except click.ClickException as wrong:
        wrong.show()
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(code if isinstance(code, int) else 0)


def _load_commands() -> None:
    for module in ("commands", "scoring", "experiments"):
        import_module(f"segment.cli.{module}")  # each adds its commands to `app`


def _from_config(context: typer.Context, value: Path | None) -> Path | None:
    if value is not None:
        from segment.settings import read_options

        known = [parameter.name or "" for parameter in context.command.params]
        options = read_options(value, [name for name in known if name not in ("config", "help")])
        context.default_map = {**(context.default_map or {}), **options}
    return value


def _verbose(value: bool) -> None:  # noqa: FBT001 - typer calls it
    screen.set_up(verbose=value)


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_from_config, is_eager=True, help="YAML with any of these options; the command line wins."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=_verbose, help="Say more on stderr.")]
Model = Annotated[
    str, typer.Argument(help="Model card, its name, or a URI such as smp:Unet?encoder=resnet34&classes=11.")
]
Weights = Annotated[Path | None, typer.Option(help="Weights: safetensors, or a state dict (never unpickled).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
