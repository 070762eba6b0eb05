"""A Lightning callback: every few epochs, fit a bank on training batches and log the scores of MCBN.

Must not know a file. The module that is trained keeps its weights, buffers and flags: a copy is scored.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segment.errors import MissingExtra, WrongUse
from segment.estimation.mcbn import MCBN
from segment.integrations.metrics import UncertaintyScores
from segment.jobs.fit import fit_bank
from segment.networks.cards import Card
from segment.networks.load import load_network

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    raise MissingExtra("The callback needs Lightning: pip install 'mcbn-segment[lightning]'.") from None


class MCBNScores(Callback):
    """Fits a bank at the end of a validation, and logs `mcbn/nll`, `mcbn/miou` and so on.

    Args:
        network: the segmentation network inside the LightningModule: its attribute's name, or a function of it.
        classes: K, or the K names.
        every: epochs between two banks; the first is fitted after that many.
        draws: T. batch: M, the images behind a draw. images: training images that mini-batches are drawn from.
        batches: validation batches that are scored; None: all of them.
        unpack: a batch of the loaders to images (N, C, H, W), normalised as in training, and labels (N, H, W);
            None: its first two items, or its keys "image" and "mask".
        card: head, classes and void of the network; None: softmax.
        ignore_index: the label that is not scored.
        prefix: of the logged names.

    Raises:
        WrongUse: the network or a batch is not what was said.

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
        if min(every, draws, batch, images) < 1 or batch > images:
            raise WrongUse("every, draws, batch and images are counts from 1 up, and batch is at most images.")
        self.network, self.classes, self.every, self.draws, self.batch = network, classes, every, draws, batch
        self.images, self.batches, self.unpack, self.card = images, batches, unpack or _image_and_label, card
        self.ignore_index, self.measures, self.prefix = ignore_index, tuple(measures), prefix
        self.scores: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"MCBNScores(every {self.every} epochs, T = {self.draws}, M = {self.batch} of {self.images} images)"

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or (trainer.current_epoch + 1) % self.every:
            return
        module = getattr(pl_module, self.network, None) if isinstance(self.network, str) else self.network(pl_module)
        if not isinstance(module, nn.Module):
            raise WrongUse(f"{self.network!r} of {type(pl_module).__name__} is no torch module; name the network's.")
        network = load_network(module, card=self.card)
        statistics = self._statistics(trainer.train_dataloader, network.device)
        bank = fit_bank(network, statistics, batch=min(self.batch, len(statistics)), draws=self.draws, seed=0)
        mcbn = MCBN(network, bank, precision="fp32")
        metric = UncertaintyScores(
            self.classes,
            measures=self.measures,
            head=network.card.head,
            ignore_index=self.ignore_index,
        )
        for loaded in itertools.islice(_each(trainer.val_dataloaders), self.batches):
            images, labels = self.unpack(loaded)
            metric.update(mcbn(images.to(network.device), measures=self.measures), labels)
        self.scores = {f"{self.prefix}{name}": float(value) for name, value in metric.compute().items()}
        pl_module.log_dict(self.scores, sync_dist=False, rank_zero_only=True)

    def _statistics(self, loader: Any, device: torch.device) -> Tensor:  # N C H W
        kept: list[Tensor] = []
        with torch.random.fork_rng(), _same_shuffling(loader):
            for loaded in _each(loader):
                kept += self.unpack(loaded)[0].to(device).unbind()
                if len(kept) >= self.images:
                    break
        if not kept:
            raise WrongUse("The trainer has no training batches, and a bank needs some.")
        return torch.stack(kept[: self.images])


def _each(loaders: Any) -> Iterator[Any]:
    """The batches of a loader, or of a list of loaders one after the other."""
    several: Iterable[Any] = loaders if isinstance(loaders, list | tuple) else [loaders]
    for loader in several:
        yield from _with_own_workers(loader) if loader is not None else ()


def _with_own_workers(loader: Any) -> Any:
    """The same loader with persistent workers of its own: to iterate the trainer's would begin its epoch again."""
    if not isinstance(loader, DataLoader):
        return loader
    other = copy.copy(loader)
    other._iterator = None
    return other


@contextmanager
def _same_shuffling(loaders: Any) -> Iterator[None]:
    """What is iterated in this block leaves no trace in the generators that shuffle."""
    several = loaders if isinstance(loaders, list | tuple) else [loaders]
    parts = [part for loader in several for part in (loader, getattr(loader, "sampler", None))]
    generators = [one for part in parts if isinstance(one := getattr(part, "generator", None), torch.Generator)]
    states = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _image_and_label(loaded: Any) -> tuple[Tensor, Tensor]:
    if isinstance(loaded, dict) and {"image", "mask"} <= set(loaded):
        return loaded["image"], loaded["mask"]
    if isinstance(loaded, list | tuple) and len(loaded) >= 2:
        return loaded[0], loaded[1]
    raise WrongUse(f"A batch is a {type(loaded).__name__}; give `unpack`, a function of it to images and labels.")
