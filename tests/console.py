"""The command line called from a test as a person calls it, in this process; and small things to call it with."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner, Result

from segment.cli import app
from segment.files.runs.lock import LOCK
from segment.files.writing import write_png
from segment.scenes.scene import TEST, TRAIN, scene

SMALL = (64, 96)
DRAWS = 4

NETWORKS = '''
import torch
from torch import nn


class Net(nn.Module):
    """Conv, BN, ReLU, conv; the same weights whenever it is made."""

    def __init__(self, outputs=3, inputs=3, norm=nn.BatchNorm2d, seed=0):
        super().__init__()
        self.first = nn.Conv2d(inputs, 8, 3, padding=1)
        self.norm = norm(8)
        self.last = nn.Conv2d(8, outputs, 1)
        generator = torch.Generator().manual_seed(seed)
        for value in self.parameters():
            if value.ndim > 1:
                value.data = torch.randn(value.shape, generator=generator)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


class Nan(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")


class NanInside(Net):
    def forward(self, x):
        return super().forward(x * float("nan"))


class NanOnBlack(Net):
    def forward(self, x):
        return super().forward(x) / x.amax(dim=(1, 2, 3), keepdim=True)


class Picky(Net):
    def forward(self, x):
        assert x.shape[-1] % 32 == 0, "the width is no multiple of 32"
        return super().forward(x)


def plain(**arguments):
    return Net(**arguments)


class Stopping(Net):
    """As if somebody pressed Ctrl-C at the first mini-batch."""

    def forward(self, x):
        if len(x) > 1:
            raise KeyboardInterrupt
        return super().forward(x)


class Mixed(Net):
    """A second BN layer, which keeps no running statistics."""

    def __init__(self):
        super().__init__()
        self.other = nn.BatchNorm2d(8, track_running_stats=False)

    def forward(self, x):
        return self.last(self.other(self.norm(self.first(x)).relu()))


def without_batchnorm():
    return Net(norm=lambda channels: nn.GroupNorm(4, channels))
'''


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error, which must be the last line of stderr, and the only one that is no warning."""
        lines = self.err.splitlines()
        others = [line for line in lines if not line.startswith("Warning: ")]
        assert len(others) == 1, self.err
        assert lines[-1] == others[0], self.err
        assert others[0].startswith("Error: "), self.err
        return others[0]


def segment(*arguments: object) -> Ended:
    """`segment ARGUMENTS`, ended; its logging and warnings do not outlive it, and a traceback is never right."""
    ours = logging.getLogger("segment")
    kept = (ours.handlers, ours.level, ours.propagate)
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    try:
        with (
            patch.object(sys, "argv", ["segment", *map(str, arguments)]),
            redirect_stdout(out),
            redirect_stderr(err),
            warnings.catch_warnings(),
        ):
            app.run()
    except SystemExit as ended:
        code = ended.code
    finally:
        ours.handlers, ours.propagate = kept[0], kept[2]
        ours.setLevel(kept[1])
    result = Ended(int(code or 0), out.getvalue(), err.getvalue())
    assert "Traceback" not in result.out + result.err
    return result


def invoked(*arguments: object) -> Result:
    """`segment ARGUMENTS` without what `run` makes of errors: a refusal is the result's `exception`."""
    app._load_commands()
    return CliRunner().invoke(app.app, [str(argument) for argument in arguments])


def photographs(folder: Path, count: int = 3, size: tuple[int, int] = SMALL) -> Path:
    """A folder of generated scenes a.png, b.png, ..."""
    for name, seed in zip("abcdefgh"[:count], TEST, strict=False):
        write_png(folder / f"{name}.png", scene(seed, size=size).image)
    return folder


def training(folder: Path, count: int = 4) -> Path:
    """A folder of scenes for statistics, of the size that the shipped card's training pipeline gives."""
    for seed in TRAIN[:count]:
        write_png(folder / f"{seed}.png", scene(seed).image)
    return folder


def fitted(path: Path, images: Path, model: str = "scenes", *more: object) -> Path:
    """A bank of DRAWS draws of M = 2."""
    ended = segment("fit", model, "--images", images, "--batch", 2, "--draws", DRAWS, "-o", path, *more)
    assert ended.code == 0, ended.err
    return path


def lines(run_folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest's lines by id; every one of them whole."""
    text = (run_folder / "manifest.jsonl").read_text(encoding="utf-8")
    assert text.endswith("\n")
    records = [json.loads(line) for line in text.splitlines()]
    return {line["id"]: line for line in records}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but a run's lock, by its relative path."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
