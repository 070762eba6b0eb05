"""The paper's UCI regression sets and their random splits.

Must not know a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segment.errors import WrongUse, near

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


@dataclass(frozen=True, kw_only=True)
class Table:
    """One data set: x (n, D) and y (n), float64, in original units."""

    name: str
    x: Tensor
    y: Tensor

    @property
    def rows(self) -> int:
        return self.x.shape[0]


def read_table(data: Path, name: str) -> Table:
    """Read `uci/<file>` under the data folder: comma-separated, a header row, the target last.

    Error: WrongUse for a name that is not known or a file that is not there, not numeric or not complete.
    """
    if name not in FILES:
        raise WrongUse(f"No data set is called {name!r}.{near(name, FILES)} Known: {', '.join(FILES)}.")
    path = data / "uci" / FILES[name]
    if not path.is_file():
        raise WrongUse(f"Data set {name!r} is not at {path}; give the folder that holds uci/ as the data folder.")
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    except (ValueError, OSError, EOFError) as broken:
        raise WrongUse(f"{path} does not read as a table of numbers: {broken}.") from broken
    if not np.isfinite(rows).all() or rows.shape[1] < 2:
        raise WrongUse(f"{path} has gaps or fewer than two columns: {rows.shape[0]} rows of {rows.shape[1]}.")
    return Table(name=name, x=torch.from_numpy(rows[:, :-1]), y=torch.from_numpy(rows[:, -1]))


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
