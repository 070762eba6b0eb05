"""The bank against the trained running statistics: 1 and 0 where training is repeated, far off where it is not."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import Toy, calibrated, noise, seeded, surveyed
from torch import nn

import segment
from segment import errors
from segment.draws import reference
from segment.draws.bank import Bank
from segment.draws.recording import record
from segment.draws.reference import against_trained, warn_if_unlike_training
from segment.images.specs import TrainingSpec
from segment.networks.cards import default_card


def test_the_trained_statistics_are_as_large_as_themselves(toy: Toy) -> None:
    network = surveyed(toy)
    comparison = against_trained(Bank.of_trained(network), network)
    assert comparison is not None
    assert (comparison["variance_ratio"], comparison["low"], comparison["high"], comparison["mean_shift"]) == (
        1,
        1,
        1,
        0,
    )
    assert comparison["channels"] == 16


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.1, 10), shift=st.floats(0, 3), draws=st.integers(1, 4))
def test_a_layer_scaled_and_shifted_by_hand_is_reported_as_that(factor: float, shift: float, draws: int) -> None:
    network = surveyed(calibrated(seeded(Toy), (32, 32)))
    trained = Bank.of_trained(network)
    spread = torch.linspace(0.5, 1.5, draws)[:, None] if draws > 1 else torch.ones(1, 1)  # of the draws, mean 1
    bank = Bank(
        torch.full((draws,), 1 / draws),
        {
            **{name: value.repeat(draws, 1) for name, value in trained.mean.items()},
            "bn2": trained.mean["bn2"] + shift * trained.var["bn2"].sqrt() * spread,
        },
        {
            **{name: value.repeat(draws, 1) for name, value in trained.var.items()},
            "bn2": trained.var["bn2"] * factor * spread,
        },
    )
    comparison = against_trained(bank, network)
    assert comparison is not None
    assert comparison["layers"]["bn2"]["variance_ratio"] == pytest.approx(factor, rel=1e-3)
    assert comparison["layers"]["bn2"]["mean_shift"] == pytest.approx(shift, rel=1e-3, abs=1e-6)
    assert comparison["layers"]["bn1"] == pytest.approx({"variance_ratio": 1, "mean_shift": 0}, abs=1e-6)
    assert comparison["mean_shift"] == pytest.approx(shift / 2, rel=1e-3, abs=1e-6)  # eight channels of sixteen
    if abs(factor - 1) > 1e-3:
        assert comparison["worst"][0] == "bn2"


def test_images_as_in_training_give_a_ratio_near_one_and_darker_ones_a_warning(
    toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    network, batches = surveyed(toy), [noise(8, 3, 32, 32, seed=seed) for seed in range(20, 28)]
    for norm in (toy.bn1, toy.bn2):
        norm.reset_running_stats()
        norm.momentum = None  # the plain average of all batches
    toy.train()
    toy.dropout.eval()
    with torch.no_grad():
        for batch in batches:
            toy(batch)
    toy.eval()
    with caplog.at_level(logging.WARNING, logger="segment"):
        alike = against_trained(Bank.of_draws(list(record(network, batches))), network)
        warn_if_unlike_training(alike)
        assert not caplog.records
        darker = against_trained(Bank.of_draws(list(record(network, [0.3 * batch for batch in batches]))), network)
        warn_if_unlike_training(darker)
    assert alike is not None
    assert darker is not None
    assert alike["variance_ratio"] == pytest.approx(1, abs=1e-3)
    assert darker["layers"]["bn1"]["variance_ratio"] == pytest.approx(0.09, abs=1e-3)
    assert darker["worst"][0] == "bn1"
    assert darker["variance_ratio"] < 0.8
    assert "are not like those of training" in caplog.text
    assert "`training:`" in caplog.text


def test_the_percentiles_are_numpys(toy: Toy) -> None:
    network = surveyed(toy)
    bank = Bank.of_draws(list(record(network, [0.8 * noise(4, 3, 32, 32)])))
    comparison = against_trained(bank, network)
    assert comparison is not None
    ratios = np.concatenate(
        [
            (bank.var[name][0].double() / running.double()).numpy()
            for name, running in (("bn1", toy.bn1.running_var), ("bn2", toy.bn2.running_var))
            if running is not None
        ]
    )
    expected = np.quantile(ratios, [0.05, 0.5, 0.95])
    np.testing.assert_allclose(
        [comparison["low"], comparison["variance_ratio"], comparison["high"]], expected, rtol=1e-3
    )


def test_a_layer_without_running_statistics_and_a_dead_channel_are_left_out(toy: Toy) -> None:
    assert toy.bn1.running_var is not None
    toy.bn1.running_var[0] = 0.0
    network = surveyed(toy)
    comparison = against_trained(replace(Bank.of_trained(network)), network)
    assert comparison is not None
    assert comparison["channels"] == 15
    untracked = calibrated(seeded(Toy), (32, 32))
    untracked.bn1 = nn.BatchNorm2d(8, track_running_stats=False)
    untracked.bn2 = nn.BatchNorm2d(8, track_running_stats=False)
    network = surveyed(untracked.eval())
    assert against_trained(Bank.of_draws(list(record(network, [noise(2, 3, 32, 32)]))), network) is None


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is warned of once a process is warned of again."""
    monkeypatch.setattr(errors, "warn_once", lambda log, message, *arguments: log.warning(message, *arguments))
    monkeypatch.setattr(reference, "warn_once", errors.warn_once)


@pytest.mark.usefixtures("anew")
def test_draws_of_the_same_images_are_warned_of_when_recorded_and_when_used(caplog: pytest.LogCaptureFixture) -> None:
    module, images = calibrated(seeded(Toy), (32, 32)), noise(4, 3, 32, 32)
    equal = segment.fit_bank(module, images, batch=4, draws=3)
    assert "The bank's 3 draws are equal" in caplog.text
    assert "equal" in equal.provenance["audit"].get("bf16", {"reason": "equal"})["reason"]
    caplog.clear()
    segment.MCBN(module, equal)
    assert "The bank's 3 draws are equal" in caplog.text
    caplog.clear()
    segment.fit_bank(module, images[:1].expand(6, 3, 32, 32), batch=4, draws=2)
    assert "The bank's 2 draws are equal" in caplog.text
    caplog.clear()
    for batch, draws in ((4, 1), (3, 3)):
        segment.MCBN(module, segment.fit_bank(module, images, batch=batch, draws=draws))
    assert "are equal" not in caplog.text


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize(("chance", "said"), [(0.5, 0), (0.0, 1)])
def test_random_transforms_make_draws_of_the_same_images_differ(
    chance: float, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), dtype=np.uint8)
    training = TrainingSpec(batch=4, transforms=({"name": "HorizontalFlip", "p": chance},))
    card = replace(default_card("py:given:module"), training=training)
    segment.fit_bank(segment.load_network(calibrated(seeded(Toy), (32, 48)), card=card), images, draws=8)
    assert caplog.text.count("draws are equal") == said
