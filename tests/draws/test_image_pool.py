"""What the statistics images must have in common, and what to do where they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_networks import network_of

import segment
from segment.errors import WrongUse
from segment.images.specs import TrainingSpec

SIZES = ((40, 64), (44, 64), (40, 60))


def images() -> list[np.ndarray[Any, Any]]:
    return [np.full((*size, 3), 100, np.uint8) for size in SIZES]


def test_images_of_two_sizes_are_refused_with_the_option_that_gives_one() -> None:
    with pytest.raises(WrongUse, match=r"share one size: .* Give --size HxW, or a card with a training pipeline"):
        segment.fit_bank(network_of(), images(), batch=2, draws=2)


def test_where_the_cards_own_pipeline_leaves_two_sizes_it_is_the_pipeline_that_is_named() -> None:
    network = network_of()
    training = TrainingSpec(batch=2, transforms=({"name": "HorizontalFlip"},))
    network = replace(network, card=replace(network.card, training=training))
    with pytest.raises(WrongUse, match=r"share one size: .* The card's `training: .* RandomCrop or Resize") as refusal:
        segment.fit_bank(network, images(), batch=2, draws=2)
    assert "--size" not in str(refusal.value)
