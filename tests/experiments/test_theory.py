"""The theory experiment: predictions held to simulation, distances to SciPy, and priors where the answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest, kstwobign
from torch import nn

from segment.draws.minibatches import DrawPlan
from segment.errors import WeightsRefused, WrongUse
from segment.experiments.theory import experiment as theory
from segment.experiments.theory.experiment import TheoryPlan
from segment.experiments.theory.statistics import (
    Dense,
    Population,
    batch_statistics,
    closest_prior,
    distance,
    floor,
    papers_prior,
    populations_of,
)
from segment.experiments.theory.verdicts import CLOSE, PARALLEL

SMALL = TheoryPlan(draws=60, batches=(4, 32, 64), epochs=3, networks=2)


@pytest.fixture(scope="module")
def once(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("theory")
    verdicts = theory.run(out, budget="quick", data=shared_data, plan=SMALL)
    assert [verdict.experiment for verdict in verdicts] == ["theory"] * 7
    return out


def test_missing_weights_are_named_before_the_training(shared_data: Path, tmp_path: Path) -> None:
    (tmp_path / "uci").symlink_to(shared_data / "uci")
    messages: list[str] = []
    with pytest.raises(WeightsRefused, match="--data DIR"):
        theory.run(tmp_path / "out", budget="quick", data=tmp_path, plan=SMALL, progress=messages.append)
    assert messages == []


@pytest.mark.parametrize("rows", [64, 30])
def test_rows_that_a_mini_batch_could_hold_all_are_refused(rows: int, shared_data: Path, tmp_path: Path) -> None:
    for folder in ("cifar10", "weights"):
        (tmp_path / folder).symlink_to(shared_data / folder)
    lines = (shared_data / "uci" / "concrete.csv").read_text().splitlines()
    (tmp_path / "uci").mkdir()
    (tmp_path / "uci" / "concrete.csv").write_text("\n".join(lines[: rows + 1]))
    with pytest.raises(WrongUse, match=f"concrete has {rows} rows or images; mini-batches of 64 take more"):
        theory.run(tmp_path / "out", budget="quick", data=tmp_path, plan=SMALL)


def bare(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Identity(), nn.BatchNorm1d(channels)).eval()


def test_the_prediction_is_that_of_simulated_mini_batches() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.gamma(2.0, size=(300, 2, 3)) + rng.normal(size=(300, 2, 1))  # positions share their image
    centre, of_mean, sigma, of_sd = Population(name="x", inputs=inputs).predicted(64)
    picked = np.stack([inputs[rng.permutation(300)[:64]] for _ in range(4000)])
    np.testing.assert_allclose(picked.mean(axis=(1, 3)).std(axis=0), of_mean, rtol=0.05)
    np.testing.assert_allclose(picked.std(axis=(1, 3)).std(axis=0), of_sd, rtol=0.08)
    np.testing.assert_allclose(centre, inputs.mean(axis=(0, 2)))
    np.testing.assert_allclose(sigma, inputs.std(axis=(0, 2)))


def test_one_position_gives_the_papers_formulas() -> None:
    x = np.random.default_rng(1).normal(2, 3, size=(500, 1, 1))
    _, of_mean, sigma, of_sd = Population(name="x", inputs=x).predicted(10)
    share = (500 - 10) / 499 / 10
    fourth = ((x - x.mean()) ** 4).mean()
    assert of_mean[0] == pytest.approx(math.sqrt(x.var() * share))
    assert of_sd[0] == pytest.approx(math.sqrt((fourth - x.var() ** 2) / (4 * x.var()) * share))
    assert sigma[0] == pytest.approx(x.std())


def test_gaussian_inputs_are_called_gaussian_and_a_rare_spike_is_not() -> None:
    rng = np.random.default_rng(2)
    gaussian = torch.from_numpy(rng.normal(size=(4000, 3))).float()
    spiky = torch.from_numpy((rng.random((4000, 3)) < 0.01) * 50.0).float()
    distances = []
    for x in (gaussian, spiky):
        populations = populations_of(bare(3), x, ("x",))
        (statistics,) = batch_statistics(bare(3), x, populations, DrawPlan(draws=400, batch=32, seed=0))
        distances.append((distance(statistics.mean), distance(statistics.sd)))
    assert max(distances[0]) < CLOSE + floor(400)
    assert min(distances[1]) > 2 * (CLOSE + floor(400))


def test_channels_that_do_not_vary_are_left_out() -> None:
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(100, 3))).float()
    x[:, 1] = 7
    populations = populations_of(bare(3), x, ("x",))
    with np.errstate(divide="ignore", invalid="ignore"):
        (statistics,) = batch_statistics(bare(3), x, populations, DrawPlan(draws=20, batch=8, seed=0))
    assert statistics.mean.shape == (20, 2)
    assert np.isfinite(statistics.sd).all()


def test_the_distance_is_scipys() -> None:
    z = np.random.default_rng(4).normal(0.2, 1.3, size=(250, 5))
    assert distance(z) == pytest.approx(np.median([kstest(z[:, c], "norm").statistic for c in range(5)]))
    assert floor(10_000) * 100 == pytest.approx(kstwobign.median(), rel=1e-3)


def layer(inputs: np.ndarray) -> Dense:
    weights = np.random.default_rng(5).normal(size=(20, inputs.shape[1]))
    return Dense(name="x", weights=weights, inputs=inputs, pull=3.0)


def test_white_inputs_make_weight_decay_a_divergence_exactly() -> None:
    x = np.random.default_rng(6).normal(size=(1000, 6))
    x -= x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / 1000)).T
    prior = closest_prior(layer(white))
    assert prior.cosine == pytest.approx(1)
    assert prior.sd_sd == pytest.approx(1 / math.sqrt(3.0))
    assert math.isinf(prior.mean_sd)


def test_the_gradient_is_that_of_the_divergence_by_autograd() -> None:
    x = np.random.default_rng(7).gamma(1.0, size=(400, 5)) @ np.random.default_rng(8).normal(size=(5, 5))
    prior = closest_prior(layer(x))
    weights = torch.from_numpy(layer(x).weights).requires_grad_()
    units = torch.from_numpy(x) @ weights.T
    of_mean = units.mean(dim=0).square().sum() / (2 * prior.mean_sd**2)
    of_sd = units.var(dim=0, correction=0).sum() / (2 * prior.sd_sd**2)
    (of_mean + of_sd).backward()  # type: ignore[no-untyped-call]
    assert weights.grad is not None
    np.testing.assert_allclose(prior.gradient, weights.grad.numpy(), rtol=1e-6, atol=1e-9)
    assert prior.cosine < PARALLEL


def test_the_papers_prior_is_exact_where_all_weights_of_a_unit_and_all_mean_inputs_are_alike() -> None:
    x = np.random.default_rng(9).gamma(1.0, size=(500, 5))
    x += 0.7 - x.mean(axis=0)
    weights = np.repeat([[1.5], [-0.2]], 5, axis=1)
    prior = papers_prior(Dense(name="x", weights=weights, inputs=x, pull=3.0))
    assert prior.mean_sd == pytest.approx(math.sqrt(5 * 0.7**2 / 3.0))
    np.testing.assert_allclose(prior.gradient, 3.0 * weights)
    assert papers_prior(layer(x)).cosine < PARALLEL


def test_standardised_inputs_leave_the_papers_prior_no_width() -> None:
    x = np.random.default_rng(10).normal(size=(300, 4))
    prior = papers_prior(layer(x - x.mean(axis=0)))
    assert prior.mean_sd == 0
    assert math.isnan(prior.cosine)


def test_the_experiment_leaves_tables_figures_and_verdicts(once: Path) -> None:
    names = {path.name for path in once.iterdir()}
    figures = {
        f"{name}.{suffix}" for name in ("theory", "theory_distance", "theory_prior") for suffix in ("png", "svg")
    }
    assert figures | {"theory.csv", "theory_prior.csv", "page.md", "verdicts.csv"} <= names
    assert len((once / "theory.csv").read_text().splitlines()) == 1 + 3 * 3


def test_the_same_seed_writes_the_same_bytes(once: Path, shared_data: Path, tmp_path: Path) -> None:
    theory.run(tmp_path, budget="quick", data=shared_data, plan=SMALL)
    for path in once.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
