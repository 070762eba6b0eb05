"""Kill a command at random moments, go on with it until it ends, and compare what it left with an undisturbed run.

    python -m benchmarks.kills [--images 200] [--kills 100] [--others 20] [--commands predict,evaluate,...]

Each kill is sent after a random part of the time that the undisturbed run takes. Kinds: `kill` (SIGKILL, as of a
process that runs out of memory), `term` (SIGTERM), `interrupt` (Ctrl-C), and `full`: one write, chosen at random, ends
with "no space left on device". Needs a POSIX system.
"""

from __future__ import annotations

import argparse
import errno
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image

from segment.cli.app import run as run_command
from segment.draws.bank import bank_fingerprint
from segment.files.banks.bank_file import load_bank
from segment.jobs.recording import worker as recording
from segment.scenes.scene import SIZE, TEST, TRAIN, scene

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
KINDS = (*SIGNALS, "full")
TIMES = ("seconds", "timings", "seconds_per_image", "scoring_seconds", "created")
"""Keys whose values are times."""


@dataclass
class Outcome:
    """What came of one command under one kind of kill.

    kills: how many times it was killed at work; ends: exit codes of the killed processes -> how often
    completed: runs that were gone on with until they ended; different: files of them that are not as undisturbed
    """

    kills: int = 0
    completed: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    different: list[str] = field(default_factory=list)


def scenes(folder: Path, count: int, size: tuple[int, int], *, first: int = TEST[0]) -> Path:
    """Generated street scenes as PNG, and their labels beside them in `FOLDER_labels`; the folder."""
    labels = folder.with_name(folder.name + "_labels")
    for path in (folder, labels):
        path.mkdir(parents=True)
    for number in range(count):
        made = scene(first + number, size=size)
        Image.fromarray(made.image).save(folder / f"{number:03}.png")
        Image.fromarray(made.label).save(labels / f"{number:03}.png")
    return folder


def child(arguments: Sequence[str], fail_at: int | None = None, count: Path | None = None) -> int:
    """A forked process that runs a command, silent; its number.

    fail_at: the write that finds the disk full. count: a file that gets the number of writes
    """
    number = os.fork()
    if number:
        return number
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        faulthandler.enable()  # a crash prints where it happened
        calls = _fill_disk(fail_at)
        code = here(arguments)
        if count is not None:
            count.write_text(str(len(calls)))
        os._exit(code)
    except KeyboardInterrupt:  # before or after the command
        os._exit(130)
    except BaseException:  # nothing of the parent may run on in its fork
        os._exit(99)


def here(arguments: Sequence[str]) -> int:
    """The exit code of a command in this process, silent."""
    with (
        Path(os.devnull).open("w") as silent,
        redirect_stdout(silent),
        redirect_stderr(silent),
        patch.object(sys, "argv", ["segment", *arguments]),
    ):
        try:
            run_command()
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 0
    return 0


def _fill_disk(fail_at: int | None) -> list[Any]:
    """From now on, one call of fsync finds the disk full; None: none does. The list of calls, which grows."""
    sync, calls = os.fsync, list[Any]()

    def full(handle: Any) -> None:
        calls.append(handle)
        if len(calls) == fail_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    patch.object(os, "fsync", full).start()
    return calls


def ended(number: int) -> int:
    """The exit code of a child, minus the signal's number where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def contents(path: Path) -> dict[str, bytes]:
    """What a command left, without times: each file's bytes; JSON without its times; the newest line of each image."""
    files = {}
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        name = str(file.relative_to(path))  # "." for a bank
        if file.is_dir() or file.name == ".lock":
            continue
        data = file.read_bytes()
        if file.suffix == ".safetensors":  # a bank, whose provenance holds how long its audit took
            data = bank_fingerprint(load_bank(file)).encode()
        elif file.name == "manifest.jsonl":
            lines = {line["id"]: line for line in map(json.loads, data.splitlines())}
            data = json.dumps(_without_times([lines[id] for id in sorted(lines)])).encode()
        elif file.suffix == ".json":
            data = json.dumps(_without_times(json.loads(data)), sort_keys=True).encode()
        elif file.name == "page.md":
            data = re.sub(rb"[\d.]+ minutes (by the clock|of processor time).*", b"", data)
        elif file.suffix in (".csv", ".npz") and file.name != "maps.npz":
            continue  # tables of the JSON beside them, and states; both hold times
        files[name] = data
    return files


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Command:
    """A command line without its output. again: the option that goes on with it; output: the name of what it writes."""

    arguments: tuple[str, ...]
    again: tuple[str, ...] = ("--resume",)
    output: str = "run"

    def to(self, place: Path, *, resume: bool) -> list[str]:
        return [*self.arguments, *(self.again if resume else ()), "-o", str(place)]


def disturbed(command: Command, folder: Path, kind: str, kills: int, generator: random.Random) -> Outcome:
    """Kill the command that often, over as many runs as it takes; every run is gone on with until it ends."""
    reference = folder / "undisturbed" / command.output
    begun, count = time.monotonic(), folder / "writes"
    if (code := ended(child(command.to(reference, resume=False), count=count))) != 0:
        raise RuntimeError(f"The undisturbed run ended with {code}: {command.arguments}")
    duration, expected, writes = time.monotonic() - begun, contents(reference), int(count.read_text())
    outcome = Outcome()
    while outcome.kills < kills:
        place = folder / f"{kind}_{outcome.completed}" / reference.name
        resume = False
        while True:
            more = outcome.kills < kills
            fail_at = generator.randint(1, writes) if kind == "full" and more else None
            number = child(command.to(place, resume=resume), fail_at)
            if kind in SIGNALS and more:
                time.sleep(generator.uniform(0, 0.7 * duration))
                os.kill(number, SIGNALS[kind])
            code = ended(number)
            outcome.ends[str(code)] = outcome.ends.get(str(code), 0) + 1
            if code == 0:
                break
            outcome.kills += 1
            resume = place.exists()
        outcome.completed += 1
        left = contents(place)
        names = sorted({*left, *expected})
        outcome.different += [f"{place}: {name}" for name in names if left.get(name) != expected.get(name)]
        shutil.rmtree(place.parent)
    return outcome


def commands_of(folder: Path, images: int, size: tuple[int, int], data: Path) -> dict[str, Command]:
    """The commands on generated scenes with the embedded network, each on a part of the images that suits its cost.

    data: the folder that holds `uci`, which an experiment reads
    """
    photos = scenes(folder / "photos", images, size)
    few = scenes(folder / "few", max(4, images // 10), size)
    train = scenes(folder / "train", 12, SIZE, first=TRAIN[0])
    bank = folder / "bank.safetensors"
    fit = ("fit", "scenes", "--images", str(train), "--batch", "4", "--no-cache", "--precision", "fp32")
    labels = ("--labels", str(few) + "_labels", "--precision", "fp32")
    predict = ("predict", "scenes", str(photos), "--bank", str(bank), "--draws", "2", "--precision", "fp32")
    evaluate = ("evaluate", "scenes", "--images", str(few), "--bank", str(bank), "--methods", "mcbn,deterministic")
    sweep = ("sweep", "scenes", "--images", str(few), "--train", str(train), "--batches", "4", "--draws", "1,2")
    tune = ("tune", "scenes", "--images", str(few), "--train", str(train), "--batches", "4,8", "--passes", "4")
    one = ("predict", "scenes", str(photos / "000.png"), *predict[3:], "-o", str(folder / "one"))
    for words in ([*fit, "--draws", "3", "-o", str(bank)], one):  # here, so that forked processes import nothing
        if (code := here(words)) != 0:
            raise RuntimeError(f"{words} ended with {code}")
    return {
        "predict": Command(predict),
        "evaluate": Command((*evaluate, *labels)),
        "sweep": Command((*sweep, "--shift", "noise", "--severities", "1,3", "--no-plots", *labels)),
        "fit": Command((*fit, "--draws", "16"), again=(), output="bank.safetensors"),
        "distill": Command(
            ("distill", str(bank), "scenes", "--images", str(train), "--draws", "2", "--views", "8", "--steps", "4"),
            again=(),
            output="bank2.safetensors",
        ),
        "tune": Command((*tune, *labels), again=()),
        "experiment": Command(
            ("experiment", "uci", "--sets", "yacht", "--splits", "1,2", "--data", str(data)), again=()
        ),
    }


def kill_commands(
    folder: Path,
    names: Sequence[str],
    counts: Mapping[str, int],
    *,
    images: int,
    size: tuple[int, int] = (32, 48),
    seed: int = 0,
    data: Path = Path("data"),
    show: Callable[[str], object] = lambda _: None,
) -> dict[str, dict[str, Outcome]]:
    """Command -> kind -> outcome. counts: kind -> how many kills."""
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    recording.EVERY = 0.0  # these fits take seconds, and are to leave draws behind
    generator = random.Random(seed)
    commands = commands_of(folder, images, size, data)
    outcomes: dict[str, dict[str, Outcome]] = {}
    for name in names:
        for kind, kills in counts.items():
            place = folder / name / kind
            place.mkdir(parents=True)
            outcomes.setdefault(name, {})[kind] = disturbed(commands[name], place, kind, kills, generator)
            show(f"{name}, {kind}: {asdict(outcomes[name][kind])}")
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--others", type=int, default=20, help="kills of each other kind")
    parser.add_argument("--commands", default="predict,evaluate,sweep,fit,distill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder with uci/, for experiment")
    arguments = parser.parse_args()
    counts = {kind: arguments.kills if kind == "kill" else arguments.others for kind in KINDS}
    with tempfile.TemporaryDirectory() as folder:
        outcomes = kill_commands(
            Path(folder),
            arguments.commands.split(","),
            counts,
            images=arguments.images,
            seed=arguments.seed,
            data=arguments.data,
            show=lambda line: sys.stderr.write(line + "\n"),
        )
    numbers = {name: {kind: asdict(outcome) for kind, outcome in kinds.items()} for name, kinds in outcomes.items()}
    sys.stdout.write(json.dumps({"images": arguments.images, "commands": numbers}, indent=2) + "\n")


if __name__ == "__main__":
    main()
