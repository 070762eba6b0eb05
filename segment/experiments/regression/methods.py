"""Five ways to an uncertain regression, each from training rows to draws: MCBN, its trained statistics, an ensemble,
MC dropout and MNF; hyper-parameters and observation precision by cross-validation on the training part.

Must not know a data set's name, nor what is made of the scores.
"""  # noqa: D205 (the five methods are one sentence)

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segment.batch_norm.layers import survey
from segment.draws.bank import Bank
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import record
from segment.experiments.regression.mnf_regression import (
    RegressionMNF,
    VariationalFit,
    VariationalTraining,
    predictions,
)
from segment.experiments.regression.predictive import Array, RegressionScores, best_precision, moments, scores_of
from segment.experiments.regression.search import Race, SearchResult, race
from segment.experiments.regression.stack import Architecture, Stack, TrainingData, standardised
from segment.experiments.regression.stack_training import StackFit, Training
from segment.methods.deterministic import Plain, deterministic
from segment.methods.dropout import Dropout
from segment.methods.ensemble import Ensemble
from segment.methods.mcbn import mcbn
from segment.methods.method import Method
from segment.passes.passes import PassPlan

METHODS = ("mcbn", "mcdo", "mnf", "ensemble", "trained statistics")
FLOW_BATCH = 100
FOLDED = 50  # draws in one pass: the networks are tiny, so that Python's overhead dominates


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is trained and how it is chosen; batch sizes and L2 for BN, dropout rates and L2 for dropout.

    folds: of the cross-validation; search_folds: how many of them the hyper-parameters are chosen on, None: all; the
    observation precision is fitted on all; draws: T; members: of the ensemble
    precisions: of MNF's Gaussian likelihood; flow_rate, flow_steps: its learning rate and most steps (None: as many
    epochs as the others), because one MNF step costs ten of the others'
    taus: the range of the observation precision, in original units of the target; None: all that are of use
    """

    hidden: tuple[int, ...] = (50, 50)
    l2: tuple[float, ...] = tuple(10.0**-power for power in range(1, 16))
    batches: tuple[int, ...] = (32, 64, 128, 256, 512, 1024)
    dropouts: tuple[float, ...] = (0.2, 0.1, 0.05, 0.01, 0.005, 0.001)
    dropout_batch: int = 32
    precisions: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0)
    flow_rate: float = 1e-3
    flow_steps: int | None = None
    folds: int = 5
    search_folds: int | None = None
    race: Race = field(default_factory=lambda: Race(of=500))
    draws: int = 500
    members: int = 5
    taus: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One method on one split: the hyper-parameters chosen, and T draws for held-out fold rows and for test rows.

    folds: one (draws T V, targets V) a fold; test: (T, N) draws of the standardised targets
    """

    method: str
    choice: dict[str, float]
    folds: list[tuple[Array, Array]]
    test: Array


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One method on one split: scores in original units, and each test point's |error| and predictive sd.

    precision, constant: tau of the method and of its constant uncertainty, of the standardised target
    """

    method: str
    choice: dict[str, float]
    precision: float
    constant: float
    scores: RegressionScores
    errors: list[float]
    spreads: list[float]


def mcbn_draws(network: nn.Module, rows: Tensor, x: Tensor, *, batch: int, draws: int, seed: int) -> Tensor:  # T N
    """Outputs for x (N, D) under T mini-batches of the training rows; one draw of all rows where a batch holds them."""
    plan = DrawPlan(draws=1 if batch >= len(rows) else draws, batch=min(batch, len(rows)), seed=seed)
    drawn = survey(network, network, rows[:2])
    bank = Bank.of_draws(list(record(drawn, (rows[list(choice.images)] for choice in choices(plan, len(rows))))))
    return outputs(mcbn(drawn, bank, PassPlan(fold=min(FOLDED, len(bank)))), x)


def outputs(method: Method, x: Tensor) -> Tensor:  # N D -> T N
    """What an engine's method gives for rows of one output, all its draws."""
    return torch.stack([output[:, 0] for _, output in method(x)])


def folded(train: Tensor, x: Tensor, y: Tensor, protocol: Protocol, seed: int) -> TrainingData:
    """The cross-validation folds of a training part: row numbers into x (n, D) and y (n)."""
    return standardised(x, y, *fold_rows(train, protocol.folds, seeded(seed, 0)))


def drawn_methods(
    folds: TrainingData, final: TrainingData, protocol: Protocol, seed: int, say: Callable[[str], None]
) -> Iterator[Drawn]:
    """Every method's draws; `final` has one training set, whose held-out rows are the test part."""
    say("batch normalisation: search")
    yield from _batchnorm(folds, final, protocol, seed)
    say("dropout: search")
    yield _dropout(folds, final, protocol, seed)
    say("multiplicative normalizing flows: search")
    yield _flows(folds, final, protocol, seeded(seed, 3))


def scored(drawn: Drawn, final: TrainingData, taus: tuple[float, float] | None = None) -> Scored:
    """Fit tau and the constant on the folds, both by CRPS, and score the test draws."""
    held = [moments(draws) for draws, _ in drawn.folds]
    means, variances = (np.concatenate(part) for part in zip(*held, strict=True))
    targets = np.concatenate([y for _, y in drawn.folds])
    y, scale = final.y_held[0].double().numpy(), float(final.y_scale[0])
    within = (1e-4, 1e8) if taus is None else (taus[0] * scale**2, taus[1] * scale**2)
    precision = best_precision(means, variances, targets, within=within)
    constant = best_precision(means, 0.0, targets, within=within)
    mean, variance = moments(drawn.test)
    return Scored(
        method=drawn.method,
        choice=drawn.choice,
        precision=precision,
        constant=constant,
        scores=scores_of(drawn.test, y, precision=precision, constant=constant).in_units(scale),
        errors=(np.abs(y - mean) * scale).tolist(),
        spreads=(np.sqrt(variance + 1 / precision) * scale).tolist(),
    )


def _batchnorm(folds: TrainingData, final: TrainingData, protocol: Protocol, seed: int) -> Iterator[Drawn]:
    generator = seeded(seed, 1)
    architecture = Architecture(features=folds.x.shape[2], hidden=protocol.hidden)
    choice = _batchnorm_choice(folds.first(protocol.search_folds), architecture, protocol, generator)
    batch, epochs = int(choice["batch"]), int(choice["epochs"])
    members = protocol.members
    kept = []
    for data in (folds, final):  # each set trained `members` times over, from different starts
        sets = torch.arange(len(data.x)).repeat_interleave(members)
        stack = Stack(architecture, len(sets), generator)
        l2 = torch.full((len(sets),), choice["l2"])
        Training(stack, StackFit(data=data, sets=sets, batch=batch, l2=l2), generator).run(epochs)
        kept.append((data, stack))

    def networks(data: TrainingData, stack: Stack, number: int) -> list[nn.Sequential]:
        first = number * members
        return [stack.network(first + member, statistics=data.x[number]) for member in range(members)]

    def sampled(data: TrainingData, nets: list[nn.Sequential], number: int) -> Tensor:
        rows, x = data.x[number], data.x_held[number]
        return mcbn_draws(nets[0], rows, x, batch=batch, draws=protocol.draws, seed=seed * 100 + number)

    def ensemble(data: TrainingData, nets: list[nn.Sequential], number: int) -> Tensor:
        one_pass = tuple(deterministic(survey(net, net, data.x[number, :2])) for net in nets)
        return outputs(Ensemble(one_pass), data.x_held[number])

    def trained(data: TrainingData, nets: list[nn.Sequential], number: int) -> Tensor:
        return ensemble(data, nets[:1], number)

    every = [[networks(data, stack, number) for number in range(len(data.x))] for data, stack in kept]
    for method, draw in (("mcbn", sampled), ("ensemble", ensemble), ("trained statistics", trained)):
        held, test = (
            [draw(data, nets[n], n) for n in range(len(data.x))] for (data, _), nets in zip(kept, every, strict=True)
        )
        yield _drawn(method, choice, folds, held, test[0])


def _batchnorm_choice(
    folds: TrainingData, architecture: Architecture, protocol: Protocol, generator: torch.Generator
) -> dict[str, float]:
    results: list[tuple[SearchResult, int]] = []
    effective: set[int] = set()
    for batch in protocol.batches:
        if min(batch, folds.rows) in effective:  # a larger batch is the same training: all rows
            continue
        effective.add(min(batch, folds.rows))
        count, size = len(protocol.l2), len(folds.x)
        l2, sets = torch.tensor(protocol.l2).repeat(size), torch.arange(size)
        fit = StackFit(data=folds, sets=sets.repeat_interleave(count), batch=batch, l2=l2)
        training = Training(Stack(architecture, size, generator, copies=count), fit, generator)
        results.append((race(training, [0] * count, size, protocol.race), batch))
    best, batch = min(results, key=lambda pair: float(pair[0].rmse.min()))
    return _choice(best, batch=float(batch), l2=protocol.l2[best.best])


def _dropout(folds: TrainingData, final: TrainingData, protocol: Protocol, seed: int) -> Drawn:
    generator = seeded(seed, 2)
    architecture = Architecture(features=folds.x.shape[2], hidden=protocol.hidden, batchnorm=False)
    candidates = [(rate, l2) for rate in protocol.dropouts for l2 in protocol.l2]
    batch, searched = protocol.dropout_batch, folds.first(protocol.search_folds)

    def fit(data: TrainingData, pairs: list[tuple[float, float]]) -> Training:
        count, sets = len(pairs), torch.arange(len(data.x)).repeat_interleave(len(pairs))
        rates, l2 = (torch.tensor(column).repeat(len(data.x)) for column in zip(*pairs, strict=True))
        fit = StackFit(data=data, sets=sets, batch=batch, l2=l2, keep=1 - rates)
        return Training(Stack(architecture, len(data.x), generator, copies=count), fit, generator)

    groups = [protocol.dropouts.index(rate) for rate, _ in candidates]
    result = race(fit(searched, candidates), groups, len(searched.x), protocol.race)
    rate, l2 = candidates[result.best]
    choice = _choice(result, dropout=rate, l2=l2, batch=float(batch))
    draws: list[Tensor] = []
    for data in (folds, final):
        training = fit(data, [(rate, l2)])
        training.run(int(choice["epochs"]))
        for number, x in enumerate(data.x_held):
            network = training.stack.network(number, dropout=rate)
            one_pass = Plain(network, network, PassPlan())
            draws.append(outputs(Dropout(one_pass, draws=protocol.draws, seed=seed * 100 + len(draws)), x))
    return _drawn("mcdo", choice, folds, draws[:-1], draws[-1])


def _flows(folds: TrainingData, final: TrainingData, protocol: Protocol, generator: torch.Generator) -> Drawn:
    widths, searched = (folds.x.shape[2], *protocol.hidden, 1), folds.first(protocol.search_folds)

    def fit(data: TrainingData, precisions: tuple[float, ...]) -> VariationalTraining:
        sets = torch.arange(len(data.x)).repeat_interleave(len(precisions))
        network = RegressionMNF(widths, generator=generator, stack=(len(sets),))
        each = torch.tensor(precisions).repeat(len(data.x))
        how = VariationalFit(data=data, sets=sets, precision=each, batch=FLOW_BATCH, learning_rate=protocol.flow_rate)
        return VariationalTraining(network, how, generator)

    steps = max(1, folds.rows // FLOW_BATCH)  # an epoch
    most = protocol.race.epochs
    if protocol.flow_steps is not None:
        most = min(most, protocol.flow_steps // steps)
    plan = replace(protocol.race, epochs=most)
    result = race(fit(searched, protocol.precisions), [0] * len(protocol.precisions), len(searched.x), plan)
    precision = protocol.precisions[result.best]
    choice = _choice(result, precision=precision)
    draws = []
    for data in (folds, final):
        training = fit(data, (precision,))
        training.run(int(choice["epochs"]))
        draws.append(predictions(training.network, data.x_held, protocol.draws, generator))
    return _drawn("mnf", choice, folds, list(draws[0]), draws[1][0])


def _choice(result: SearchResult, **chosen: float) -> dict[str, float]:
    number = result.best
    return {**chosen, "epochs": float(result.epoch[number]), "cv_rmse": float(result.rmse[number])}


def _drawn(method: str, choice: dict[str, float], folds: TrainingData, held: list[Tensor], test: Tensor) -> Drawn:
    pairs = [(_array(draws), _array(y)) for draws, y in zip(held, folds.y_held, strict=True)]
    return Drawn(method=method, choice=choice, folds=pairs, test=_array(test))


def _array(tensor: Tensor) -> Array:
    array: Array = tensor.double().numpy()
    return array


def seeded(*numbers: int) -> torch.Generator:
    """A generator of its own for these numbers, unlike that of any others."""
    state: Any = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def fold_rows(train: Tensor, folds: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:  # S N, S V
    """Training and held-out rows of S cross-validation folds, all of one size; fewer than S rows are never held out."""
    order = train[torch.randperm(len(train), generator=generator)]
    size = len(order) // folds
    held = order[: size * folds].view(folds, size)
    rest = [torch.cat([order[: fold * size], order[(fold + 1) * size :]]) for fold in range(folds)]
    return torch.stack(rest), held
