"""MC dropout on the literature's standard splits, beside what the reference implementation reports.

Settings of the reference (Gal & Ghahramani 2016, their published code): one hidden layer, dropout before every matrix,
mini-batches of 128, a grid over dropout rate and tau on an 80-20 validation part, then a retrained network. The figures
it reports are of ten times the epochs of the paper's own table, which are its n_epochs.txt (40; protein 20) times 10:
4000 (protein 2000). Source: github.com/yaringal/DropoutUncertaintyExps, experiment_10x_epochs.py and readme.md.
Must not know the other experiments.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor

from segment.errors import WrongUse, one_line
from segment.experiments.kept import refuse_others
from segment.experiments.regression.methods import seeded
from segment.experiments.regression.predictive import Array, log_likelihood
from segment.experiments.regression.stack import Architecture, Stack, TrainingData, standardised
from segment.experiments.regression.stack_training import StackFit, Training
from segment.experiments.reporting import Row, Verdict, judged, standard_error, with_error
from segment.experiments.uci.data import FILES, Table, read_table, standard_splits, table_if_there
from segment.files.reading import as_json_values, file_bytes
from segment.files.writing import write_text

RATES = (0.005, 0.01, 0.05, 0.1)
LENGTH_SCALE = 1e-2
BATCH = 128
ROUNDING = 0.005  # the reference prints two decimals
AT_ONCE = 100_000  # rows in one pass


@dataclass(frozen=True, kw_only=True)
class ReportedScores:
    """What the reference code is set to and reports: tau grid (original units), width, epochs; mean and standard error.

    A standard error of None was printed as 0.00 or not at all.
    """

    taus: tuple[float, float, float]
    rmse: tuple[float, float | None]
    log_likelihood: tuple[float, float | None]
    width: int = 50
    epochs: int = 4000
    splits: int = 20


REFERENCES = {
    "yacht": ReportedScores(taus=(0.25, 0.5, 0.75), rmse=(0.67, 0.05), log_likelihood=(-1.25, 0.01)),
    "boston": ReportedScores(taus=(0.1, 0.15, 0.2), rmse=(2.90, 0.18), log_likelihood=(-2.40, 0.04)),
    "energy": ReportedScores(taus=(0.25, 0.5, 0.75), rmse=(0.54, 0.06), log_likelihood=(-1.21, 0.01)),
    "wine": ReportedScores(taus=(2.5, 3.0, 3.5), rmse=(0.62, 0.01), log_likelihood=(-0.93, 0.01)),
    "concrete": ReportedScores(taus=(0.025, 0.05, 0.075), rmse=(4.82, 0.16), log_likelihood=(-2.93, 0.02)),
    "power": ReportedScores(taus=(0.05, 0.1, 0.15), rmse=(4.01, 0.04), log_likelihood=(-2.80, 0.01)),
    "kin8nm": ReportedScores(taus=(150.0, 200.0, 250.0), rmse=(0.08, None), log_likelihood=(1.14, 0.01)),
    "protein": ReportedScores(
        taus=(0.025, 0.05, 0.075), rmse=(4.27, 0.02), log_likelihood=(-2.87, None), width=100, epochs=2000, splits=5
    ),
}
assert set(REFERENCES) == set(FILES)


@dataclass(frozen=True, kw_only=True)
class CheckPlan:
    """Which sets, how many of the standard splits (None: all), and T for the choice and for the test.

    epochs: None: as many as the reference trains
    """

    sets: tuple[str, ...] = tuple(REFERENCES)
    splits: int | None = None
    epochs: int | None = None
    choice_draws: int = 200
    draws: int = 10_000


def check(
    plan: CheckPlan, *, data: Path, kept: Path, seed: int, say: Callable[[str], None], finished: bool = False
) -> dict[str, tuple[list[float], list[float]]]:
    """For each set, RMSE and mean log-likelihood of each split, in original units; kept as JSON, one file a set.

    finished: compute none, and leave out the sets whose check is not finished
    Errors: those of `kept_checks`, before anything is computed.
    """
    scores = kept_checks(plan, data=data, kept=kept, seed=seed, finished=finished)
    for name in plan.sets:
        if name in scores or finished:
            continue
        say(f"{name}, dropout on the standard splits")
        table = read_table(data, name)
        rmse, loglik = _scores_of(table, REFERENCES[name], plan, seeded(seed, len(name), 77))
        held = {"settings": _settings(plan, name, seed), "data": table.digest, "rmse": rmse, "log_likelihood": loglik}
        write_text(_path(kept, name), json.dumps(held))
        scores[name] = (rmse, loglik)
    return {name: scores[name] for name in plan.sets if name in scores}


def kept_checks(
    plan: CheckPlan, *, data: Path, kept: Path, seed: int, finished: bool = False
) -> dict[str, tuple[list[float], list[float]]]:
    """What `check` gives, of the sets whose check is kept.

    finished: leave out those made with other settings or data. Error: WrongUse for these else, and for damaged files.
    """
    scores = {}
    for name in plan.sets:
        path = _path(kept, name)
        if not path.is_file():
            continue
        held, table = _held(path), table_if_there(data, name)
        made_with, wanted = dict(held["settings"]), _settings(plan, name, seed)
        if "data" in held and table is not None:
            made_with["data"], wanted["data"] = held["data"], table.digest
        if made_with != wanted and finished:
            continue
        refuse_others(path, made_with, wanted)
        scores[name] = (held["rmse"], held["log_likelihood"])
    return scores


def _path(kept: Path, name: str) -> Path:
    return kept / f"dropout-{name}.json"


def _settings(plan: CheckPlan, name: str, seed: int) -> dict[str, Any]:
    settings: dict[str, Any] = as_json_values(
        {**asdict(plan), "sets": name, "seed": seed, "reference": asdict(REFERENCES[name])}
    )
    return settings


def _held(path: Path) -> dict[str, Any]:
    try:
        held: dict[str, Any] = json.loads(file_bytes(path))
        TypeAdapter(dict[str, Any]).validate_python(held["settings"])
        for key in ("rmse", "log_likelihood"):
            TypeAdapter(list[float]).validate_python(held[key])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WrongUse(f"{str(path)!r} is damaged: {one_line(error, 120)}. Remove it to make it anew.") from None
    return held


def _scores_of(
    table: Table, reference: ReportedScores, plan: CheckPlan, generator: torch.Generator
) -> tuple[list[float], list[float]]:
    splits = standard_splits(table.rows, reference.splits)[: plan.splits]
    epochs = plan.epochs or reference.epochs
    inner = int(0.8 * len(splits[0][0]))  # the reference takes the first 80 % of the permuted training rows
    validation = standardised(
        table.x, table.y, torch.stack([t[:inner] for t, _ in splits]), torch.stack([t[inner:] for t, _ in splits])
    )
    count = len(splits)
    # tau enters training by an L2 of 1e-4 / (N tau) only, so in the choice one network a rate serves all three
    stack = _trained(validation, reference, [(rate, reference.taus[1]) for rate in RATES] * count, epochs, generator)
    best = [(-math.inf, RATES[0], reference.taus[0])] * count
    for number, (split, rate) in enumerate(itertools.product(range(count), RATES)):
        drawn, target = _drawn(stack, number, validation, split, rate, plan.choice_draws, generator)
        scored = [(_log_likelihood(drawn, target, tau), rate, tau) for tau in reference.taus]
        best[split] = max(best[split], *scored)
    final = standardised(table.x, table.y, torch.stack([t for t, _ in splits]), torch.stack([t for _, t in splits]))
    stack = _trained(final, reference, [(rate, tau) for _, rate, tau in best], epochs, generator)
    rmse, loglik = [], []
    for split, (_, rate, tau) in enumerate(best):
        drawn, target = _drawn(stack, split, final, split, rate, plan.draws, generator)
        rmse.append(float(np.sqrt(((drawn.mean(axis=0) - target) ** 2).mean())))
        loglik.append(_log_likelihood(drawn, target, tau))
    return rmse, loglik


def _trained(
    data: TrainingData,
    reference: ReportedScores,
    pairs: Sequence[tuple[float, float]],
    epochs: int,
    generator: torch.Generator,
) -> Stack:
    """One network for each pair of dropout rate and tau, those of one split side by side."""
    architecture = Architecture(features=data.x.shape[2], hidden=(reference.width,), batchnorm=False, init="glorot")
    count = len(pairs) // len(data.x)
    stack = Stack(architecture, len(data.x), generator, copies=count)
    rates, taus = torch.tensor(pairs).unbind(dim=1)
    fit = StackFit(
        data=data,
        sets=torch.arange(len(data.x)).repeat_interleave(count),
        batch=BATCH,
        l2=LENGTH_SCALE**2 * (1 - rates) / (data.rows * taus),  # twice the reference's factor: ours is halved
        keep=1 - rates,
        loss_scale=1.0,
        leftovers=True,
    )
    Training(stack, fit, generator).run(epochs)
    return stack


def _drawn(
    stack: Stack, number: int, data: TrainingData, split: int, rate: float, draws: int, generator: torch.Generator
) -> tuple[Array, Array]:  # T N, N
    """T passes of one network over the held-out rows of one split, and their targets, in original units."""
    x = data.x_held[split]
    mean, scale = float(data.y_mean[split]), float(data.y_scale[split])
    chunk = max(1, AT_ONCE // len(x))
    parts = [
        stack.dropped(number, x, 1 - rate, stack.noise(min(chunk, draws - at) * len(x), generator))
        for at in range(0, draws, chunk)
    ]
    return _numpy(torch.cat(parts)) * scale + mean, _numpy(data.y_held[split]) * scale + mean


def _log_likelihood(drawn: Array, target: Array, tau: float) -> float:
    columns = range(0, len(target), 500)  # a slice of points at a time: T of them all would fill the memory
    parts = [log_likelihood(drawn[:, at : at + 500], target[at : at + 500], tau) for at in columns]
    return float(np.concatenate(parts).mean())


def _numpy(tensor: Tensor) -> Array:
    array: Array = tensor.double().numpy()
    return array


def check_rows(scores: dict[str, tuple[list[float], list[float]]]) -> tuple[list[Row], list[Row]]:
    """The table for CSV, and as shown."""
    numbers: list[Row] = []
    shown: list[Row] = []
    for name, (rmse, loglik) in scores.items():
        reference = REFERENCES[name]
        fits = {"rmse": _within(rmse, reference.rmse), "ll": _within(loglik, reference.log_likelihood)}
        numbers.append(
            {
                "set": name,
                "splits": len(rmse),
                "rmse": np.mean(rmse),
                "rmse_se": standard_error(rmse),
                "reference_rmse": reference.rmse[0],
                "reference_rmse_se": reference.rmse[1],
                "rmse_within": fits["rmse"],
                "log_likelihood": np.mean(loglik),
                "log_likelihood_se": standard_error(loglik),
                "reference_log_likelihood": reference.log_likelihood[0],
                "reference_log_likelihood_se": reference.log_likelihood[1],
                "log_likelihood_within": fits["ll"],
            }
        )
        shown.append(
            {
                "set": name,
                "splits": len(rmse),
                "RMSE": with_error(rmse),
                "reference": _printed(reference.rmse),
                "within 2 se": "yes" if fits["rmse"] else "no",
                "log-likelihood": with_error(loglik),
                "reference ": _printed(reference.log_likelihood),
                "within 2 se ": "yes" if fits["ll"] else "no",
            }
        )
    return numbers, shown


def check_verdict(scores: dict[str, tuple[list[float], list[float]]], *, complete: bool) -> Verdict:
    """Whether every figure of ours lies within two standard errors of the reference's."""
    outside = []
    for name, (rmse, loglik) in scores.items():
        reference = REFERENCES[name]
        for label, values, target, sign in (
            ("RMSE", rmse, reference.rmse, 1),
            ("log-likelihood", loglik, reference.log_likelihood, -1),
        ):
            if not _within(values, target):
                better = sign * (np.mean(values) - target[0]) < 0
                outside.append(
                    f"{name} {label} {with_error(values)} against {_printed(target)}{', better' if better else ''}"
                )
    cells = 2 * len(scores)
    numbers = f"{cells - len(outside)} of {cells} figures within two standard errors"
    return Verdict(
        experiment="uci",
        claim="MC dropout on the standard splits gives the reference implementation's RMSE and log-likelihood",
        outcome=judged(holds=not outside) if complete else "not testable here",
        numbers=numbers
        + (f"; outside: {'; '.join(outside)}" if outside else "")
        + ("" if complete else "; fewer splits than the reference: the budget paper tests it"),
    )


def _within(values: Sequence[float], reference: tuple[float, float | None]) -> bool:
    error = standard_error(values) if reference[1] is None else reference[1]
    return abs(float(np.mean(values)) - reference[0]) <= 2 * error + ROUNDING


def _printed(reference: tuple[float, float | None]) -> str:
    return f"{reference[0]:.2f}" + ("" if reference[1] is None else f" ± {reference[1]:.2f}")
