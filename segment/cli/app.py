"""The commands and how they end: exit codes, one-line refusals, options from a YAML.

Jobs are imported by the command that runs them, so that `--help` needs no torch.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from segment.cli import event_log, screen
from segment.cli.log_messages import set_up, without_details
from segment.cli.option_groups import arguments_of, options_of
from segment.cli.panels import MANY, in_panel
from segment.cli.parser_errors import parser_error_message
from segment.errors import NotTrusted, SegmentError, WrongUse, count_of, one_line, ran_out_of_memory
from segment.stores.urls import url_of
from segment.version import __version__


def _from_config(context: typer.Context, value: Path | None) -> Path | None:
    if value is not None:
        from segment.networks.building.uris import is_uri, runs_code
        from segment.settings import read_options

        known = {parameter.name or "": parameter for parameter in context.command.params}
        names = [name for name in known if name not in ("config", "help", "trust")]
        several = [name for name in names if getattr(known[name], "multiple", False)]
        options = read_options(value, names, several)
        model = options.get("model", "")
        if isinstance(model, str) and is_uri(model) and runs_code(model):
            raise NotTrusted(f"--config {str(value)!r} names {model!r}, which runs code. Name it on the command line.")
        context.default_map = {**(context.default_map or {}), **options}
    return value


def _set_verbosity(value: bool) -> None:  # noqa: FBT001 - typer calls it
    set_up(verbose=value)


def _set_quiet(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        screen.set_quiet(quiet=True)


def _set_isolation(context: typer.Context, value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        from segment.images.isolation import end_isolation, isolate

        isolate()
        context.find_root().call_on_close(end_isolation)


def _set_most_pixels(context: typer.Context, value: int | None) -> None:
    if value is not None:
        from segment.images.limits import set_most_pixels

        set_most_pixels(value)
        context.find_root().call_on_close(partial(set_most_pixels, None))


Config = Annotated[
    Path | None,
    typer.Option(
        "--config", callback=_from_config, is_eager=True, help="YAML with any of these options; the command line wins."
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=_set_verbosity, help="Print more on stderr.")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", callback=_set_quiet, help="No progress and no text; --json, warnings and errors stay."
    ),
]
Isolate = Annotated[
    bool,
    typer.Option(
        "--isolate",
        callback=_set_isolation,
        help="Decode files in a process of its own: one that crashes, hangs or fills the memory fails alone.",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(callback=_set_most_pixels, help="Pixels that an image may have; default: the card's, else Pillow's."),
]


class App(typer.Typer):
    """Commands with the options that callbacks obey, so that no command declares them.

    All have `--config`, `--verbose` and `--quiet`; those with a runner `--log-json`; those that take MODEL and
    read images the options on how.
    """

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        register = super().command(name, **options)

        def add(function: Any) -> Any:
            own = signature(function, eval_str=True)
            options = options_of(own.parameters.values())
            added = _shared_options({option.name for option in options})

            @wraps(function)
            def call(**values: Any) -> Any:
                try:
                    return function(**arguments_of(own.parameters.values(), values))
                except EOFError as error:  # of a damaged file; the parser would take it for Ctrl-D
                    raise WrongUse(f"A file ends before its content does: {one_line(error, 120)}.") from error

            options += [
                Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                for name, (kind, default) in added.items()
            ]
            if len(options) > MANY:
                options = [in_panel(option) for option in options]
            call.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
            call.__annotations__ = {option.name: option.annotation for option in options}
            register(call)
            return function

        return add


READ = ("images", "source", "run", "paths")
"""Parameters of commands whose images are read; `inspect` and `export` read none."""


def _shared_options(own: Collection[str]) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of what `App` adds to a command of these parameters, in the order of its `--help`."""
    added: dict[str, tuple[Any, Any]] = {"log_json": (event_log.LogJson, "")} if "runner" in own else {}
    added |= {"config": (Config, None), "verbose": (Verbose, False), "quiet": (Quiet, False)}
    if "model" in own and any(name in own for name in READ):
        added |= {"isolate": (Isolate, False), "max_pixels": (MaxPixels, None)}
    return added


ABOUT = (
    "Uncertainty for semantic segmentation, from trained networks with batch normalisation (BN). No retraining, no new "
    "layers."
)
app = App(
    name="segment",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 some images failed, 2 wrong use, 3 model or bank refused, 4 out of memory, "
    "5 object store did not answer, 130 interrupted, 143 terminated.",
)

INTERRUPTED, TERMINATED = 130, 143


def _print_version(value: bool) -> None:  # noqa: FBT001 - typer calls it
    if value:
        screen.print_text(f"segment {__version__}")
        raise typer.Exit


@app.callback(help=ABOUT)
def segment(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """What is given before the name of a command."""


def run() -> None:
    """Run the command line; end with the exit code that the refusal carries."""
    code, screen.last_error = 1, ""  # of a traceback
    try:
        with _termination_as_interrupt() as received:
            code = _exit_code()
            if code == INTERRUPTED:
                code = TERMINATED if received else INTERRUPTED
                word = "Terminated" if received else "Interrupted"
                screen.refuse(f"{word}. What is done is kept: run it again to go on, with --resume if it has it.")
    finally:
        event_log.finish(code, screen.last_error)
    sys.exit(code)


@contextmanager
def _termination_as_interrupt() -> Iterator[list[int]]:
    """SIGTERM, as `kill` and a system that shuts down send it, ends a run as Ctrl-C does; the list then holds it."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not received:  # a second signal would end what the first lets finish
            received.append(number)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield received
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_code() -> int:
    screen.set_quiet(quiet=False)
    try:
        _load_commands()
        code = app(standalone_mode=False)
    except SegmentError as refusal:
        return _refuse(str(refusal), refusal.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        where = "" if error.filename is None else f"{str(error.filename)!r}: "
        return _refuse(f"{where}{error.strerror or error}. Check that it is there and may be used.", 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's; its class is click's or typer's own, by typer's version
            if message := parser_error_message(error):
                screen.refuse(message)
            return 2
        if ran_out_of_memory(error):
            return _refuse(f"Out of memory: {one_line(error, 160)}. Try smaller images or batches.", 4)
        raise
    return code if isinstance(code, int) else 0


def _refuse(text: str, code: int) -> int:
    screen.refuse(text)
    return code


REASONS = 3
"""Reasons of failures that are shown; the others are in the manifest."""


def end_with_failures(
    failed: Mapping[str, str],
    output: Path,
    file: str = "manifest.jsonl",
    *,
    held_out: Mapping[str, str] | None = None,
    total: int | None = None,
    uncertain: Mapping[str, float] | None = None,
) -> None:
    """How many images of a run failed, the most frequent reasons, and exit code 1, where there are any.

    file: in the output folder, that names them. held_out: validation images that failed, named in validation.json
    total: images that are done or failed. uncertain: those with the largest mean uncertainty, for `--log-json`
    """
    files = [name for name, of_file in ((file, failed), ("validation.json", held_out)) if of_file]
    failed = {**{f"validation image {name}": why for name, why in (held_out or {}).items()}, **failed}
    groups: dict[str, list[str]] = {}
    for name, why in failed.items():
        groups.setdefault(without_details(why), []).append(name)
    by_reason = sorted(groups.values(), key=len, reverse=True)
    if (log := event_log.current()) is not None:
        log.summary(
            done=None if total is None else total - len(failed),
            failed=len(failed),
            reasons={failed[names[0]]: len(names) for names in by_reason},
            uncertain=uncertain or {},
        )
    if not failed:
        return
    paths = " and ".join(url_of(output / name) for name in files)
    images = f"{len(failed)} of {total} images" if total else count_of(len(failed), "image")
    reasons = []
    for names in by_reason[:REASONS]:
        more = f" and {len(names) - 1} more for the same reason" if len(names) > 1 else ""
        reasons.append(f"{names[0]}{more}: {failed[names[0]].rstrip('.')}.")
    if (left := len(by_reason) - REASONS) > 0:
        reasons.append(f"{count_of(left, 'other reason')}.")
    others = "" if len(failed) == total else "; the others are done"
    screen.refuse(f"{images} failed, named in {paths}{others}. {' '.join(reasons)}")
    raise typer.Exit(1)


def _load_commands() -> None:
    decisions = ("select", "triage", "compare", "tune")
    reports = ("sweep", "report", "export", "experiments")
    for module in ("inspect", "banks", "predict", "evaluate", *decisions, *reports):
        import_module(f"segment.cli.commands.{module}")  # each adds its commands to `app`
