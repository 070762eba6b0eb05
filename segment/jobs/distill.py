"""A bank and training images to K weighted draws that stand for it: `segment distill`."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from segment.axes import Head
from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of
from segment.distilling.choose import Moments
from segment.distilling.distill import PIXELS, DistillPlan, Observed, check_bank, distill, observe_views
from segment.distilling.refine import RefinePlan
from segment.draws.bank import Bank, bank_fingerprint
from segment.draws.identity import identified, is_bank_of, network_of_bank
from segment.draws.image_pool import ImagePool, Images
from segment.draws.probe_passes import probe_of
from segment.errors import FastPathDiffers, WrongUse
from segment.estimation.precision import audit, audit_key
from segment.files.banks.bank_file import bank_of, save_bank
from segment.files.banks.cache import RECIPE, pool_sha256, recipe_of
from segment.files.banks.output import bank_there, refuse_other_bank
from segment.files.banks.unfinished import PartialTensors
from segment.files.reading import as_json_values
from segment.files.versions import versions
from segment.images.listing.parts import Listing
from segment.images.listing.samples import DatasetImages
from segment.images.specs import Channels
from segment.jobs.progress import Progress, silent
from segment.jobs.recording.plan import FitPlan
from segment.networks.given import network_of
from segment.networks.load import Network
from segment.passes.passes import FAST, Engine, Passes

log = logging.getLogger(__name__)

SIDE = 192
"""Rows and columns of a view, cut at random from a larger image: many images teach more than many pixels of one."""

PART = 16
"""Views that are passed, and kept, together."""
VIEWS, HELD_OUT_VIEWS = 128, 16
"""Views to choose and refine by, and to decide the step by, where a caller names none."""

HELD_OUT = "held_out_views"
"""Name of the parts that decide the step."""

AUDIT_VIEWS = 2
REDONE = "Fast passes gave other numbers than plain ones (%s): the views are passed again, plainly."


def distill_bank(
    network: Network | nn.Module | str | Path,
    bank: Bank | str | Path,
    images: Images,
    *,
    draws: int = 8,
    seed: int = 0,
    views: int = VIEWS,
    held_out: int = HELD_OUT_VIEWS,
    steps: int = RefinePlan.steps,
    size: tuple[int, int] | None = None,
    listing: Listing | None = None,
    output: str | Path | None = None,
    progress: Progress = silent,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channels: Channels | Sequence[str] | None = None,
) -> Bank:
    """K weighted draws whose passes have the moments of all of the bank's; a map then takes K passes.

    network: what `load_network` gave, a URI, a card, or any torch module with BN. bank: its bank, or the file of it
    images: training images, seen through the card's `training:` pipeline where it has one
    views: to choose and refine by; held_out: views of other images (an eighth of them), which decide when to stop
    steps: of refinement at most; 0: the draws are chosen, none is moved
    size, listing: as the bank was recorded with; size None: the bank's own
    output: where it is written too; one that holds another bank is refused. Until then what was reached is kept beside
    it, and the same call goes on
    mean, std, channels: as `MCBN` takes them
    The provenance says, under "distillation", how near they come on the held-out views (relative L1 of the variance).
    Errors: BankRefused where the bank is not this network's; WrongUse, also where its draws have no spread;
    ImageUnreadable; PredictionFailed, which names the image, where an output under the bank is not finite.
    """
    plan = DistillPlan(draws=draws, seed=seed, refine=RefinePlan(steps=steps))
    for name, value in (("views", views), ("held_out", held_out)):
        if value < 1:
            raise WrongUse(f"{name} = {value}, but it is a count from 1 up.")
    network = network_of(network, mean=mean, std=std, channels=channels)
    bank = bank_of(bank)
    output = None if output is None else Path(output)
    drawn = network_of_bank(network, bank)
    check_bank(bank, draws)
    recorded = bank.provenance.get("size")
    if size is not None and recorded and list(size) != list(recorded):
        raise WrongUse(f"The bank was recorded at {tuple(recorded)}, not at {size}: views are of its own size.")
    size = (int(recorded[0]), int(recorded[1])) if recorded else size
    pool = ImagePool(network, images, size, listing=listing)
    start = time.perf_counter()
    own_views, other_views = cut_views(pool, views, held_out, seed)
    indices = _images_of_views(pool, views, held_out, seed)[:2]
    names = [[repr(pool.name(index)) if pool.sources else pool.name(index) for index in part] for part in indices]
    content = pool_sha256(pool)
    numbers = _numbers(pool, plan, views, held_out)
    probe = bank.probe or probe_of(network, drawn, next(iter(bank)))
    recipe = recipe_of(network, content, {"bank": bank_fingerprint(bank), "probe": probe.digest, **numbers})
    asked = {"distilled": True, "draws": draws, "bank": bank_fingerprint(bank), "images_sha256": content, **numbers}

    def refuse_other() -> None:
        if output is not None:
            refuse_other_bank(output, lambda there: _is_distilled_so(there, network, drawn, asked), asked)

    refuse_other()
    kept = PartialTensors(None if isinstance(pool.given, DatasetImages) else output, recipe)
    head = network.card.head
    observed, others = observe_in_parts(drawn, bank, (own_views, other_views), head, kept, seed, progress, names)
    begun = kept.load()
    if kept.found:
        log.warning("Going on from what an earlier call left beside %r.", str(output))
    distilled = distill(drawn, bank, observed, others.targets, head, plan, progress, begun, kept.keep)
    seconds = time.perf_counter() - start
    log.info("%d draws of %d distilled in %.1f s", draws, len(bank), seconds)
    by_openvino = "openvino" in bank.provenance.get("audit", {}) and drawn.device.type == "cpu"
    engines: tuple[Engine, ...] = ("torch", "openvino") if by_openvino else ("torch",)
    audits = {
        audit_key(drawn.device, engine): audit(drawn, distilled.bank, other_views[:AUDIT_VIEWS], head, engine=engine)
        for engine in engines
    }
    provenance = {
        **{key: value for key, value in bank.provenance.items() if key != RECIPE},
        "draws": draws,
        "distilled": True,
        "distillation": {
            "bank": bank_fingerprint(bank),
            "bank_draws": len(bank),
            "chosen": list(distilled.chosen.draws),
            "images_sha256": content,
            "images": len(pool),
            **numbers,
            "step": distilled.step,
            "error_chosen": round(distilled.chosen_error, 4),
            "error": round(distilled.error, 4),
            "seconds": round(seconds, 1),
        },
        "versions": versions(),
        "audit": audits,
    }
    made = identified(network, drawn, replace(distilled.bank, provenance=provenance))
    if output is not None:
        refuse_other()  # another command may have written one since
        save_bank(made, output)
    kept.remove()
    return made


def check_output(
    output: Path, network: Network, images: Images, fitted: FitPlan, draws: int, listing: Listing | None = None
) -> None:
    """Refuse an output that `distill_bank` would refuse, before the bank is recorded that is distilled into it.

    fitted: how that is going to be recorded, of the same images. Errors: WrongUse.
    """
    if bank_there(output) is None:
        return
    pool = ImagePool(network, images, fitted.size, listing=listing)
    drawn = bn_network_of(network, fitted.layers)
    asked = {
        **fitted.settings(network, pool),
        "fingerprint": network.fingerprint,
        "images_sha256": pool_sha256(pool),
        "distilled": True,
        "draws": draws,
        "bank_draws": fitted.draws,
        **_numbers(pool, DistillPlan(draws=draws), VIEWS, HELD_OUT_VIEWS),
    }
    refuse_other_bank(output, lambda there: _is_distilled_so(there, network, drawn, asked), asked)


def _numbers(pool: ImagePool, plan: DistillPlan, views: int, held_out: int) -> dict[str, Any]:
    return {"views": views, "held_out": held_out, "size": pool.size, "plan": asdict(plan)}


def _is_distilled_so(there: Bank, network: Network, drawn: BatchNormNetwork, asked: Mapping[str, Any]) -> bool:
    known = {**there.provenance, **there.provenance.get("distillation", {})}
    alike = all(known.get(key) == value for key, value in as_json_values({**asked, "versions": versions()}).items())
    return alike and is_bank_of(network, drawn, there)


def observe_in_parts(
    drawn: BatchNormNetwork,
    bank: Bank,
    views: tuple[Sequence[Tensor], Sequence[Tensor]],
    head: Head,
    kept: PartialTensors,
    seed: int = 0,
    progress: Progress = silent,
    names: Sequence[Sequence[str]] = ((), ()),
) -> tuple[Observed, Observed]:
    """The bank's passes over views and over held-out ones, as `observe_views`, some views after the others.

    kept: parts that an earlier call kept are not passed again; names: of the images of both kinds of views
    Errors: PredictionFailed, as `observe_views`.
    """
    passes = Passes(drawn, bank, FAST)
    own, held_out = views
    while True:  # until no fast pass differs, which can happen once
        try:
            return (
                _observed(passes, own, head, kept, "views", PIXELS, seed, progress, names[0]),
                _observed(passes, held_out, head, kept, HELD_OUT, 0, seed, progress, names[1]),
            )
        except FastPathDiffers as error:
            log.warning(REDONE, error)
            kept.remove()


def _observed(
    passes: Passes,
    views: Sequence[Tensor],
    head: Head,
    kept: PartialTensors,
    name: str,
    pixels: int,
    seed: int,
    progress: Progress,
    images: Sequence[str],
) -> Observed:
    """One kind of views; name: of its parts; images: names of the views' images."""
    total, stage = Observed([], Moments(len(passes.bank))), f"passing the bank over {name.replace('_', '-')}"
    for start in range(0, len(views), PART):
        part, file = views[start : start + PART], f"{name}{start}"
        tensors = kept.load(file)
        if tensors is None:
            show = partial(_show, progress, stage, start, len(views))
            of = images[start : start + PART]
            seen = observe_views(passes, part, head, pixels=pixels, seed=seed + start, names=of, progress=show)
            kept.keep(seen.tensors(), file)
        else:
            seen = Observed.of(part, tensors, passes.network.device)
        total += seen
    return total


def _show(progress: Progress, stage: str, before: int, total: int, done: int) -> None:
    progress(stage, before + done, total)


def cut_views(pool: ImagePool, views: int, held_out: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Views of a pool's images, and held-out ones of others of its images; each (1 C h w).

    Errors: WrongUse for fewer than two images; ImageUnreadable.
    """
    own, others, rng = _images_of_views(pool, views, held_out, seed)
    pool.check({*own, *others})
    return _views(pool, own, rng), _views(pool, others, rng)


def _images_of_views(
    pool: ImagePool, views: int, held_out: int, seed: int
) -> tuple[list[int], list[int], np.random.Generator]:
    """The indices of the images of views, of held-out views, and the generator that cuts them."""
    rng = np.random.default_rng([seed, len(pool)])
    order = [int(index) for index in rng.permutation(len(pool))]
    apart = _held_out(pool, order)
    own, others = ([index for index in order if (index in apart) == other] for other in (False, True))
    return _in_turn(own, views), _in_turn(others, held_out), rng


def _held_out(pool: ImagePool, order: Sequence[int]) -> set[int]:
    """An eighth of the images, of files of their own: those of one video or volume, or file named twice, are alike.

    Of one video or volume alone, others of its frames. Errors: WrongUse for fewer than two images.
    """
    groups: dict[Any, list[int]] = {}
    for index in order:
        groups.setdefault(pool.sources[index].path if pool.sources else index, []).append(index)
    if len(groups) == 1 and pool.sources:
        groups = {}
        for index in order:
            groups.setdefault(pool.sources[index].part, []).append(index)
    if len(groups) < 2:
        raise WrongUse(f"Distilling learns from some images and is held against others; {len(groups)} is too few.")
    apart: set[int] = set()
    for group in groups.values():
        if len(apart) + len(group) <= max(1, len(order) // 8):
            apart.update(group)
    return apart or {*min(groups.values(), key=len)}


def _in_turn(indices: Sequence[int], count: int) -> list[int]:
    """One image after the other, from the first again where there are fewer images than views."""
    return [indices[number % len(indices)] for number in range(count)]


def _views(pool: ImagePool, indices: Sequence[int], rng: np.random.Generator) -> list[Tensor]:  # each 1 C H W
    spec = pool.network.card.input
    images = (pool.prepared(index, int(rng.integers(2**31))) for index in indices)
    # a part of an image that the card gives a size would be magnified to that size
    return [_cut(image, spec.stride, rng) if spec.size is None else image[None] for image in images]


def _cut(image: Tensor, stride: int, rng: np.random.Generator) -> Tensor:  # C H W -> 1 C h w
    side = max(SIDE // stride, 1) * stride
    row, column = (int(rng.integers(max(length - side, 0) + 1)) for length in image.shape[-2:])
    return image[None, :, row : row + side, column : column + side].contiguous()
