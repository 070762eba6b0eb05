"""What a sweep varies: settings of the draws, the banks they need, and the methods they give.

One bank serves every T, every choice of layers and every alpha. Must not know an image of the test set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from segment.axes import size_in
from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.minibatches import check_enough
from segment.errors import WrongUse
from segment.files.banks.cache import BankCache
from segment.images.listing.parts import Listing
from segment.images.outside_runs import images_outside_runs
from segment.images.specs import TrainingSpec
from segment.jobs.fit import fit
from segment.jobs.progress import Progress, silent
from segment.jobs.recording.plan import FitPlan
from segment.networks.load import Network
from segment.report.results import TRAINING_TRANSFORM, Setting
from segment.runners.runner import LOCAL, Runner

CROP = "crop:"
PLAIN = "plain"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of what is listed; draws are prefixes of the largest T, seeds are banks of one setting."""

    batches: tuple[int, ...]
    draws: tuple[int, ...] = (1, 2, 4, 8, 16)
    layers: tuple[str, ...] = ("all",)
    transforms: tuple[str, ...] = (TRAINING_TRANSFORM,)
    alphas: tuple[float, ...] = (1.0,)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("batches", "draws", "layers", "transforms", "alphas", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise WrongUse(f"--{name} needs one value at least, and none twice; given: {list(values)}.")
        if min(*self.draws, *self.batches, 1) < 1 or min(self.seeds) < 0:
            raise WrongUse("--draws and --batches are counts from 1 up, --seeds integers from 0 up.")
        if not all(0 <= alpha <= 1 for alpha in self.alphas):
            raise WrongUse(f"--alphas {list(self.alphas)}: each within 0 (trained statistics) and 1 (the draw's).")
        for transform in self.transforms:
            size_of_crop(transform)

    def settings(self, *, adapted: bool = False) -> tuple[Setting, ...]:
        combinations = product(self.batches, self.transforms, self.layers, self.alphas)
        return tuple(
            Setting(batch=batch, transform=transform, layers=layers, alpha=alpha, adapted=adapted)
            for batch, transform, layers, alpha in combinations
        )


def size_of_crop(transform: str) -> tuple[int, int] | None:
    """H, W of a centre crop, None for the other transforms.

    >>> size_of_crop("crop:320x480"), size_of_crop("plain")
    ((320, 480), None)
    """
    if transform in (TRAINING_TRANSFORM, PLAIN):
        return None
    size = size_in(transform.removeprefix(CROP)) if transform.startswith(CROP) else None
    if size is None:
        raise WrongUse(
            f"No transform of the statistics images is called {transform!r}. Known: training, plain, "
            "crop:HxW (as crop:320x320)."
        )
    return size


class Banks:
    """Banks of a sweep, recorded once and kept in a folder. listing: which slices and frames of `train` are taken."""

    def __init__(
        self,
        network: Network,
        train: str | Path,
        folder: Path,
        draws: int,
        progress: Progress = silent,
        *,
        listing: Listing | None = None,
        memory: int | str | None = None,
        runner: Runner = LOCAL,
    ) -> None:
        self.network = network
        self.train = train
        self.draws = draws
        self.progress = progress
        self.listing = listing
        self.memory = memory
        self.runner = runner
        self.cache = BankCache(folder, most=None)

    def bank(self, setting: Setting, seed: int, worse: Mapping[str, Any] | None = None) -> Bank:
        """With every layer stochastic. worse: a corruption that adapted statistics images go through."""
        card = self.network.card
        _check_pipeline(self.network, setting.transform)
        steps = (
            card.training.transforms if card.training is not None and setting.transform == TRAINING_TRANSFORM else ()
        )
        if setting.adapted and worse is not None:
            steps = (*steps, worse)
        size = size_of_crop(setting.transform)
        if size is not None and steps:
            raise WrongUse("Adapted statistics images are cropped by the card's pipeline: use --transforms training.")
        network = replace(
            self.network, card=replace(card, training=TrainingSpec(batch=setting.batch, transforms=steps))
        )
        bank, _ = fit(
            network,
            self.train,
            None,
            FitPlan(batch=setting.batch, draws=self.draws, seed=seed, size=size, memory=self.memory),
            cache=self.cache,
            listing=self.listing,
            progress=self.progress,
            runner=self.runner,
        )
        return bank


def check_grid(network: Network, train: str | Path, grid: Grid, listing: Listing | None = None) -> None:
    """Refuse a grid with a bank that cannot be recorded, before a folder is made and the first one is recorded.

    Errors: WrongUse for fewer training images than a mini-batch has, or a card that states no training pipeline.
    """
    for transform in grid.transforms:
        _check_pipeline(network, transform)
    check_enough(max(grid.batches), len(images_outside_runs(train, listing, warn=False)))


def _check_pipeline(network: Network, transform: str) -> None:
    if transform == TRAINING_TRANSFORM and network.card.training is None:
        raise WrongUse(
            f"The card of {network.name!r} has no `training:`; add it, or give --transforms plain or crop:HxW."
        )


def chosen_layers(network: BatchNormNetwork, layers: str) -> BatchNormNetwork:
    """all; encoder or decoder: up to the last layer at the smallest map, or after it; first; last; or globs with "+".

    Layers named `encoder.*` and `decoder.*` are taken by their names.
    """
    names = [layer.name for layer in network.stochastic]
    if layers == "all":
        return network
    if layers in ("encoder", "decoder"):
        named = [name for name in names if name.startswith(f"{layers}.")]
        return network.select_names(named or _half(network, layers))
    if layers in ("first", "last"):
        return network.select_names([names[0 if layers == "first" else -1]])
    return network.select(layers.split("+"))


def _half(network: BatchNormNetwork, half: str) -> list[str]:
    smallest = min(layer.values for layer in network.stochastic)
    last = max(number for number, layer in enumerate(network.stochastic) if layer.values == smallest)
    names = [layer.name for layer in network.stochastic]
    chosen = names[: last + 1] if half == "encoder" else names[last + 1 :]
    if not chosen:
        raise WrongUse(f"This network has no {half}: no BN layer comes after its smallest map. Give globs instead.")
    return chosen


def blended(bank: Bank, network: BatchNormNetwork, alpha: float) -> Bank:
    """The bank for the network's stochastic layers; each draw is alpha of itself and 1 - alpha of the trained one."""
    bank = bank.layers_only([layer.name for layer in network.stochastic])
    if alpha == 1:
        return bank
    trained = Bank.of_trained(network, mean_of=bank)
    return bank.with_draws(
        bank.weights,
        {name: alpha * value + (1 - alpha) * trained.mean[name] for name, value in bank.mean.items()},
        {name: alpha * value + (1 - alpha) * trained.var[name] for name, value in bank.var.items()},
    )
