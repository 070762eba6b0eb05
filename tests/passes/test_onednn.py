"""oneDNN's operators: used only where they give torch's own numbers, and passes run without them elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from segmentation_models_pytorch import Unet
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.draws.bank import Bank
from segment.draws.recording import record
from segment.passes.comparison import TOLERANCE
from segment.passes.fused import onednn
from segment.passes.passes import Passes, PassPlan

OPERATORS = ("convolution", "upsampling_convolution", "add_convolution")
FUSED = PassPlan(channels_last=True, fuse=True)


@pytest.fixture
def unknown() -> Iterator[None]:
    """What is known of oneDNN is forgotten, before and after."""
    onednn.available.cache_clear()
    yield
    onednn.available.cache_clear()


@pytest.fixture(scope="module")
def unet() -> tuple[BatchNormNetwork, Bank, Tensor]:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        module = Unet("resnet18", encoder_weights=None, classes=3).eval()
        images = torch.rand(2, 3, 64, 64)
    network = survey(module, module, images[:1])
    return network, Bank.of_draws(list(record(network, [images, images.flip(0) * 0.5]))), images[:1]


def test_this_build_of_torch_has_the_operators_and_they_give_torchs_numbers() -> None:
    assert onednn.agrees_with_torch()


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_that_gives_other_numbers_is_not_used(
    name: str, monkeypatch: pytest.MonkeyPatch, unknown: None
) -> None:
    original = getattr(onednn, name)
    monkeypatch.setattr(onednn, name, lambda *args: original(*args) + 1)
    assert not onednn.available()


@pytest.mark.parametrize("name", OPERATORS)
def test_passes_share_results_without_fused_calls_where_an_operator_is_missing(
    name: str, monkeypatch: pytest.MonkeyPatch, unknown: None, unet: tuple[BatchNormNetwork, Bank, Tensor]
) -> None:
    network, bank, image = unet
    fused = Passes(network, bank, FUSED)
    wanted = list(fused(image))
    assert fused.way == "fused"

    def missing(*_: Any) -> Tensor:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")

    monkeypatch.setattr(onednn, name, missing)
    onednn.available.cache_clear()
    without = Passes(network, bank, FUSED)
    for output, expected in zip(without(image), wanted, strict=True):
        torch.testing.assert_close(output.softmax(1), expected.softmax(1), rtol=0, atol=TOLERANCE)
    assert without.way == "shared"


def test_bfloat16_without_the_processors_instructions_shares_results_and_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, unet: tuple[BatchNormNetwork, Bank, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onednn, "has_bfloat16", lambda: False)
    network, bank, image = unet
    half, exact = (Passes(network, bank, replace(FUSED, precision=name)) for name in ("bf16", "fp32"))
    outputs, wanted = list(half(image)), list(exact(image))
    assert (half.way, exact.way, caplog.messages) == ("shared", "fused", [])
    apart = [float((a.softmax(1) - b.softmax(1)).abs().mean()) for a, b in zip(outputs, wanted, strict=True)]
    assert all(0 < error < 0.05 for error in apart)


def test_a_build_of_torch_that_does_not_tell_of_bfloat16_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    onednn.has_bfloat16.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    assert not onednn.has_bfloat16()
    onednn.has_bfloat16.cache_clear()
