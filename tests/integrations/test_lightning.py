"""The callback in a real Trainer: scores are logged on time, they are MCBN's, and training goes on as without it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from plain import noise, seeded
from small_networks import Small
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import segment
from segment.errors import ModelRefused, WrongUse
from segment.networks.cards import Card, default_card

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

lightning = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.utilities import CombinedLoader  # noqa: E402

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
        self.network: nn.Module = seeded(Small)
        self.seen: list[dict[str, float]] = []

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.network(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer_of(folder: Path, callbacks: list[Any], epochs: int, **options: Any) -> Any:
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def trained(folder: Path, callbacks: list[Any], epochs: int = 4, **options: Any) -> tuple[Module, Any]:
    module, trainer = Module(), trainer_of(folder, callbacks, epochs, **options)
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
    callback = MCBNScores("network", CLASSES, every=1, draws=2, batch=2, images=4)
    trainer = trainer_of(tmp_path, [callback], 1, val_check_interval=2, num_sanity_val_steps=0)
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
    with pytest.raises(WrongUse, match="batch is smaller than images"):
        MCBNScores("network", CLASSES, batch=9, images=8)


def without_bn() -> nn.Module:
    return nn.Conv2d(3, CLASSES, 1)


def compiled() -> nn.Module:
    compiled_module: nn.Module = torch.compile(Module().network, backend="eager")  # type: ignore[assignment]
    return compiled_module


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (without_bn, "no batch normalisation"),
        (compiled, "is compiled, so its BN layers"),
        (lambda: Module().network.bfloat16(), "parameters are in torch.bfloat16"),
    ],
)
def test_a_network_that_can_have_no_bank_is_refused_before_the_training(
    tmp_path: Path, made: Callable[[], nn.Module], message: str
) -> None:
    module, trainer = Module(), trainer_of(tmp_path, [small(every=9)], 1, num_sanity_val_steps=0)
    module.network = made()
    with pytest.raises(ModelRefused, match=message):
        trainer.fit(module, loader(1, shuffle=True), loader(2))
    assert trainer.global_step == 0


def small(**settings: Any) -> MCBNScores:
    return MCBNScores("network", CLASSES, **({"every": 1, "draws": 2, "batch": 4, "images": 8} | settings))


def card(**settings: Any) -> Card:
    return replace(default_card("py:given:module"), name="road", **settings)


def test_the_void_of_the_card_is_not_scored(tmp_path: Path) -> None:
    of_card, given, all_labels = small(card=card(void=3)), small(ignore_index=3), small()
    for callback in (of_card, given, all_labels):
        trained(tmp_path, [callback], epochs=1)
    assert of_card.scores == given.scores != all_labels.scores
    assert small(card=card(void=3), ignore_index=3).ignore_index == 3
    assert small(card=card(), ignore_index=0).ignore_index == 0
    with pytest.raises(WrongUse, match="ignore_index=255 was asked for, and the card 'road' has the void 3; leave"):
        small(card=card(void=3), ignore_index=255)


def test_a_card_of_another_number_of_classes_is_refused() -> None:
    with pytest.raises(WrongUse, match="classes says 4, and the card 'road' has 3 classes; correct one"):
        small(card=card(classes=("road", "sky", "car")))
    with pytest.raises(WrongUse, match="the card 'road' has 2 classes"):
        small(card=card(head="sigmoid"))
    small(card=card(classes=("road", "sky", "car", "tree")))


class Times(MCBNScores):
    """Notes after which validation of the training it fitted a bank."""

    def __init__(self, **settings: Any) -> None:
        super().__init__("network", CLASSES, draws=2, batch=4, images=8, **settings)
        self.fitted: list[int] = []
        self.ends = 0

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.scores = {}
        super().on_validation_epoch_end(trainer, pl_module)
        self.ends += not trainer.sanity_checking
        if self.scores:
            self.fitted.append(self.ends)


@pytest.mark.parametrize(
    ("options", "epochs"), [({}, 4), ({"check_val_every_n_epoch": 2}, 8), ({"val_check_interval": 0.5}, 2)]
)
def test_every_counts_validations_of_the_training(tmp_path: Path, options: dict[str, Any], epochs: int) -> None:
    callback = Times(every=2)
    trained(tmp_path, [callback], epochs=epochs, **options)
    assert (callback.fitted, callback.ends) == ([2, 4], 4)


def test_the_count_goes_on_from_a_checkpoint_and_begins_anew_in_another_training(tmp_path: Path) -> None:
    _, trainer = trained(tmp_path, [Times(every=2)], epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    callback = Times(every=2)
    resumed = trainer_of(tmp_path, [callback, Times(every=2, prefix="other/")], 2)
    resumed.fit(Module(), loader(1), loader(2), ckpt_path=tmp_path / "one.ckpt")
    assert (callback.fitted, callback.validations) == ([1], 2)
    resumed.fit_loop.max_epochs = 3
    resumed.fit(Module(), loader(1), loader(2))
    assert callback.validations == 3
    trained(tmp_path, [callback], epochs=1)
    assert callback.validations == 1


def test_a_validation_outside_fit_logs_no_scores(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = small()
    trainer = trainer_of(tmp_path, [callback], 1)
    with caplog.at_level(logging.INFO, logger="segment"):
        trainer.validate(Module(), loader(2), verbose=False)
    assert callback.scores == {}
    assert callback.validations == 0
    assert "outside `Trainer.fit`" in caplog.text


class Several(Module):
    """Trained on a batch of each loader."""

    def training_step(self, batch: Any, number: int) -> Tensor:
        return super().training_step(batch["a"], number)

    def validation_step(self, batch: Any, _: int, dataloader_idx: int = 0) -> None:
        pass


@pytest.mark.parametrize("kind", [dict, lambda **each: CombinedLoader(each, "max_size_cycle")])
def test_dictionaries_and_combined_loaders_are_read_as_lightning_reads_them(tmp_path: Path, kind: Any) -> None:
    callback, listed = small(images=8), small(images=8)
    trainer_of(tmp_path, [callback], 1).fit(
        Several(), kind(a=loader(1), b=loader(3)), kind(a=loader(2), b=loader(4, images=4))
    )
    module, training = Several(), {"a": loader(1), "b": loader(3)}
    trainer_of(tmp_path, [listed], 1).fit(module, training, [loader(2), loader(4, images=4)])
    assert callback.scores == listed.scores != {}
    statistics = listed._statistics(list(training.values()), torch.device("cpu"))
    expected = [next(iter(one))[0] for one in training.values()]  # four images of each
    assert torch.equal(statistics, torch.cat(expected))


@pytest.mark.parametrize("limit", [1, 0.5])
def test_a_limit_of_the_validation_holds_for_the_scores_too(tmp_path: Path, limit: float) -> None:
    limited, few = small(images=8), small(images=8)
    trained(tmp_path, [limited], 1, limit_val_batches=limit)  # of two batches
    module, trainer = Module(), trainer_of(tmp_path, [few], 1)
    one = next(iter(loader(2)))
    trainer.fit(module, loader(1, shuffle=True), DataLoader(TensorDataset(*one), 4))
    assert limited.scores == few.scores != {}


@pytest.mark.parametrize("mode", ["sequential", "max_size", "min_size", "max_size_cycle"])
def test_a_limit_holds_for_each_of_several_loaders(tmp_path: Path, mode: Any) -> None:
    limited, few = small(images=8), small(images=8)
    training, loaders = {"a": loader(1), "b": loader(3)}, [loader(2), loader(4, images=12)]
    trainer_of(tmp_path, [limited], 1, limit_val_batches=1).fit(Several(), training, CombinedLoader(loaders, mode))
    firsts = [DataLoader(TensorDataset(*next(iter(one))), 4) for one in loaders]
    trainer_of(tmp_path, [few], 1).fit(Several(), training, firsts)
    assert limited.scores == few.scores != {}


def test_training_images_of_two_sizes_are_refused_by_their_sizes(tmp_path: Path) -> None:
    pairs = [(torch.rand(3, side, 32), torch.zeros(side, 32, dtype=torch.long)) for side in (32, 16) * 4]
    with pytest.raises(WrongUse, match=r"several sizes, 3x16x32 and 3x32x32; a mini-batch has one\. Crop") as refusal:
        trainer_of(tmp_path, [small()], 1).fit(Module(), DataLoader(pairs, 1), loader(2))  # type: ignore[arg-type]
    assert "\n" not in str(refusal.value)
