"""The callback reads the trainer's loaders, and training has the same random numbers, and so losses, as without it."""

from __future__ import annotations

import math
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plain import noise
from small_networks import Small, network_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from segment.errors import WrongUse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.utilities import CombinedLoader  # noqa: E402

from segment.integrations.lightning import MCBNScores  # noqa: E402
from segment.integrations.loaders import flat, in_turn, one_after_the_other, preserve_generators  # noqa: E402

CLASSES = 4
IMAGES, LABELS = noise(8, 3, 32, 32, seed=1), torch.zeros(8, 32, 32, dtype=torch.long)


class Brightness:
    """An augmentation with generators of its own, as those of albumentations have."""

    def __init__(self) -> None:
        self.numpy, self.old, self.python = np.random.default_rng(1), np.random.RandomState(2), random.Random(3)

    def __call__(self, image: Tensor) -> Tensor:
        return image + 0.1 * (self.numpy.random() + self.old.rand() + self.python.random())


class Augmented(Dataset[Any]):
    """Images whose augmentation draws from the generators of torch, NumPy and Python, and from its own."""

    def __init__(self) -> None:
        self.transforms = [partial(Brightness())]

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = IMAGES[index] + 0.1 * (float(torch.rand(())) + np.random.rand() + random.random())  # noqa: NPY002
        return self.transforms[0](image), LABELS[index]


class Recorded(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """A small network in training, and its losses."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network_of(Small).module
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.network(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Failing(MCBNScores):
    """Goes on after a refusal, as a callback of a user may."""

    refused = 0

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        try:
            super().on_validation_epoch_end(trainer, pl_module)
        except WrongUse:
            self.refused += 1


def losses(folder: Path, callbacks: list[Any]) -> list[float]:
    lightning.seed_everything(5, verbose=False)
    module = Recorded()
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=callbacks,
        val_check_interval=0.5,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    # the same dataset in both loaders: what validation draws moves the numbers of training
    data = Augmented()
    trainer.fit(module, DataLoader(data, 2, shuffle=True), DataLoader(data, 4, shuffle=True))
    return module.losses


def unreadable(loaded: Any) -> tuple[Tensor, Tensor]:
    raise WrongUse(f"A batch is a {type(loaded).__name__}.")


def test_training_has_the_same_losses_with_and_without_the_callback(tmp_path: Path) -> None:
    without = losses(tmp_path, [])
    assert len(set(without)) == 8
    assert losses(tmp_path, [MCBNScores("network", CLASSES, every=1, draws=2, batch=2, images=4)]) == without
    failing = Failing("network", CLASSES, every=1, draws=2, batch=2, images=4, unpack=unreadable)
    assert losses(tmp_path, [failing]) == without
    assert failing.refused == 4


def test_generators_of_transforms_samplers_and_the_process_are_restored_also_after_an_exception() -> None:
    loader = DataLoader(Augmented(), 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    with preserve_generators([loader]):
        first = [batch[0] for batch in loader]
    with pytest.raises(WrongUse, match="A batch is a list"), preserve_generators([loader]):
        unreadable(next(iter(loader)))
    for batch, again in zip(first, loader, strict=True):
        assert torch.equal(batch, again[0])
    assert not torch.equal(first[0], next(iter(loader))[0])


def numbers(first: int, count: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(first, first + count)), 2)


def test_the_loaders_of_lists_dictionaries_and_combined_loaders_are_read_in_either_order() -> None:
    a, b = numbers(0, 6), numbers(10, 2)
    assert flat(a) == [a]
    assert flat(None) == []
    assert flat([a, b]) == flat({"a": a, "b": b}) == flat({"a": [a], "b": b}) == [a, b]
    assert flat(CombinedLoader({"a": a, "b": b}, "max_size_cycle")) == [a, b]
    orders = one_after_the_other([a, b], [math.inf, math.inf]), in_turn([a, b])
    read = [[batch[0].tolist() for batch in order] for order in orders]
    assert read == [[[0, 1], [2, 3], [4, 5], [10, 11]], [[0, 1], [10, 11], [2, 3], [4, 5]]]
