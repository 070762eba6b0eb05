"""The commands and how they end: exit codes, one-line refusals, options from a YAML.

Jobs are imported by the command that runs them, so that `--help` needs no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from segment.cli import screen
from segment.errors import SegmentError, one_line
from segment.version import __version__


def _set_quiet(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        screen.set_quiet(quiet=True)


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_set_quiet, help="No progress and no text; --json, warnings and errors stay."
    ),
]


class App(typer.Typer):
    """Commands with `--quiet`, which all of them have."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        register = super().command(name, **options)

        def add(function: Any) -> Any:
            @wraps(function)
            def call(*arguments: Any, quiet: bool = False, **values: Any) -> Any:
                return function(*arguments, **values)

            own = signature(function, eval_str=True)
            quiet = Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
            call.__signature__ = own.replace(parameters=[*own.parameters.values(), quiet])  # type: ignore[attr-defined]
            call.__annotations__ = {**function.__annotations__, "quiet": Quiet}
            register(call)
            return function

        return add


app = App(
    name="segment",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Trustworthy uncertainty for semantic segmentation, from batch-normalised networks people already have.",
    epilog="Exit codes: 0 done, 1 some images failed, 2 wrong use, 3 model or bank refused, 4 out of memory, "
    "130 interrupted.",
)

INTERRUPTED = 130


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        screen.print_text(f"segment {__version__}")
        raise typer.Exit


@app.callback()
def segment(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Trustworthy uncertainty for semantic segmentation, from batch-normalised networks people already have."""


def run() -> None:
    """Run the command line; end with the exit code that the refusal carries."""
    sys.exit(_exit_code())


def _exit_code() -> int:
    _load_commands()
    screen.set_quiet(quiet=False)
    try:
        code = app(standalone_mode=False)
    except SegmentError as refusal:
        return _refuse(str(refusal), refusal.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except OSError as error:
        where = "" if error.filename is None else f"{str(error.filename)!r}: "
        return _refuse(f"{where}{error.strerror or error}. Check that it is there and may be used.", 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's; its class is click's or typer's own, by typer's version
            return _report_parser_error(error)
        if _out_of_memory(error):
            return _refuse(f"Out of memory: {one_line(error, 160)}. Try smaller images or batches.", 4)
        raise
    if code == INTERRUPTED:
        return _refuse("Interrupted. What was finished is whole; a run goes on with --resume.", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _refuse(text: str, code: int) -> int:
    screen.refuse(text)
    return code


def _report_parser_error(error: Any) -> int:
    """Show the parser's error in one line; nothing for a command without arguments, whose help is on the screen."""
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if type(error).__name__ != "NoArgsIsHelpError":
        hint = "" if context is None else f" See `{context.command_path} --help`."
        screen.refuse(message.rstrip(".") + "." + hint)
    return 2


def _out_of_memory(error: Exception) -> bool:
    message = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in message or "can't allocate memory" in message


def end_with_failures(failed: Mapping[str, str], output: Path) -> None:
    """Name the images of an evaluation or a sweep that failed, and end with exit code 1 where there are any."""
    if failed:
        name, why = next(iter(failed.items()))
        named = ", ".join(list(failed)[:5])
        images = "1 image" if len(failed) == 1 else f"{len(failed)} images"
        path = output / ("validation.json" if name.startswith("validation image") else "manifest.jsonl")
        screen.refuse(f"{images} failed ({named}), named in {path}. {name}: {why}")
        raise typer.Exit(1)


def _load_commands() -> None:
    for module in ("commands", "banks", "predicting", "scoring", "triaging", "sweeping", "reporting", "experiments"):
        import_module(f"segment.cli.{module}")  # each adds its commands to `app`


def _from_config(context: typer.Context, value: Path | None) -> Path | None:
    if value is not None:
        from segment.settings import read_options

        known = {parameter.name or "": parameter for parameter in context.command.params}
        names = [name for name in known if name not in ("config", "help")]
        several = [name for name in names if getattr(known[name], "multiple", False)]
        context.default_map = {**(context.default_map or {}), **read_options(value, names, several)}
    return value


def _set_verbosity(value: bool) -> None:  # noqa: FBT001 - typer calls it
    screen.set_up(verbose=value)


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_from_config, is_eager=True, help="YAML with any of these options; the command line wins."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=_set_verbosity, help="Print more on stderr.")]
