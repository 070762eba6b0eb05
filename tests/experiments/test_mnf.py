"""Multiplicative normalizing flows: flows against autograd, the bound against closed forms, no data no posterior."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from segment.experiments.regression.mnf import ConvMNF, DenseMNF, MaskedFlow, MultiplicativeWeights
from segment.experiments.regression.mnf_regression import (
    RegressionMNF,
    VariationalFit,
    VariationalTraining,
    predictions,
)
from segment.experiments.regression.stack import TrainingData, standardised


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rough_flow(width: int = 6, steps: int = 3) -> MaskedFlow:
    flow = MaskedFlow(width, steps=steps, hidden=9, generator=generator()).double()
    with torch.no_grad():
        flow.leave_bias[..., :width] = 0.5  # gates that are neither open nor shut
        for parameter in flow.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator(1), dtype=torch.float64))
    return flow


def inverse(flow: MaskedFlow, z: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """The z whose image under these masks is the given one."""
    for step, mask in reversed(list(enumerate(masks))):
        kept = (mask * z) @ flow.enter[step] + flow.enter_bias[step]
        logit, shift = (kept.tanh() @ flow.leave[step] + flow.leave_bias[step]).chunk(2, dim=-1)
        gate = logit.sigmoid()
        z = mask * z + (1 - mask) * (z - (1 - gate) * shift) / gate
    return z


def test_the_flow_comes_back_by_its_inverse() -> None:
    flow = rough_flow()
    z = torch.randn(50, 6, generator=generator(2), dtype=torch.float64)
    masks = flow.masks(z, generator(3))
    image, _ = flow(z, masks)
    assert (image - z).abs().max() > 0.1
    torch.testing.assert_close(inverse(flow, image, masks), z, rtol=1e-9, atol=1e-9)


def test_the_flows_log_determinant_is_that_of_its_jacobian() -> None:
    flow = rough_flow()
    z = torch.randn(8, 6, generator=generator(2), dtype=torch.float64)
    masks = flow.masks(z, generator(3))
    _, logdet = flow(z, masks)
    for row in range(8):
        of_row = [mask[row] for mask in masks]
        jacobian = torch.func.jacrev(lambda value, kept=of_row: flow(value[None], kept)[0][0])(z[row])
        torch.testing.assert_close(logdet[row], torch.linalg.slogdet(jacobian).logabsdet)


def test_stacked_flows_are_each_their_own() -> None:
    stacked = MaskedFlow(4, steps=2, hidden=5, generator=generator(), stack=(3,))
    z = torch.randn(3, 7, 4, generator=generator(1))
    masks = stacked.masks(z, generator(2))
    alone = MaskedFlow(4, steps=2, hidden=5, generator=generator())
    alone.load_state_dict({name: value[1] for name, value in stacked.state_dict().items()})
    torch.testing.assert_close(stacked(z, masks)[0][1], alone(z[1], [mask[1] for mask in masks])[0])


def without_flows(layer: MultiplicativeWeights) -> None:
    """Gates wide open and r blind to the weights: q(z) is its starting Gaussian, r(z) = N(0, 1)."""
    with torch.no_grad():
        for flow in (layer.flow_q, layer.flow_r):
            flow.leave.zero_()
            flow.leave_bias.fill_(40.0)
            flow.leave_bias[..., layer.z_mean.shape[-1] :] = 0
        layer.r_mean.zero_()
        layer.r_log_precision.zero_()


def test_without_flows_the_bound_is_the_gaussians_closed_form() -> None:
    layer = DenseMNF(5, 4, generator=generator()).double()
    without_flows(layer)
    with torch.no_grad():
        layer.log_var.uniform_(-3, 1, generator=generator(1))
        layer.bias_log_var.uniform_(-3, 1, generator=generator(2))
        layer.bias_mean.normal_(generator=generator(3))
        layer.z_mean.normal_(generator=generator(4))
    prior = Normal(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))
    z = Normal(layer.z_mean[0], (0.5 * layer.z_log_var[0]).exp())
    spread = (0.5 * layer.log_var).exp()
    # E_z KL(N(z m, s^2) || N(0, 1)): z enters by its second moment only
    moment = (z.mean**2 + z.variance).sqrt()
    expected = kl_divergence(Normal(moment[:, None] * layer.mean, spread), prior).sum()
    expected = expected + kl_divergence(z, prior).sum()
    expected = expected + kl_divergence(Normal(layer.bias_mean, (0.5 * layer.bias_log_var).exp()), prior).sum()
    rng = generator(5)
    with torch.no_grad():
        bound = layer.divergence(layer.multipliers(200_000, rng), rng)
    torch.testing.assert_close(bound, expected.detach(), rtol=5e-3, atol=0)


def test_the_bound_is_never_below_zero_by_more_than_its_noise() -> None:
    for seed in range(4):
        layer = DenseMNF(6, 5, generator=generator(seed))
        with torch.no_grad():
            layer.log_var.normal_(generator=generator(seed + 10))
            assert float(layer.divergence(layer.multipliers(4000, generator(9)), generator(8))) > 0


def collapsed(layer: MultiplicativeWeights, steps: int) -> float:
    """Train on the divergence alone; the bound that is left, in nats."""
    rng = generator(7)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.06)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.06 * (1 - step / steps)
        loss = layer.divergence(layer.multipliers(32, rng), rng)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        return float(layer.divergence(layer.multipliers(4000, rng), rng))


@pytest.mark.parametrize("kind", ["dense", "convolution"])
def test_without_data_the_posterior_becomes_the_prior(kind: str) -> None:
    layer: MultiplicativeWeights = (
        DenseMNF(8, 6, generator=generator(), flow_hidden=8)
        if kind == "dense"
        else ConvMNF(2, 6, 2, generator=generator(), flow_hidden=8)
    )
    rng = generator(1)
    with torch.no_grad():
        start = float(layer.divergence(layer.multipliers(500, rng), rng))
    left = collapsed(layer, 400)
    assert start > 100
    assert left < 0.25  # nats, over 54 weights and biases; the masks' coins keep it from 0
    with torch.no_grad():
        z = layer.multipliers(2000, rng).z  # G rows
        weights = (
            z[:, :, None] * layer.mean
            + torch.randn(2000, *layer.mean.shape, generator=rng) * (0.5 * layer.log_var).exp()
        )
    assert weights.mean(dim=0).abs().max() < 0.15
    torch.testing.assert_close(weights.std(dim=0), torch.ones(layer.mean.shape), rtol=0, atol=0.12)


def test_a_dense_layers_outputs_have_the_moments_of_drawn_weights() -> None:
    layer = DenseMNF(4, 3, generator=generator())
    with torch.no_grad():
        layer.log_var.fill_(-2.0)
        layer.bias_log_var.fill_(-3.0)
    x = torch.randn(1, 2, 4, generator=generator(1))
    rng = generator(2)
    with torch.no_grad():
        drawn = layer.multipliers(40_000, rng)
        outputs = layer(x.expand(40_000, -1, -1), drawn, rng)  # G B out
        weights = (
            drawn.z[:, :, None] * layer.mean + torch.randn(40_000, 4, 3, generator=rng) * (0.5 * layer.log_var).exp()
        )
        plain = x @ weights + torch.randn(40_000, 1, 3, generator=rng) * (0.5 * layer.bias_log_var).exp()
    torch.testing.assert_close(outputs.mean(dim=0), plain.mean(dim=0), rtol=0, atol=0.03)
    torch.testing.assert_close(outputs.std(dim=0), plain.std(dim=0), rtol=0.03, atol=0)


def test_a_convolution_over_one_patch_is_a_dense_layer_with_a_z_for_each_filter() -> None:
    layer = ConvMNF(2, 3, 2, generator=generator())
    with torch.no_grad():
        layer.log_var.fill_(-40.0)
        layer.bias_log_var.fill_(-40.0)
        layer.bias_mean.normal_(generator=generator(3))
        x = torch.randn(5, 2, 2, 2, generator=generator(1))
        drawn = layer.multipliers(5, generator(2))
        outputs = layer(x, drawn, generator(4))
        expected = (x.flatten(1) @ layer.mean.T) * drawn.z + layer.bias_mean
    assert outputs.shape == (5, 3, 1, 1)
    torch.testing.assert_close(outputs[:, :, 0, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    rng = generator(3)
    x = torch.randn(150, 3, generator=rng, dtype=torch.float64)
    y = torch.sin(2 * x[:, 0]) + x[:, 1] + 0.1 * torch.randn(150, generator=rng, dtype=torch.float64)
    rows = torch.randperm(150, generator=rng)[None]
    return standardised(x, y, rows[:, :120], rows[:, 120:])


def test_an_mnf_regression_learns_and_a_dropped_neighbour_does_not_hurt(data: TrainingData) -> None:
    rng = generator()
    network = RegressionMNF((3, 16, 1), generator=rng, stack=(2,))
    fit = VariationalFit(
        data=data,
        sets=torch.zeros(2, dtype=torch.long),
        precision=torch.tensor([1.0, 50.0]),
        batch=40,
        learning_rate=1e-2,
    )
    training = VariationalTraining(network, fit, rng)
    before = training.held_out_rmse(50)
    training.run(60)
    training.select(torch.tensor([1]))
    training.run(60)
    after = training.held_out_rmse(50)
    assert after.shape == (1,)
    assert after[0] < 0.6 * before[1]
    assert after[0] < 0.5
    drawn = predictions(network, data.x_held, 40, rng)
    assert drawn.shape == (1, 40, 30)
    assert drawn.std(dim=1).min() > 0
