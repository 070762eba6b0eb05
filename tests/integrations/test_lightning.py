"""The callback in a real Trainer: scores are logged on time, they are MCBN's, and training goes on as without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from plain import noise, seeded
from small_networks import Small
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import segment
from segment.errors import WrongUse

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

lightning = pytest.importorskip("lightning.pytorch")
from segment.integrations.lightning import MCBNScores  # noqa: E402
from segment.integrations.metrics import UncertaintyScores  # noqa: E402

CLASSES = 4


def loader(seed: int, images: int = 8, *, shuffle: bool = False) -> DataLoader[Any]:
    labels = torch.randint(0, CLASSES, (images, 32, 32), generator=torch.Generator().manual_seed(seed))
    order = torch.Generator().manual_seed(7)
    return DataLoader(TensorDataset(noise(images, 3, 32, 32, seed=seed), labels), 4, shuffle=shuffle, generator=order)


class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """A small network in training."""

    def __init__(self) -> None:
        super().__init__()
        self.network = seeded(Small)
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.network(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trained(folder: Path, callbacks: list[Any], epochs: int = 4) -> tuple[Module, Any]:
    module = Module()
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, loader(1, shuffle=True), loader(2))
    return module, trainer


class Logged(lightning.Callback):  # type: ignore[misc, name-defined]
    """What a logger would have got, by epoch."""

    def __init__(self) -> None:
        self.by_epoch: dict[int, dict[str, float]] = {}

    def on_train_epoch_end(self, trainer: Any, _: Any) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("mcbn/")}
        self.by_epoch[trainer.current_epoch] = values


class Counting(Module):
    """Notes the images that it is trained on."""

    def on_train_start(self) -> None:
        self.trained: list[float] = []

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        self.trained += batch[0].sum(dim=(1, 2, 3)).tolist()
        return super().training_step(batch, number)


def test_the_trainers_own_workers_go_on_with_their_epoch(tmp_path: Path) -> None:
    module, images = Counting(), loader(1, images=12).dataset
    workers: dict[str, Any] = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": "fork"}
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[MCBNScores("network", CLASSES, every=1, draws=2, batch=2, images=4)],
        val_check_interval=2,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, DataLoader(images, 2, shuffle=True, **workers), loader(2))
    assert len(module.trained) == len(set(module.trained)) == 12


def test_scores_are_logged_every_n_epochs_and_are_those_of_mcbn(tmp_path: Path) -> None:
    callback, logged = MCBNScores("network", CLASSES, every=2, draws=3, batch=4, images=8), Logged()
    module, _ = trained(tmp_path, [callback, logged])
    assert logged.by_epoch[0] == {}
    assert set(logged.by_epoch[1]) >= {"mcbn/nll", "mcbn/miou", "mcbn/error_auroc.mutual_information"}
    assert logged.by_epoch[3] == pytest.approx(callback.scores)
    assert logged.by_epoch[3]["mcbn/nll"] != logged.by_epoch[1]["mcbn/nll"]
    statistics = torch.cat([batch[0] for batch in loader(1)])  # in another order than the shuffled one: other draws
    bank = segment.fit_bank(module.network, statistics, batch=4, draws=3)
    metric = UncertaintyScores(CLASSES, measures=("predictive_entropy",))
    mcbn = segment.MCBN(module.network, bank, precision="fp32")
    for images, labels in loader(2):
        metric.update(mcbn(images), labels)
    assert callback.scores["mcbn/nll"] == pytest.approx(float(metric.compute()["nll"]), rel=0.1)


def test_training_goes_on_as_without_the_callback(tmp_path: Path) -> None:
    with_it, _ = trained(tmp_path, [MCBNScores("network", CLASSES, every=1, draws=2, batch=4, images=8)], epochs=2)
    without, _ = trained(tmp_path, [], epochs=2)
    for (name, value), other in zip(with_it.state_dict().items(), without.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert with_it.network.training == without.network.training


def test_a_wrong_network_or_batch_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match="'model' of Module is no torch module"):
        trained(tmp_path, [MCBNScores("model", CLASSES, every=1, draws=2, batch=4, images=8)], epochs=1)
    with pytest.raises(WrongUse, match="batch is at most images"):
        MCBNScores("network", CLASSES, batch=9, images=8)
