"""The trained ResNet32, the CIFAR-10 images, and the class probabilities of every pass over them.

Must not know how the network was trained beyond how a training mini-batch was made.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.draws.bank import Bank
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import record
from segment.errors import WrongUse, one_line
from segment.experiments.regression.predictive import Array
from segment.experiments.weights import weights_in
from segment.files.reading import file_bytes
from segment.images.prepare import prepare
from segment.images.specs import InputSpec
from segment.images.transforms.augment import pipeline
from segment.methods.method import Method
from segment.networks.architectures.resnet import ResNet32
from segment.networks.building.weights import load_weights
from segment.networks.cards import IMAGENET_MEAN, IMAGENET_STD
from segment.uncertainty.heads import probabilities

INPUT = InputSpec(mean=IMAGENET_MEAN, std=IMAGENET_STD)


TRANSFORMS: tuple[Mapping[str, Any], ...] = (
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "Pad", "padding": 4, "fill": 0},
    {"name": "RandomCrop", "height": 32, "width": 32},
)
"""What training did to an image, and so what a mini-batch of statistics repeats."""


AT_ONCE = 50
"""Images in one pass: of more, what a layer gives does not stay in the processor's cache."""


WEIGHTS = "resnet32_cifar10"
CLASSES = 10
KNOWN = set(range(CLASSES))


def drawn_network(data: Path) -> BatchNormNetwork:
    """The trained ResNet32 with its 31 BN layers. Error: WeightsRefused where its file is not there or is another's."""
    module = ResNet32()
    load_weights(module, weights_in(data, WEIGHTS))
    module.eval()
    return survey(module, module, torch.zeros(2, 3, 32, 32))


def read_images(data: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:  # N 32 32 3, N
    """Images and labels of `cifar10/<name>.npz`.

    Error: WrongUse where the file is not there, not whole, or holds anything else.
    """
    path = data / "cifar10" / f"{name}.npz"
    try:
        with np.load(BytesIO(file_bytes(path)), allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        why = one_line(error, 160).rstrip(".")
        raise WrongUse(f"{str(path)!r} does not read as CIFAR-10 images ({why}). Name the folder of data.") from None
    count = len(images) if images.ndim else 0
    if images.dtype != np.uint8 or images.shape != (count, 32, 32, 3):
        raise WrongUse(
            f"{str(path)!r}: `images` are uint8, N x 32 x 32 x 3 (RGB), not {images.dtype}, "
            f"{' x '.join(map(str, images.shape))}."
        )
    if labels.dtype.kind not in "iu" or labels.shape != (count,) or not count or not set(np.unique(labels)) <= KNOWN:
        raise WrongUse(f"{str(path)!r}: `labels` are {count} integers from 0 to {CLASSES - 1}, one an image.")
    return images, labels


def normalised(images: NDArray[np.uint8]) -> Tensor:  # N H W 3 -> N 3 H W
    return torch.stack([prepare(image, INPUT) for image in images])


def bank_of(network: BatchNormNetwork, images: NDArray[np.uint8], plan: DrawPlan) -> Bank:
    """Draws from mini-batches that are augmented as in training."""
    augment = pipeline(TRANSFORMS)
    picks = choices(plan, len(images))
    batches = (
        normalised(np.stack([augment(images[index], own) for index, own in zip(pick.images, pick.seeds, strict=True)]))
        for pick in picks
    )
    return Bank.of_draws(list(record(network, batches)))


def all_passes(method: Method, images: Tensor) -> Array:  # N 3 H W -> T N K
    """Class probabilities of every pass; kept, for they are few here and subsets of the draws are averaged."""
    parts = [
        torch.stack([probabilities(output, "softmax") for _, output in method(images[start : start + AT_ONCE])])
        for start in range(0, len(images), AT_ONCE)
    ]
    array: Array = torch.cat(parts, dim=1).double().numpy()
    return array
