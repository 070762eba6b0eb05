"""One experiment by its name, or all of them one after another with an index page of every verdict.

Must not know what an experiment measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from segment.errors import WrongUse, near
from segment.experiments.pages import assemble
from segment.experiments.reporting import Budget, Progress, Verdict
from segment.files.writing import check_writable

MODULES = {
    "uci": "uci", "toy": "toy", "uncertainty-error": "uncertainty_error", "cifar": "cifar",
    "segmentation": "segmentation", "theory": "theory", "cost": "cost",
}  # fmt: skip
"""In the order of the index page; uncertainty-error after uci, whose finished splits it reads."""
INDEX = "index.md"


def run_one(
    name: str, out: Path, *, budget: str, data: Path, seed: int = 0, progress: Progress | None = None, **more: Any
) -> list[Verdict]:
    """The verdicts of one experiment, which leaves its files in `out`. Errors: WrongUse for a budget not known."""
    if budget not in get_args(Budget):
        raise WrongUse(f"No budget is called {budget!r}.{near(budget, get_args(Budget))} Known: quick, paper.")
    module = import_module(f"segment.experiments.{MODULES[name]}")
    found: list[Verdict] = module.run(out, budget=budget, data=data, seed=seed, progress=progress, **more)
    return found


def run_all(
    out: Path, *, budget: str, data: Path, seed: int = 0, progress: Progress | None = None,
    names: Sequence[str] = tuple(MODULES),
) -> list[Verdict]:  # fmt: skip
    """Each experiment in a folder of its name below `out`, and `index.md` with all verdicts, tables and figures."""
    check_writable(out / INDEX)
    if not data.is_dir():
        raise WrongUse(f"The experiments' data is not at {str(data)!r}; name its folder with --data DIR.")
    verdicts: list[Verdict] = []
    for name in names:
        more = {"kept": out / "uci" / "kept"} if name == "uncertainty-error" and "uci" in names else {}
        verdicts += run_one(name, out / name, budget=budget, data=data, seed=seed, progress=progress, **more)
    command = f"segment experiment all --budget {budget} --seed {seed}"
    assemble([out / name for name in names], out / INDEX, title="The paper's results, rebuilt", command=command)
    return verdicts
