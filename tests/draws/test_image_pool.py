"""What the statistics images must have in common, and what to do where they do not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from plain import calibrated, seeded
from small_networks import network_of
from torch import nn

import segment
from segment.draws.image_pool import ImagePool
from segment.errors import WrongUse
from segment.images.specs import InputSpec, TrainingSpec
from segment.networks.load import Network, load_network

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


FLIP = {"name": "HorizontalFlip", "p": 0.5}
CROP = {"name": "RandomCrop", "height": 32, "width": 32}


class Points(nn.Sequential):
    """Each pixel by itself, so that its BN statistics do not depend on where pixels lie."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


def in_file_units(channels: int, *transforms: dict[str, Any]) -> Network:
    network = load_network(calibrated(seeded(lambda: Points(channels)), (32, 32), channels=channels))
    spec = InputSpec(channels=channels, white=255.0, scale=1.0, mean=(0.0,) * channels, std=(500.0,) * channels)
    training = TrainingSpec(batch=2, transforms=transforms)
    return replace(network, card=replace(network.card, input=spec, training=training))


def hounsfield(channels: int) -> list[np.ndarray[Any, Any]]:
    generator = np.random.default_rng(0)
    return [generator.integers(-1000, 2000, (40, 48, channels)).astype(np.int16) for _ in range(4)]


@pytest.mark.parametrize("channels", [1, 4])
def test_flips_leave_the_statistics_of_each_pixel_as_they_are_in_any_unit(channels: int) -> None:
    images = hounsfield(channels)
    flipped = segment.fit_bank(in_file_units(channels, FLIP), images, draws=4)
    plain = segment.fit_bank(in_file_units(channels), images, draws=4)
    for name in plain.mean:
        torch.testing.assert_close(flipped.mean[name], plain.mean[name], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(flipped.var[name], plain.var[name], rtol=1e-4, atol=1e-4)


def test_images_of_two_sizes_and_of_four_bands_are_cropped_by_the_cards_transforms() -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*size, 4), dtype=np.uint8) for size in SIZES]
    pool = ImagePool(in_file_units(4, CROP, FLIP), images)
    assert [tuple(pool.prepared(index, index).shape) for index in range(3)] == [(4, 32, 32)] * 3
    segment.fit_bank(in_file_units(4, CROP, FLIP), images, batch=2, draws=2)


def test_a_transform_of_8_bits_refuses_other_units_before_the_first_draw_and_names_the_image() -> None:
    network, images = in_file_units(1, CROP, {"name": "RandomBrightnessContrast"}), hounsfield(1)
    pool = ImagePool(network, [np.zeros((40, 48, 1), np.uint8), images[0]])
    pool.check({0})
    with pytest.raises(WrongUse, match=r"^image 1 of the statistics images: .*RandomBrightnessContrast.* are -1000 to"):
        pool.check({0, 1})
