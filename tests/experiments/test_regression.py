"""Stacked training is single training; stacked evaluation is the engine's; splits are the literature's."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segment.errors import WrongUse
from segment.experiments.regression.methods import fold_rows, mcbn_draws, outputs, seeded
from segment.experiments.regression.search import Race, race
from segment.experiments.regression.stack import (
    EPS,
    Architecture,
    Layers,
    Stack,
    TrainingData,
    error_of_mean,
    standardised,
)
from segment.experiments.regression.stack_training import StackFit, Training
from segment.experiments.uci.data import FILES, random_split, read_table, standard_splits
from segment.methods.deterministic import Plain
from segment.methods.dropout import Dropout
from segment.passes.passes import PassPlan

COUNTS = {
    "boston": (506, 13),
    "concrete": (1030, 8),
    "energy": (768, 8),
    "kin8nm": (8192, 8),
    "power": (9568, 4),
    "protein": (45730, 9),
    "wine": (1599, 11),
    "yacht": (308, 6),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    rng = generator(3)
    x = torch.randn(90, 5, generator=rng, dtype=torch.float64)
    y = x[:, 0] * 2 + x[:, 1] ** 2 + 0.3 * torch.randn(90, generator=rng, dtype=torch.float64) + 7
    rows = torch.stack([torch.randperm(90, generator=rng) for _ in range(3)])
    return standardised(x, y, rows[:, :64], rows[:, 64:])


def in_a_plain_loop(
    module: nn.Module, x: Tensor, y: Tensor, *, seed: int, size: int, number: int, epochs: int, batch: int, l2: float
) -> None:
    """Adam on one nn.Module, on the mini-batches that network `number` of a stack of that size sees."""
    rng = generator(seed)
    matrices = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    adam = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(epochs):
        order = torch.rand(size, len(x), generator=rng).argsort(dim=1)[number]
        for start in range(0, len(x) // batch * batch, batch):
            rows = order[start : start + batch]
            loss = 0.5 * (module(x[rows])[:, 0] - y[rows]).square().mean()
            loss = loss + 0.5 * l2 * sum(matrix.square().sum() for matrix in matrices)
            adam.zero_grad()
            loss.backward()
            adam.step()


@pytest.mark.parametrize("batchnorm", [True, False])
def test_a_network_trained_in_a_stack_is_the_one_trained_alone(data: TrainingData, *, batchnorm: bool) -> None:
    stack = Stack(Architecture(features=5, hidden=(8, 6), batchnorm=batchnorm), 3, generator())
    alone = stack.network(1).train()
    l2 = torch.tensor([1e-1, 1e-2, 1e-4])
    before = stack.layers.weights[0][1].clone()
    fit = StackFit(data=data, sets=torch.tensor([0, 2, 1]), batch=16, l2=l2)
    Training(stack, fit, generator(9)).run(15)
    in_a_plain_loop(alone, data.x[2], data.y[2], seed=9, size=3, number=1, epochs=15, batch=16, l2=float(l2[1]))
    together = stack.network(1)
    assert (stack.layers.weights[0][1] - before).abs().max() > 1e-2
    for parameter, expected in zip(together.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-3, atol=2e-4)


def test_networks_dropped_from_a_stack_leave_the_others_on_their_way(data: TrainingData) -> None:
    def trained(chosen: list[int]) -> Tensor:
        stack = Stack(Architecture(features=5, hidden=(4,)), 2, generator(), copies=3)
        l2 = torch.tensor([0.1, 0.2, 0.3] * 2)
        fit = StackFit(data=data, sets=torch.arange(2).repeat_interleave(3), batch=16, l2=l2)
        training = Training(stack, fit, generator(1))
        training.run(5)
        training.select(torch.tensor(chosen))
        training.run(5)
        return stack.layers.weights[0].view(2, -1, 4, 5)[:, chosen.index(2)].clone()

    torch.testing.assert_close(trained([2, 0]), trained([0, 1, 2]), rtol=1e-4, atol=1e-5)


def test_the_stacks_quick_mean_over_draws_is_the_engines(data: TrainingData) -> None:
    stack = Stack(Architecture(features=5, hidden=(8, 6)), 2, generator())
    Training(stack, StackFit(data=data, sets=torch.arange(2), batch=16, l2=torch.full((2,), 1e-3)), generator()).run(9)
    rows, held = data.x[1], data.x_held[1]
    network = stack.network(1, statistics=rows)
    engine = mcbn_draws(network, rows, held, batch=16, draws=1500, seed=0).mean(dim=0)
    chosen = torch.rand(1500, 64, generator=generator(5)).argsort(dim=1)[:, :16]
    quick = stack.drawn(1, rows[chosen], held).mean(dim=0)
    torch.testing.assert_close(quick, engine, rtol=0, atol=0.03)
    batch = chosen[:1]
    by_hand = in_train_mode_of(network, rows[batch[0]], held)
    torch.testing.assert_close(stack.drawn(1, rows[batch], held)[0], by_hand)


@pytest.mark.parametrize("rates", [None, (0.3, 0.1)])
def test_the_written_out_gradient_is_autograds(data: TrainingData, rates: tuple[float, ...] | None) -> None:
    architecture = Architecture(features=5, hidden=(8, 6), batchnorm=rates is None)
    keep = None if rates is None else 1 - torch.tensor(rates * 2)
    stack = Stack(architecture, 2, generator(), copies=2)
    stack.table += 0.2 * torch.randn(stack.table.shape, generator=generator(2))
    fit = StackFit(data=data, sets=torch.tensor([0, 0, 2, 2]), batch=16, l2=torch.zeros(4), keep=keep)
    training = Training(stack, fit, generator(1))
    table = stack.table.detach().clone().requires_grad_()
    x, y = data.x[fit.sets, :16].transpose(1, 2), data.y[fit.sets, :16]
    training.generator = generator(4)
    masks = [mask[training.mask_of] for mask in training.masks(16)]
    training.generator = generator(4)
    training.step(x, y)
    layers, signal = Layers.of(architecture, table), x
    for layer, weight in enumerate(layers.weights):
        signal = weight @ (signal * masks[layer] if masks else signal)
        if rates or layer == 2:
            signal = signal + layers.biases[layer if rates else 0]
        else:
            centred = signal - signal.mean(dim=2, keepdim=True)
            signal = centred / (centred.square().mean(dim=2, keepdim=True) + EPS).sqrt()
            signal = layers.gammas[layer] * signal + layers.betas[layer]
        if layer < 2:
            signal = signal.relu()
    loss = (0.5 * (signal[:, 0] - y).square().mean(dim=1)).sum()
    torch.testing.assert_close(stack.table.grad, torch.autograd.grad(loss, table)[0], rtol=1e-4, atol=1e-6)


def test_networks_of_a_pair_differ_by_their_strengths_alone(data: TrainingData) -> None:
    stack = Stack(Architecture(features=5, hidden=(8,), batchnorm=False), 2, generator(), copies=2)
    fit = StackFit(
        data=data,
        sets=torch.zeros(4, dtype=torch.long),
        batch=16,
        l2=torch.tensor([0.1, 0.1, 0.0, 0.1]),
        keep=torch.full((4,), 0.9),
    )
    Training(stack, fit, generator(1)).run(3)
    first, twin, other, last = stack.table.detach()
    torch.testing.assert_close(first, twin, rtol=0, atol=0)
    assert (other - last).abs().max() > 1e-3
    assert (first - last).abs().max() > 1e-3


def test_the_error_of_many_draws_is_estimated_from_few_without_bias() -> None:
    rng = generator(8)
    y, expected, sd = torch.randn(40, generator=rng), torch.randn(40, generator=rng), torch.rand(40, generator=rng) * 3
    few = expected + sd * torch.randn(4000, 5, 40, generator=rng)
    truth = (expected - y).square().mean() + sd.square().mean() / 500
    estimated = error_of_mean(few, y, of=500).square()
    error = estimated.std() / len(estimated) ** 0.5
    assert abs(estimated.mean() - truth) < 4 * error
    assert abs(error_of_mean(few, y).square().mean() - truth) > 20 * error
    torch.testing.assert_close(error_of_mean(few[:, :1], y, of=500), (few[:, 0] - y).square().mean(dim=1).sqrt())


def in_train_mode_of(network: nn.Sequential, batch: Tensor, x: Tensor) -> Tensor:
    """Pass x with each BN layer normalised by the batch's mean and biased variance at that layer."""
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.BatchNorm1d):
                mean, var = batch.mean(dim=0), batch.var(dim=0, correction=0)
                batch, x = ((part - mean) / (var + EPS).sqrt() * module.weight + module.bias for part in (batch, x))
            else:
                batch, x = module(batch), module(x)
    return x[:, 0]


def test_a_batch_of_all_training_rows_makes_mcbn_deterministic(data: TrainingData) -> None:
    stack = Stack(Architecture(features=5), 1, generator())
    network = stack.network(0, statistics=data.x[0])
    drawn = mcbn_draws(network, data.x[0], data.x_held[0], batch=1024, draws=50, seed=0)
    assert len(drawn) == 1
    with torch.no_grad():
        torch.testing.assert_close(drawn[0], network(data.x_held[0])[:, 0], rtol=1e-4, atol=1e-5)
    smaller = mcbn_draws(network, data.x[0], data.x_held[0], batch=63, draws=50, seed=0)
    assert smaller.var(dim=0).min() > 0


def test_dropout_draws_have_the_moments_of_the_engines(data: TrainingData) -> None:
    stack = Stack(Architecture(features=5, hidden=(8,), batchnorm=False), 1, generator())
    drawn = stack.dropped(0, data.x_held[0], 0.8, stack.noise(4000 * len(data.x_held[0]), generator(1)))
    module = stack.network(0, dropout=0.2)
    plain = outputs(Dropout(Plain(module, module, PassPlan()), draws=2000), data.x_held[0])
    torch.testing.assert_close(drawn.mean(dim=0), plain.mean(dim=0), rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.std(dim=0), plain.std(dim=0), rtol=0.1, atol=0.01)


def test_training_data_are_standardised_on_its_training_rows_alone(data: TrainingData) -> None:
    torch.testing.assert_close(data.x.mean(dim=1), torch.zeros(3, 5), rtol=0, atol=1e-6)
    torch.testing.assert_close(data.y.std(dim=1, correction=0), torch.ones(3), rtol=1e-6, atol=0)
    assert data.x_held.mean(dim=1).abs().max() > 1e-2
    restored = data.y[0].double() * data.y_scale[0] + data.y_mean[0]
    assert float(restored.mean()) == pytest.approx(float(data.y_mean[0]), abs=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3.3, 1e6 + 0.1])
def test_what_is_constant_on_the_training_rows_keeps_a_scale_of_1(constant: float) -> None:
    table = torch.full((98, 1), constant, dtype=torch.float64)
    table[-1] += 2
    made = standardised(table, table[:, 0], torch.arange(96)[None], torch.tensor([[96, 97]]))
    assert made.x.abs().max() == made.y.abs().max() == 0
    assert made.x_held.flatten().tolist() == made.y_held.flatten().tolist() == pytest.approx([0, 2], abs=1e-6)
    assert float(made.y_scale) == 1


class Scripted:
    """A training whose errors are given: candidate c at check n has errors[c][n]."""

    def __init__(self, errors: list[list[float]]) -> None:
        self.errors = torch.tensor(errors)
        self.alive, self.checks, self.epochs = torch.arange(len(errors)), -1, 0

    def run(self, epochs: int) -> None:
        self.epochs += epochs

    def held_out_rmse(self, draws: int, of: int | None) -> Tensor:
        self.checks += 1
        error = self.errors[self.alive, self.checks]
        return torch.cat([error - 0.01, error + 0.01])  # two folds

    def select(self, chosen: Tensor) -> None:
        self.alive = self.alive[chosen]


def test_a_race_stops_each_candidate_after_its_patience_and_remembers_its_best_epoch() -> None:
    training = Scripted([[5, 4, 3, 3.5, 3.5, 1], [5, 4.5, 4, 3, 2, 1.5], [float("nan")] * 6])
    result = race(training, [0, 0, 0], 2, Race(every=10, patience=2, epochs=60))
    torch.testing.assert_close(result.rmse, torch.tensor([3.0, 1.5, float("inf")]))
    assert result.epoch.tolist() == [30, 60, 0]
    assert result.best == 1
    assert training.alive.tolist() == [1]


def test_a_rung_keeps_the_better_half_of_each_group() -> None:
    training = Scripted([[1, 1, 0.5], [2, 2, 0.1], [8, 8, 7], [9, 9, 0.2]])
    result = race(training, [0, 0, 1, 1], 2, Race(every=10, patience=9, epochs=30, rungs={20: 0.5}))
    assert training.alive.tolist() == [0, 2]
    torch.testing.assert_close(result.rmse, torch.tensor([0.5, 2.0, 7.0, 9.0]))


@pytest.mark.parametrize("name", sorted(FILES))
def test_each_set_has_its_known_size(name: str, shared_data: Path) -> None:
    table = read_table(shared_data, name)
    assert (table.rows, table.x.shape[1]) == COUNTS[name]
    assert torch.isfinite(table.x).all()


def test_an_unknown_or_missing_set_is_refused_with_what_is_known(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"No data set is called 'yach'\. Near: 'yacht'\."):
        read_table(tmp_path, "yach")
    with pytest.raises(WrongUse, match="not at"):
        read_table(tmp_path, "yacht")
    (tmp_path / "uci").mkdir()
    (tmp_path / "uci" / "yacht.csv").write_text("x1,y\n1,what\n")
    with pytest.raises(WrongUse, match="does not read as a table"):
        read_table(tmp_path, "yacht")


NUMBERS = "".join(f"{row},{row / 8}\n" for row in range(30))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (NUMBERS, "write a header row above it"),
        ("x1;y\n" + NUMBERS.replace(",", ";"), "with commas between them"),
        ("x1 y\n" + NUMBERS.replace(",", " "), "with commas between them"),
        ("x1,y\n" + NUMBERS.replace("\n7,", "\n# 7,"), "does not read as a table"),
        ("x1,y\n" + NUMBERS.replace("\n7,", "\n,"), "does not read as a table"),
        ("x1,y\n" + NUMBERS.replace("\n7,", "\nnan,"), "gaps"),
        ("y\n" + "1\n" * 30, "fewer than two columns"),
        ("x1,y\n1,2\n", "has 1 row below its header; an experiment takes 25 or more"),
        ("x1,y\n", "has 0 rows"),
        ("", "has 0 rows"),
    ],
)
def test_a_table_that_is_not_as_described_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "uci").mkdir()
    (tmp_path / "uci" / "yacht.csv").write_text(text)
    with pytest.raises(WrongUse, match=complaint):
        read_table(tmp_path, "yacht")


def test_a_table_from_another_editor_reads_as_the_plain_one(tmp_path: Path) -> None:
    (tmp_path / "uci").mkdir()
    path = tmp_path / "uci" / "yacht.csv"
    tables = []
    for content in ("x1,y\n" + NUMBERS, "\ufeffx1,y\r\n" + NUMBERS.replace("\n", "\r\n") + "\r\n"):
        path.write_text(content, encoding="utf-8", newline="")
        tables.append(read_table(tmp_path, "yacht"))
    assert tables[0].rows == 30
    torch.testing.assert_close(tables[0].x, tables[1].x, rtol=0, atol=0)
    torch.testing.assert_close(tables[0].y, tables[1].y, rtol=0, atol=0)


@pytest.mark.parametrize("damage", ["flipped", "cut", "plain"])
def test_a_packed_table_that_is_damaged_is_refused(tmp_path: Path, damage: str) -> None:
    (tmp_path / "uci").mkdir()
    packed = gzip.compress(("x1,y\n" + NUMBERS).encode())
    content = {"flipped": packed[:20] + b"\xff" * 9 + packed[29:], "cut": packed[:40], "plain": NUMBERS.encode()}
    (tmp_path / "uci" / "protein.csv.gz").write_bytes(content[damage])
    with pytest.raises(WrongUse, match="does not read as a table"):
        read_table(tmp_path, "protein")


def test_the_standard_splits_follow_the_published_rule() -> None:
    splits = standard_splits(308, 20)
    legacy = np.random.RandomState(1)
    for train, test in splits:
        order = legacy.permutation(308)  # what choice without replacement draws
        assert train.tolist() == order[:277].tolist()
        assert test.tolist() == order[277:].tolist()


def test_a_split_and_its_folds_share_no_row() -> None:
    train, test = random_split(53, 2)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(53))
    assert len(test) == 11
    rest, held = fold_rows(train, 5, seeded(1))
    assert rest.shape == (5, 34)
    assert len(set(held.flatten().tolist())) == 40
    for fold in range(5):
        assert sorted([*rest[fold].tolist(), *held[fold].tolist()]) == sorted(train.tolist())
