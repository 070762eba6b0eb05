"""A network and training images to a bank: `segment fit`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of, little_batchnorm
from segment.draws.bank import Bank
from segment.draws.identity import identified, is_bank_of
from segment.draws.image_pool import CACHE_BYTES, ImagePool, Images
from segment.draws.minibatches import choices
from segment.draws.probe_passes import probe_side
from segment.draws.reference import against_trained, warn_if_unlike_training, warn_of_equal_draws
from segment.errors import imported
from segment.estimation.memory_budget import memory_budget
from segment.files.banks.bank_file import save_bank
from segment.files.banks.cache import MARKS, BankCache, is_of_recipe, marks_of, pool_sha256, recipe_of, signed
from segment.files.banks.output import refuse_other_bank
from segment.files.banks.unfinished import PartialBank
from segment.files.versions import versions
from segment.images.listing.parts import Listing
from segment.images.listing.samples import DatasetImages
from segment.images.specs import Channels
from segment.jobs.progress import Progress, silent
from segment.jobs.recording.bank import recorded
from segment.jobs.recording.completion import completed, is_complete
from segment.jobs.recording.plan import FitPlan
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.passes.passes import Engine, check_engine
from segment.runners.runner import LOCAL, Runner

log = logging.getLogger(__name__)


def fit_bank(
    network: Network | nn.Module | str | Path,
    images: Images,
    *,
    batch: int | None = None,
    draws: int = 128,
    seed: int = 0,
    layers: str = "all",
    size: tuple[int, int] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    memory: int | str | None = None,
    cache: bool = False,
    every: int = 1,
    axis: int = 2,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
    engine: Engine = "torch",
    progress: Progress = silent,
) -> Bank:
    """T joint draws of the network's batch statistics, each from M training images, transformed as in training.

    network: what `load_network` gave, a URI, a card, or any torch module with BN (copied: the caller's stays as it is)
    images: training images: a folder, a glob, a list, paths, uint8 arrays (H W C), Pillow images, normalised tensors, a
    Dataset, a DataLoader (of tensors, (image, label), or dictionaries with `image`) or any iterable. The card's
    `training:` pipeline is applied to them, else `size` (H, W: shorter side to fit, centre crop), else they go in as
    they are and must share one size; normalised tensors go in as they are
    batch: M; None: the card's, else 32. layers: "all", or globs with commas between ("decoder.*")
    precision: fp32, for statistics of bf16 activations are off by about 4e-3
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free. A mini-batch that does not fit goes
    through in parts: the same draws, 1e-4 relative, in more time (`segment.draws.large_batches`)
    every, axis: of videos every N-th frame; of volumes the voxel axis that slices lie along
    mean, std, channels: how the images of a module were prepared in training, where no card says so
    cache: take a bank that was recorded of the very same before, as the command does, and keep this one
    engine: "openvino": half precision is audited for it, too
    Errors: WrongUse, ModelRefused, NoBatchNorm; ImageUnreadable naming every statistics image that does not read;
    OutOfMemory where two images do not fit.
    """
    network = network_of(network, mean=mean, std=std, channels=channels)
    plan = FitPlan(
        batch=batch,
        draws=draws,
        seed=seed,
        layers=layers,
        size=size,
        precision=precision,
        memory=memory,
        engine=engine,
    )
    known = BankCache.of_user() if cache else None
    bank, _ = fit(network, images, None, plan, cache=known, listing=Listing(every=every, axis=axis), progress=progress)
    return bank


def fit(
    network: Network,
    images: Images,
    output: Path | None,
    plan: FitPlan,
    *,
    cache: BankCache | None = None,
    listing: Listing | None = None,
    progress: Progress = silent,
    runner: Runner = LOCAL,
) -> tuple[Bank, Path | None]:
    """A bank as `fit_bank` records it; and the file that held it already, None where it had to be recorded.

    output: where it is written, before half precision is audited and again after it, so that nothing the audit runs
    into costs the draws. Until then the draws so far are kept beside it, and the same call goes on with them. One that
    holds another bank is refused
    cache: where the bank is looked for besides, and kept; None: it is recorded anew
    listing: which frames of videos and slices of volumes are taken. runner: where the draws are recorded
    """
    if plan.engine == "openvino":
        imported("openvino", extra="openvino", what="Passes by OpenVINO")
        check_engine(plan.engine, network.device)
    plan.draw_plan(network)  # refuses what is out of range before the images are read
    kept = min(CACHE_BYTES, memory_budget(plan.memory, torch.device("cpu")).free // 4)
    pool = ImagePool(network, images, plan.size, cache_bytes=kept, listing=listing)
    random = isinstance(pool.given, DatasetImages)
    if random and cache is not None:
        log.info("A Dataset may give other images each time: no earlier bank is looked for.")
        cache = None
    drawn = bn_network_of(network, plan.layers)
    content, settings = pool_sha256(pool), plan.settings(network, pool)
    recipe = recipe_of(network, content, settings)

    def refuse_other() -> None:
        if output is not None:
            refuse_other_bank(
                output,
                lambda there: is_of_recipe(there, recipe) and is_bank_of(network, drawn, there),
                {"fingerprint": network.fingerprint, "images_sha256": content, **settings},
            )

    refuse_other()
    _warn_of_plain_images(network, pool)
    earlier = None if cache is None else cache.find(network, drawn, recipe, output)
    if earlier is not None:
        bank, path = earlier
        if not is_complete(network, bank, plan.engine):
            bank = completed(network, bank, pool, plan.engine)
            _write(bank, output, cache, refuse_other)
        elif path != output:
            _write(bank, output, None, refuse_other)
        warn_if_unlike_training(bank.provenance.get("reference"))
        return bank, path
    partial = None if output is None or random else PartialBank(output, recipe)
    bank = _recorded(network, drawn, pool, plan, partial, progress, runner)
    bank = signed(replace(bank, provenance={**bank.provenance, **settings, "images_sha256": content}), recipe)
    _write(bank, output, cache, refuse_other)
    if partial is not None:
        partial.remove()
    bank = completed(network, bank, pool, plan.engine)
    _write(bank, output, cache, refuse_other)
    return bank, None


def _recorded(
    network: Network,
    drawn: BatchNormNetwork,
    pool: ImagePool,
    plan: FitPlan,
    partial: PartialBank | None,
    progress: Progress,
    runner: Runner,
) -> Bank:
    """The draws, with what identifies the network and what is known of the images."""
    if few := little_batchnorm(drawn):
        log.warning("%s: %s", network.name, few)
    probe_side(network)  # what the probe would be refused for is refused before the draws are recorded
    picks = choices(plan.draw_plan(network), len(pool))
    pool.check({index for pick in picks for index in pick.images})
    bank = recorded(network, drawn, pool, picks, plan.precision, plan.memory, partial, progress, runner)
    warn_of_equal_draws(bank)
    training, reference = network.card.training, against_trained(bank, drawn)
    warn_if_unlike_training(reference)
    provenance: dict[str, Any] = {
        "images": len(pool),
        MARKS: marks_of(pool),
        "pipeline": [dict(transform) for transform in training.transforms] if training else None,
        "versions": versions(),
        "audit": {},
        "reference": reference,
    }
    return identified(network, drawn, replace(bank, provenance=provenance))


def _warn_of_plain_images(network: Network, pool: ImagePool) -> None:
    """Nothing of images that the caller prepared: tensors, and samples of a Dataset, which transforms them."""
    if network.card.training is not None or pool.normalised or isinstance(pool.given, DatasetImages):
        return
    if network.card.folder is not None:
        what = f"The card of {network.name} says nothing of its training"
        way = "add `training: {batch, transforms}` to the card"
    else:
        what = f"Nothing says how the images of {network.name} were transformed in training"
        way = "give a card with `training:`, or from Python a DataLoader or tensors, transformed as in training"
    log.warning(
        "%s, so plain images are used. A bank from mini-batches transformed as in training is usually better: %s.",
        what,
        way,
    )


def _write(bank: Bank, output: Path | None, cache: BankCache | None, refuse_other: Callable[[], None]) -> None:
    """Into the cache first, which gives it another name where another command has written a bank there meanwhile."""
    if cache is not None:
        cache.keep(bank)
    if output is not None:
        refuse_other()
        save_bank(bank, output)
