"""One experiment by its name, or all of them one after another with an index page of every verdict.

Must not know what an experiment measures.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from segment.errors import WrongUse, near
from segment.experiments.pages import assemble
from segment.experiments.reporting import Budget, Progress, Verdict
from segment.files.runs.lock import sole_writer
from segment.files.writing import check_writable, write_text
from segment.pictures.plots import needs_matplotlib

if TYPE_CHECKING:
    from segment.experiments.uci.dropout_check import CheckPlan
    from segment.experiments.uci.splits import Plan

MODULES = {
    "uci": "uci.experiment",
    "toy": "regression.toy",
    "uncertainty-error": "uci.uncertainty_error",
    "cifar": "cifar.experiment",
    "segmentation": "segmentation.experiment",
    "theory": "theory.experiment",
    "cost": "cost.experiment",
}
"""In the order of the index page; uncertainty-error after uci, whose finished splits it reads."""
FOLDERS = {
    "uci": ("uci",),
    "uncertainty-error": ("uci",),
    "cifar": ("cifar10",),
    "segmentation": ("camvid",),
    "theory": ("uci", "cifar10"),
}
"""Of the data, those that an experiment reads, beside weights."""
BY_SPLITS = ("uci", "uncertainty-error")
INDEX = "index.md"
TITLE = "The paper's results, rebuilt"


def run_experiment(
    name: str,
    out: Path,
    *,
    budget: str,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    splits: Sequence[int] | None = None,
    sets: Sequence[str] | None = None,
    finished: bool = False,
) -> list[Verdict]:
    """The verdicts of one experiment, which leaves its files in `out`; its page says the command and what it took.

    splits, sets: seeds of the splits, and names of the sets, to run instead of the budget's, where there are any.
    finished: compute none of them, and leave out those that are not finished, also checks of MC dropout.
    uncertainty-error reads finished splits of a folder `uci` beside its own.
    Errors: WrongUse for a budget not known, splits or sets where there are none, a finished split that is damaged or
    made with other settings or data, none that is finished, or where another process writes to the folder; MissingExtra
    without matplotlib.
    """
    if budget not in get_args(Budget):
        known = ", ".join(get_args(Budget))
        raise WrongUse(f"No budget is called {budget!r}.{near(budget, get_args(Budget))} Known: {known}.")
    needs_matplotlib()
    more: dict[str, Any] = {}
    if splits is not None or sets is not None or finished:
        more["plan"] = _plan(name, budget, splits, sets, finished=finished)
        if name == "uci":
            more["checks"] = _checks(budget, sets)
    if name == "uncertainty-error" and (out.parent / "uci" / "kept").is_dir():
        more["kept"] = out.parent / "uci" / "kept"
    module = import_module(f"segment.experiments.{MODULES[name]}")
    goes_on = (more.get("kept") or out / "kept").is_dir()
    with ExitStack() as locks:
        for folder in (out, more["kept"].parent) if "kept" in more else (out,):
            locks.enter_context(sole_writer(folder))
        wall, busy = time.monotonic(), time.process_time()
        verdicts: list[Verdict] = module.run(out, budget=budget, data=data, seed=seed, progress=progress, **more)
        wall, busy = time.monotonic() - wall, time.process_time() - busy
        chosen = "" if splits is None else f" --splits {','.join(map(str, splits))}"
        chosen += "" if sets is None else f" --sets {','.join(sets)}"
        chosen += " --finished" if finished else ""
        skipped = ", finished parts that it found not counted" if goes_on else ""
        _insert_sentence(
            out / "page.md",
            f"`segment experiment {name} --budget {budget} --seed {seed}{chosen}`: {busy / 60:.1f} minutes of "
            f"processor time, {wall / 60:.1f} minutes by the clock{skipped}.",
        )
    return verdicts


def _plan(name: str, budget: str, splits: Sequence[int] | None, sets: Sequence[str] | None, *, finished: bool) -> Plan:
    from segment.experiments.uci.splits import PLANS, SETS

    if name not in BY_SPLITS:
        raise WrongUse(
            f"{name} has no splits and no sets; --splits, --sets and --finished are for {' and '.join(BY_SPLITS)}."
        )
    if splits is not None and (not splits or min(splits) < 1 or len(set(splits)) < len(splits)):
        raise WrongUse(f"--splits takes different seeds from 1 up, not {','.join(map(str, splits))!r}.")
    if sets is not None and (not sets or len(set(sets)) < len(sets) or not set(sets) <= set(SETS)):
        raise WrongUse(f"--sets takes different names of {', '.join(SETS)}, not {','.join(sets)!r}.")
    plan = PLANS[budget]  # type: ignore[index]
    return replace(
        plan, splits=tuple(splits or plan.splits), sets=tuple(sets or plan.sets), finished=finished or plan.finished
    )


def _checks(budget: str, sets: Sequence[str] | None) -> CheckPlan:
    from segment.experiments.uci.experiment import CHECKS

    checks = CHECKS[budget]  # type: ignore[index]
    return replace(checks, sets=tuple(sets or checks.sets))


def run_all(
    out: Path,
    *,
    budget: str,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    names: Sequence[str] = tuple(MODULES),
) -> list[Verdict]:
    """Each experiment in a folder of its name below `out`, and `index.md` with all verdicts, tables and figures.

    Errors: those of `run_experiment`; WrongUse for a folder of data that any of them lacks, before the first one.
    """
    if not data.is_dir():
        raise WrongUse(f"The experiments' data is not at {str(data)!r}; name its folder with --data DIR.")
    read = dict.fromkeys(folder for name in names for folder in FOLDERS.get(name, ()))
    if lacking := [f"{folder}/" for folder in read if not (data / folder).is_dir()]:
        raise WrongUse(
            f"The experiments' data at {str(data)!r} lacks {', '.join(lacking)}; name another folder with --data DIR, "
            "or run the other experiments one by one."
        )
    verdicts: list[Verdict] = []
    with sole_writer(out):
        for name in names:
            verdicts += run_experiment(name, out / name, budget=budget, data=data, seed=seed, progress=progress)
        command = f"segment experiment all --budget {budget} --seed {seed}"
        assemble([out / name for name in names], out / INDEX, title=TITLE, command=command)
    return verdicts


def report(folders: Sequence[Path], target: Path) -> list[str]:
    """Write `target`, one document of what experiments left below these folders; the names of those that are in it.

    Where two folders hold an experiment, the first one's is taken. Error: WrongUse where there is none.
    """
    check_writable(target)
    held = {name: [folder / name for folder in folders if (folder / name / "page.md").is_file()] for name in MODULES}
    taken = {name: places[0] for name, places in held.items() if places}
    if not taken:
        asked = ", ".join(repr(str(folder)) for folder in folders)
        raise WrongUse(f"No experiment's page is below {asked}; run one first: segment experiment all -o DIR.")
    command = f"segment experiment report {' '.join(map(str, folders))}"
    assemble(list(taken.values()), target, title=TITLE, command=command)
    return list(taken)


def _insert_sentence(page: Path, sentence: str) -> None:
    title, rest = page.read_text(encoding="utf-8").split("\n", 1)
    write_text(page, f"{title}\n\n{sentence}\n{rest}")
