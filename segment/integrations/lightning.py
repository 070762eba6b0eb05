"""A Lightning callback: every few validations, fit a bank on training batches and log the scores of MCBN.

Must not know a file. The module that is trained keeps its weights, buffers and flags: a copy is scored. The random
generators keep their states.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segment.axes import size_text
from segment.batch_norm.network import bn_network_of
from segment.errors import MissingExtra, WrongUse
from segment.integrations.loaders import flat, in_turn, one_after_the_other, preserve_generators
from segment.integrations.metrics import UncertaintyScores
from segment.jobs.fit import fit_bank
from segment.jobs.mcbn import MCBN
from segment.networks.cards import Card
from segment.networks.load import Network, load_network

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.trainer.states import TrainerFn
except ImportError:
    raise MissingExtra("The callback needs Lightning: pip install 'mcbn-segment[lightning]'.") from None

log = logging.getLogger(__name__)


class MCBNScores(Callback):
    """Fits a bank at the end of a validation of `Trainer.fit`, and logs `mcbn/nll`, `mcbn/miou` and so on.

    The random generators of torch, NumPy and Python, and those that the loaders hold, have the same states after it.

    Args:
        network: the segmentation network inside the LightningModule: its attribute's name, or a function of it. It is
            there before `on_fit_start` of the module, and is tried then.
        classes: K, or the K names.
        every: validations between two banks; the first is fitted after that many. The sanity check is not counted.
            The count is kept in checkpoints.
        draws: T. batch: M, the images behind a draw. images: training images that mini-batches are drawn from; of
            several training loaders a batch each in turn.
        batches: validation batches that are scored, one loader after the other; None: all that the trainer validates
            on, so fewer under `limit_val_batches`.
        unpack: a batch of one loader to images (N, C, H, W), normalised as in training, and labels (N, H, W);
            None: its first two items, or its keys "image" and "mask".
        card: head, classes and void of the network; None: softmax.
        ignore_index: the label that is not scored; None: the card's void.
        prefix: of the logged names.

    Raises:
        WrongUse: the card has another number of classes or another void, the network or a batch is not what was said,
            or the training images have several sizes. ModelRefused: a network without BN, a compiled one, or one in
            half precision, before the training begins.

    """

    def __init__(
        self,
        network: str | Callable[[LightningModule], nn.Module],
        classes: int | Sequence[str],
        *,
        every: int = 5,
        draws: int = 8,
        batch: int = 8,
        images: int = 64,
        batches: int | None = None,
        unpack: Callable[[Any], tuple[Tensor, Tensor]] | None = None,
        card: Card | None = None,
        ignore_index: int | None = None,
        measures: Sequence[str] = ("predictive_entropy", "mutual_information"),
        prefix: str = "mcbn/",
    ) -> None:
        if min(every, draws, batch, images) < 1 or batch >= images:
            raise WrongUse("every, draws, batch and images are counts from 1 up, and batch is smaller than images.")
        if card is not None:
            _check_classes(card, classes if isinstance(classes, int) else len(classes))
            ignore_index = _ignored(card, ignore_index)
        self.network, self.classes, self.every, self.draws, self.batch = network, classes, every, draws, batch
        self.images, self.batches, self.unpack, self.card = images, batches, unpack or _image_and_label, card
        self.ignore_index, self.measures, self.prefix = ignore_index, tuple(measures), prefix
        self.scores: dict[str, float] = {}
        self.validations = 0

    def __repr__(self) -> str:
        return f"MCBNScores(every {self.every} validations, T = {self.draws}, M = {self.batch} of {self.images} images)"

    @property
    def state_key(self) -> str:
        """The name of its state in a checkpoint; it differs between the callbacks of one trainer."""
        network = self.network if isinstance(self.network, str) else getattr(self.network, "__qualname__", "a function")
        return f"MCBNScores[network={network!r}, prefix={self.prefix!r}]"

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.global_step == 0:  # not where a trainer goes on with a second `fit`
            self.validations = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a network that can have no bank now, not after the first validations."""
        with preserve_generators([]):
            bn_network_of(self._network(pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn != TrainerFn.FITTING:
            log.info("MCBNScores logs nothing outside `Trainer.fit`: a bank needs training batches.")
            return
        self.validations += 1
        if self.validations % self.every:
            return
        training, validation = flat(trainer.train_dataloader), flat(trainer.val_dataloaders)
        with preserve_generators([*training, *validation]):
            self._score(pl_module, training, one_after_the_other(validation, trainer.num_val_batches))

    def _network(self, pl_module: LightningModule) -> Network:
        module = getattr(pl_module, self.network, None) if isinstance(self.network, str) else self.network(pl_module)
        if not isinstance(module, nn.Module):
            raise WrongUse(f"{self.network!r} of {type(pl_module).__name__} is no torch module; name the network's.")
        return load_network(module, card=self.card)

    def _score(self, pl_module: LightningModule, training: list[Any], validation: Iterable[Any]) -> None:
        network = self._network(pl_module)
        statistics = self._statistics(training, network.device)
        bank = fit_bank(
            network, statistics, batch=min(self.batch, max(1, len(statistics) - 1)), draws=self.draws, seed=0
        )
        mcbn = MCBN(network, bank, precision="fp32")
        metric = UncertaintyScores(
            self.classes,
            measures=self.measures,
            head=network.card.head,
            ignore_index=self.ignore_index,
        )
        for loaded in itertools.islice(validation, self.batches):
            images, labels = self.unpack(loaded)
            metric.update(mcbn(images.to(network.device), measures=self.measures), labels)
        self.scores = {f"{self.prefix}{name}": float(value) for name, value in metric.compute().items()}
        pl_module.log_dict(self.scores, sync_dist=False, rank_zero_only=True)

    def _statistics(self, loaders: list[Any], device: torch.device) -> Tensor:  # N C H W
        kept: list[Tensor] = []
        for loaded in in_turn(loaders):
            kept += self.unpack(loaded)[0].to(device).unbind()
            if len(kept) >= self.images:
                break
        if not kept:
            raise WrongUse("The trainer has no training batches, and a bank needs some.")
        kept = kept[: self.images]
        if len(sizes := sorted({tuple(image.shape) for image in kept})) > 1:
            raise WrongUse(
                f"The training images have several sizes, {' and '.join(map(size_text, sizes[:3]))}; a mini-batch has "
                "one. Crop or resize them in training, or give MCBNScores an `unpack` that does."
            )
        return torch.stack(kept)


def _check_classes(card: Card, count: int) -> None:
    known = 2 if card.head == "sigmoid" else len(card.classes)
    if known not in (0, count):
        raise WrongUse(f"classes says {count}, and the card {card.name!r} has {known} classes; correct one of the two.")


def _ignored(card: Card, ignore_index: int | None) -> int | None:
    if ignore_index is None or card.void is None:
        return card.void if ignore_index is None else ignore_index
    if ignore_index != card.void:
        raise WrongUse(
            f"ignore_index={ignore_index} was asked for, and the card {card.name!r} has the void {card.void}; leave "
            "ignore_index out, or correct one of the two."
        )
    return ignore_index


def _image_and_label(loaded: Any) -> tuple[Tensor, Tensor]:
    if isinstance(loaded, dict) and {"image", "mask"} <= set(loaded):
        return loaded["image"], loaded["mask"]
    if isinstance(loaded, list | tuple) and len(loaded) >= 2:
        return loaded[0], loaded[1]
    raise WrongUse(f"A batch is a {type(loaded).__name__}; give `unpack`, a function of it to images and labels.")
