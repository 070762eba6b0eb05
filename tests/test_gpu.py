"""What only a CUDA device can show; skipped with a reason elsewhere."""

from __future__ import annotations

import pytest
import torch
from plain import Toy, calibrated, noise, seeded

from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.batch_norm.network import calls_of
from segment.draws.bank import Bank
from segment.draws.recording import Precision, record
from segment.estimation.estimate import estimate
from segment.estimation.precision import audit
from segment.methods.mcbn import mcbn
from segment.networks.load import load_network
from segment.passes.passes import PassPlan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

PRECISIONS: list[tuple[Precision, float]] = [("fp32", 1e-3), ("fp16", 0.05), ("bf16", 0.3)]
"""Largest error of a map, relative to its mean: some times that of the same passes on a CPU (7e-4, .015, .12)."""


def on(device: str) -> BatchNormNetwork:
    """The toy on a device; its layers are listed from a pass over an image there."""
    module = calibrated(seeded(Toy), (32, 32)).to(device)
    return survey(module, module, noise(1, 3, 32, 32, seed=7).to(device))


def bank_of(device: str) -> Bank:
    network = on(device)
    return Bank.of_draws(list(record(network, [noise(4, 3, 32, 32, seed=t).to(device) for t in range(5)])))


@pytest.mark.parametrize(("precision", "allowed"), PRECISIONS)
@pytest.mark.parametrize("fold", [1, 3])
def test_a_gpu_gives_the_cpus_maps_and_sums_in_float32(precision: Precision, allowed: float, fold: int) -> None:
    bank, image = bank_of("cpu"), noise(2, 3, 32, 48)
    estimates = {}
    for device in ("cpu", "cuda"):
        network = on(device)
        plan = PassPlan(fold=fold, precision=precision if device == "cuda" else "fp32", channels_last=True, fuse=True)
        estimates[device] = estimate(mcbn(network, bank, plan), image, head="softmax")
    assert estimates["cuda"].probability.dtype == torch.float32
    for name, wanted in estimates["cpu"].maps.items():
        error = (estimates["cuda"].maps[name].cpu() - wanted).abs().mean()
        assert error <= allowed * wanted.abs().mean(), name


def test_a_bank_recorded_on_a_gpu_is_the_cpus() -> None:
    first, other = bank_of("cpu"), bank_of("cuda")
    for name in first.layers:
        torch.testing.assert_close(other.mean[name], first.mean[name], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(other.var[name], first.var[name], rtol=1e-3, atol=1e-3)


def test_the_audit_of_a_gpu_knows_both_half_precisions() -> None:
    network = on("cuda")
    assert set(audit(network, bank_of("cpu"), [noise(1, 3, 32, 32)], "softmax")) == {"bf16", "fp16"}


def test_a_network_without_bn_is_traced_where_it_is() -> None:
    network = load_network(torch.nn.Conv2d(3, 4, 3, padding=1).to("cuda"))
    assert "conv2d" in {call.name for call in calls_of(network)}
