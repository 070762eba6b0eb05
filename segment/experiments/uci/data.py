"""The paper's UCI regression sets and their random splits.

Must not know a network.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segment.errors import WrongUse, count_of, near, one_line

FILES = {
    "boston": "boston.csv",
    "concrete": "concrete.csv",
    "energy": "energy.csv",
    "kin8nm": "kin8nm.csv",
    "power": "power.csv",
    "protein": "protein.csv.gz",
    "wine": "wine_red.csv",
    "yacht": "yacht.csv",
}
LEAST_ROWS = 25
"""Of fewer rows a test part, a fifth of them, has fewer than five, and a fold of what is left has three at most."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One data set: x (n, D) and y (n), float64, in original units."""

    name: str
    x: Tensor
    y: Tensor

    @property
    def rows(self) -> int:
        return self.x.shape[0]

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers."""
        return hashlib.sha256(self.x.numpy().tobytes() + self.y.numpy().tobytes()).hexdigest()


def table_if_there(data: Path, name: str) -> Table | None:
    """The data set, None where its file is not there. Error: WrongUse for a file that does not read."""
    return read_table(data, name) if name in FILES and (data / "uci" / FILES[name]).is_file() else None


def read_table(data: Path, name: str) -> Table:
    """Read `uci/<file>` under the data folder: comma-separated, a header row, the target last.

    Error: WrongUse for a name that is not known or a file that is not there, not numeric, not complete or too short.
    """
    if name not in FILES:
        raise WrongUse(f"No data set is called {name!r}.{near(name, FILES)} Known: {', '.join(FILES)}.")
    path = data / "uci" / FILES[name]
    if not path.is_file():
        raise WrongUse(f"Data set {name!r} is not at {path}; give the folder that holds uci/ as the data folder.")
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        header, *lines = [line for line in text.splitlines() if line.strip()] or [""]
        rows = np.loadtxt(lines, delimiter=",", comments=None, ndmin=2) if lines else np.empty((0, 0))
    except (ValueError, OSError, EOFError, zlib.error) as broken:
        why = one_line(broken, 160).rstrip(".")
        raise WrongUse(f"{path} does not read as a table of numbers, with commas between them: {why}.") from broken
    if _is_numbers(header):
        raise WrongUse(f"{path} has numbers in its first row, where names belong: write a header row above it.")
    if len(rows) < LEAST_ROWS:
        raise WrongUse(
            f"{path} has {count_of(len(rows), 'row')} below its header; an experiment takes {LEAST_ROWS} or more."
        )
    if not np.isfinite(rows).all() or rows.shape[1] < 2:
        raise WrongUse(f"{path} has gaps or fewer than two columns: {rows.shape[0]} rows of {rows.shape[1]}.")
    return Table(name=name, x=torch.from_numpy(rows[:, :-1]), y=torch.from_numpy(rows[:, -1]))


def _is_numbers(line: str) -> bool:
    try:
        return bool([float(cell) for cell in line.split(",")])
    except ValueError:
        return False


def random_split(rows: int, seed: int) -> tuple[Tensor, Tensor]:  # train, test row numbers
    """The authors' split: shuffle all rows by that seed of NumPy's legacy generator, the first fifth is the test part.

    >>> [part.tolist() for part in random_split(5, 1)]
    [[1, 4, 0, 3], [2]]
    """
    order = np.arange(rows)
    np.random.RandomState(seed).shuffle(order)
    count = round(0.2 * rows)
    return torch.from_numpy(order[count:]), torch.from_numpy(order[:count])


def standard_splits(rows: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """The literature's splits: 90 % training rows, permutations in turn from NumPy's legacy generator at seed 1."""
    generator = np.random.RandomState(1)
    splits = []
    for _ in range(count):
        order = torch.from_numpy(generator.choice(range(rows), rows, replace=False))
        train = round(0.9 * rows)
        splits.append((order[:train], order[train:]))
    return splits
