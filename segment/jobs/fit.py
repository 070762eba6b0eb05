"""A network and training images to a bank: `segment fit`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from segment.draws.bank import Bank
from segment.draws.identity import computes_the_same, identified
from segment.draws.image_pool import CACHE_BYTES, ImagePool, Images
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.probe_passes import probe_side
from segment.draws.reference import against_trained, warn_if_unlike_training
from segment.errors import SegmentError, WrongUse, error_message, imported
from segment.estimation.colour_scales import IMAGES, colour_scales
from segment.estimation.memory_budget import memory_budget
from segment.estimation.precision import audit, audit_key
from segment.files.bank_cache import MARKS, BankCache, content_of, is_of_recipe, marks_of, recipe_of, signed
from segment.files.bank_output import refuse_other_bank
from segment.files.banks import save_bank
from segment.files.partial_banks import PartialBank
from segment.files.versions import versions
from segment.images.listing.parts import Listing
from segment.images.listing.samples import Samples
from segment.images.specs import Channels
from segment.jobs.progress import Progress, silent
from segment.jobs.recording.bank import recorded
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.passes.passes import Engine
from segment.runners.runner import LOCAL, Runner
from segment.tracing.bn_network import bn_network_of, little_batchnorm

log = logging.getLogger(__name__)

AUDIT_IMAGES = 2

SCALES = "colour_scales"
"""Key of a bank's provenance: the last colours of heat maps, so that all runs with it have the same."""


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
    bank, _ = fit(
        network_of(network, mean=mean, std=std, channels=channels),
        images,
        None,
        batch=batch,
        draws=draws,
        seed=seed,
        layers=layers,
        size=size,
        precision=precision,
        memory=memory,
        cache=BankCache.of_user() if cache else None,
        listing=Listing(every=every, axis=axis),
        engine=engine,
        progress=progress,
    )
    return bank


def fit(
    network: Network,
    images: Images,
    output: Path | None,
    *,
    batch: int | None,
    draws: int,
    seed: int = 0,
    layers: str = "all",
    size: tuple[int, int] | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    memory: int | str | None = None,
    cache: BankCache | None = None,
    listing: Listing | None = None,
    engine: Engine = "torch",
    progress: Progress = silent,
    runner: Runner = LOCAL,
) -> tuple[Bank, Path | None]:
    """As `fit_bank`; and the file in which the bank was there already, None where it had to be recorded.

    output: where it is written, before half precision is audited and again after it, so that nothing the audit runs
    into costs the draws. Until then the draws so far are kept beside it, and the same call goes on with them. One that
    holds another bank is refused
    cache: where the bank is looked for besides, and kept; None: it is recorded anew
    listing: which frames of videos and slices of volumes are taken. runner: where the draws are recorded
    """
    if engine == "openvino":
        imported("openvino", extra="openvino", what="Passes by OpenVINO")
    spec = network.card.training
    plan = DrawPlan(draws=draws, batch=batch if batch is not None else spec.batch if spec else 32, seed=seed)
    if size is not None and spec is not None and spec.transforms:
        raise WrongUse(f"The card of {network.name!r} has a training pipeline, which sets the size; leave --size out.")
    kept = min(CACHE_BYTES, memory_budget(memory, torch.device("cpu")).free // 4)
    pool = ImagePool(network, images, size, cache_bytes=kept, listing=listing)
    if isinstance(pool.given, Samples) and cache is not None:
        log.info("A Dataset may give other images each time: no earlier bank is looked for.")
        cache = None
    content = content_of(pool)
    asked = {
        "batch": plan.batch,
        "draws": plan.draws,
        "seed": plan.seed,
        "layers": layers,
        "size": pool.size,
        "precision": precision,
    }
    recipe = recipe_of(network, content, asked)
    if output is not None:
        refuse_other_bank(
            output,
            lambda there: (
                is_of_recipe(there, recipe) and there.probe is not None and computes_the_same(network, there.probe)
            ),
            {"fingerprint": network.fingerprint, "images_sha256": content, **asked},
        )
    _warn_of_plain_images(network, pool)
    earlier = None if cache is None else cache.find(network, recipe, output)
    if earlier is not None:
        bank, path = earlier
        if _audits_missing(network, bank, engine) or SCALES not in bank.provenance:
            bank = _completed(network, bank, pool, engine)
            _write(bank, output, cache)
        elif output is not None and path != output:
            save_bank(bank, output)
        warn_if_unlike_training(bank.provenance.get("reference"))
        return bank, path
    drawn = bn_network_of(network, layers)
    if few := little_batchnorm(drawn):
        log.warning("%s: %s", network.name, few)
    probe_side(network)  # what the probe would be refused for is refused before the draws are recorded
    picks = choices(plan, len(pool))
    pool.check({index for pick in picks for index in pick.images})
    partial = None if output is None or isinstance(pool.given, Samples) else PartialBank(output, recipe)
    bank = recorded(network, drawn, pool, picks, precision, memory, partial, progress, runner)
    provenance: dict[str, Any] = {
        "layers": layers,
        "batch": plan.batch,
        "draws": plan.draws,
        "seed": plan.seed,
        "images": len(pool),
        "images_sha256": content,
        MARKS: marks_of(pool),
        "size": pool.size,
        "pipeline": [dict(transform) for transform in spec.transforms] if spec else None,
        "precision": precision,
        "versions": versions(),
        "audit": {},
        "reference": against_trained(bank, drawn),
    }
    warn_if_unlike_training(provenance["reference"])
    bank = signed(identified(network, drawn, replace(bank, provenance=provenance)), recipe)
    _write(bank, output, cache)
    if partial is not None:
        partial.remove()
    bank = _completed(network, bank, pool, engine)
    _write(bank, output, cache)
    return bank, None


def _warn_of_plain_images(network: Network, pool: ImagePool) -> None:
    """Nothing of images that the caller prepared: tensors, and samples of a Dataset, which transforms them."""
    if network.card.training is not None or pool.normalised or isinstance(pool.given, Samples):
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


def _audits_missing(network: Network, bank: Bank, engine: Engine) -> list[Engine]:
    """The engines that half precision was not audited for: the fit that recorded it was ended before, or another."""
    known = bank.provenance.get("audit", {})
    engines: tuple[Engine, ...] = ("torch",) if engine == "torch" else ("torch", engine)
    return [each for each in engines if audit_key(network.device, each) not in known]


def _completed(network: Network, bank: Bank, pool: ImagePool, engine: Engine) -> Bank:
    """The bank with its audits and colour scales, where it has none."""
    for missing in _audits_missing(network, bank, engine):
        bank = _audited(network, bank, pool, missing)
    return bank if SCALES in bank.provenance else _with_scales(network, bank, pool)


def _audited(network: Network, bank: Bank, pool: ImagePool, engine: Engine) -> Bank:
    drawn = bn_network_of(network).select(bank.layers)
    audited = audit(drawn, bank, pool.examples(AUDIT_IMAGES), network.card.head, engine=engine)
    kept = {**bank.provenance.get("audit", {}), audit_key(network.device, engine): audited}
    return replace(bank, provenance={**bank.provenance, "audit": kept})


def _with_scales(network: Network, bank: Bank, pool: ImagePool) -> Bank:
    """The bank with the colour scales of its spread measures, from some statistics images, evenly chosen."""
    drawn = bn_network_of(network).select(bank.layers)
    try:
        images = [pool.prepared(index, index)[None] for index in range(0, len(pool), -(-len(pool) // IMAGES))]
        scales = colour_scales(drawn, bank, images, network.card.head)
    except SegmentError as error:  # a statistics image that no mini-batch holds need not be readable
        log.info("No colour scales: %s", error_message(error))
        scales = {}
    return replace(bank, provenance={**bank.provenance, SCALES: scales})


def _write(bank: Bank, output: Path | None, cache: BankCache | None) -> None:
    if output is not None:
        save_bank(bank, output)
    if cache is not None:
        cache.keep(bank)
