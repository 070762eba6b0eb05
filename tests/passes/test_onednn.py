"""oneDNN's operators: used only where they give torch's own numbers, and passes run without them elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from segmentation_models_pytorch import Unet
from torch import Tensor

from segment.draws.bank import Bank
from segment.draws.recording import record
from segment.passes import onednn
from segment.passes.comparison import TOLERANCE
from segment.passes.passes import Passes, PassPlan
from segment.tracing.bn_layers import BatchNormNetwork, survey

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
