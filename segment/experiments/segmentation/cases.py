"""Networks with labelled images, and their mini-batches: the material of the segmentation experiment.

Must not know what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.image_pool import training_pipeline
from segment.draws.large_batches import record_in_parts
from segment.draws.minibatches import DrawPlan, MiniBatch, choices
from segment.experiments.weights import weights_in
from segment.images.find import find_images
from segment.images.prepare import prepare
from segment.images.read import read_image, read_label
from segment.networks.cards import read_card
from segment.networks.load import Network, load_network
from segment.scenes import scene as scenes


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """One test image with its labels."""

    id: str
    image: NDArray[Any]
    label: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network with its training and test images, which are read when they are asked for."""

    title: str
    network: Network
    train: int
    train_image: Callable[[int], NDArray[Any]]
    test: int
    test_image: Callable[[int], LabelledImage]

    @property
    def usual(self) -> int:
        """M in training."""
        assert self.network.card.training is not None
        return self.network.card.training.batch


def bank_of(case: Case, drawn: BatchNormNetwork, plan: DrawPlan) -> Bank:
    """Draws from mini-batches augmented as in training; of one seed, a smaller M has the first images of a larger."""
    augment = training_pipeline(case.network)

    def seen(index: int, own: int) -> NDArray[Any]:
        image = case.train_image(index)
        return image if augment is None else augment(image, own)

    return recorded(drawn, batches(case, choices(plan, case.train), seen))


def recorded(drawn: BatchNormNetwork, mini_batches: Iterable[Tensor]) -> Bank:
    """A draw for each mini-batch (M C H W), whose images go through one at a time."""
    return Bank.of_draws(list(record_in_parts(drawn, mini_batches, at_once=1, keep_bytes=math.inf)))


def batches(
    case: Case, picks: Sequence[MiniBatch], seen: Callable[[int, int], NDArray[Any]]
) -> Iterator[Tensor]:  # M C H W
    for pick in picks:
        pairs = zip(pick.images, pick.seeds, strict=True)
        yield torch.stack([prepare(seen(index, own), case.network.card.input) for index, own in pairs])


def scenes_case(_: Path) -> Case:
    """The shipped network on generated street scenes."""

    def test_image(index: int) -> LabelledImage:
        drawn = scenes.scene(scenes.TEST[index])
        return LabelledImage(id=f"scene_{scenes.TEST[index]}", image=drawn.image, label=drawn.label.astype(np.int64))

    return Case(
        title="generated scenes, small U-Net",
        network=load_network("scenes"),
        train=len(scenes.TRAIN),
        train_image=lru_cache(None)(lambda index: scenes.scene(scenes.TRAIN[index]).image),
        test=len(scenes.TEST),
        test_image=test_image,
    )


def camvid_case(data: Path, card_name: str, title: str) -> Case:
    """A network of the repository's cards on CamVid, with its weights in the folder of data."""
    card = read_card(card_name)
    card = replace(card, weights=weights_in(data, card_name))
    train, test = (find_images(data / "camvid" / f"{part}.txt") for part in ("train", "test"))

    def test_image(index: int) -> LabelledImage:
        source = test[index]
        assert source.label is not None
        return LabelledImage(id=source.id, image=read_image(source.path), label=read_label(source.label))

    return Case(
        title=title,
        network=load_network(card.network, card=card),
        train=len(train),
        train_image=lru_cache(None)(lambda index: read_image(train[index].path)),
        test=len(test),
        test_image=test_image,
    )


CASES: Mapping[str, Callable[[Path], Case]] = {
    "scenes": scenes_case,
    "camvid-enet": lambda data: camvid_case(data, "enet_camvid", "CamVid, ENet"),
    "camvid-unet": lambda data: camvid_case(data, "unet_lite0_camvid", "CamVid, U-Net"),
}
