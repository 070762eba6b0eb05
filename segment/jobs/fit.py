"""A network and training images to a bank: `segment fit`."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.draws.bank import Bank, Statistics
from segment.draws.large_batches import record_in_parts
from segment.draws.minibatches import Choice, DrawPlan, choices
from segment.errors import BankRefused, ImageUnreadable, ModelRefused, PredictionFailed, WrongUse
from segment.estimation.mcbn import preprocessing_of
from segment.estimation.memory_budget import KeptPages, Parts, memory_budget, parts_of
from segment.estimation.precision import audit
from segment.images.augment import Pipeline, pipeline
from segment.images.find import Source, find_images
from segment.images.prepare import prepare
from segment.images.read import read_image
from segment.images.resize import shorter_side_and_centre
from segment.jobs.progress import Progress, silent
from segment.jobs.versions import versions
from segment.networks.load import Network
from segment.tracing.bn_layers import BatchNormNetwork
from segment.tracing.bn_network import drawable
from segment.tracing.pass_memory import bytes_a_pixel

log = logging.getLogger(__name__)

CACHE_BYTES = 512 * 2**20
"""Decoded images kept between draws."""

AUDIT_IMAGES = 2

Images = str | Path | Sequence[NDArray[Any]] | Tensor
"""A SRC; or uint8 arrays (H W 3); or a float tensor (N C H W), already normalised."""


def fit_bank(
    network: Network, images: Images, *, batch: int | None = None, draws: int = 128, seed: int = 0,
    layers: str = "all", size: tuple[int, int] | None = None, precision: Literal["fp32", "bf16"] = "fp32",
    memory: int | str | None = None, progress: Progress = silent,
) -> Bank:  # fmt: skip
    """T joint draws of the network's batch statistics, each from M training images that look as in training.

    images: training images; the card's `training:` pipeline is applied to them, else `size` (H, W: shorter side to
    fit, centre crop), else they go in as they are and must share one size
    batch: M; None: the card's, else 32. layers: "all", or globs with commas between ("decoder.*")
    precision: fp32, for statistics of bf16 activations are off by about 4e-3
    memory: a budget for the process, bytes or "4GiB"; None: 80 % of what is free. A mini-batch that does not fit goes
    through in parts: the same draws, 1e-4 relative, in more time (`segment.draws.large_batches`)
    Errors: WrongUse, ModelRefused, NoBatchNorm; ImageUnreadable naming every statistics image that does not read;
    OutOfMemory where two images do not fit.
    """
    spec = network.card.training
    plan = DrawPlan(draws=draws, batch=batch if batch is not None else spec.batch if spec else 32, seed=seed)
    if size is not None and spec is not None and spec.transforms:
        raise WrongUse(f"The card of {network.name!r} has a training pipeline, which sets the size; leave --size out.")
    drawn = drawable(network, layers)
    look = pipeline(spec.transforms) if spec is not None and spec.transforms else None
    if spec is None:
        log.warning(
            "The card of %s says nothing of its training, so plain images are used. A bank from batches that look as "
            "in training is usually better: add `training: {batch, transforms}` to the card.", network.name,
        )  # fmt: skip
    cache = min(CACHE_BYTES, memory_budget(memory, torch.device("cpu")).free // 4)
    pool = Pool(network, images, look, size, cache_bytes=cache)
    picks = choices(plan, len(pool))
    pool.check({index for pick in picks for index in pick.images})
    parts = _parts(drawn, pool.examples(1)[0], plan.batch, memory)
    start = time.perf_counter()
    with _finite(network):
        recorded = record_in_parts(
            drawn, pool.batches(picks), at_once=parts.at_once, keep_bytes=parts.keep_bytes,
            whole_fits=parts.whole_fits, precision=precision,
        )  # fmt: skip
        bank = Bank.of_draws(_told(recorded, plan.draws, progress))
    log.info("%d draws of M = %d in %.1f s", plan.draws, plan.batch, time.perf_counter() - start)
    with _finite(network):
        audited = audit(drawn, bank, pool.examples(AUDIT_IMAGES), network.card.head)
    provenance = {
        "network": network.name, "fingerprint": network.fingerprint, "preprocessing": preprocessing_of(network),
        "layers": layers, "batch": plan.batch, "draws": plan.draws, "seed": plan.seed, "images": len(pool),
        "images_sha256": pool.sha256, "size": pool.size,
        "pipeline": [dict(transform) for transform in spec.transforms] if spec else None,
        "precision": precision, "versions": versions(), "audit": {drawn.device.type: audited},
    }  # fmt: skip
    return replace(bank, provenance=provenance)


def _parts(drawn: BatchNormNetwork, image: Tensor, batch: int, memory: int | str | None) -> Parts:
    """How many images such as `image` (1 C H W) go through at once."""
    taken = round(bytes_a_pixel(drawn.forward, drawn.module, image) * image.shape[-2] * image.shape[-1])
    return parts_of(
        batch, image.nbytes, taken, memory_budget(memory, drawn.device), one_by_one=drawn.device.type == "cpu"
    )


@contextmanager
def _finite(network: Network) -> Iterator[None]:
    """What is not finite in a bank or under its draws is the network's fault, not one image's."""
    try:
        yield
    except (BankRefused, PredictionFailed) as problem:
        raise ModelRefused(f"No bank can be recorded of {network.name!r}: {problem}") from problem


def _told(draws: Iterator[Statistics], total: int, progress: Progress) -> list[Statistics]:
    found: list[Statistics] = []
    pages = KeptPages()
    progress("recording draws", 0, total)
    for draw in draws:
        found.append(draw)
        pages.settle()
        progress("recording draws", len(found), total, len(found))
    return found


class Pool:
    """Statistics images, decoded once where they fit, each seen through the training pipeline with its own seed."""

    def __init__(
        self, network: Network, images: Images, look: Pipeline | None, size: tuple[int, int] | None,
        *, cache_bytes: int = CACHE_BYTES,
    ) -> None:  # fmt: skip
        self.network = network
        self.cache_bytes = cache_bytes
        self.look = look
        self.size = list(size) if size else None
        self.sources: tuple[Source, ...] = find_images(images) if isinstance(images, str | Path) else ()
        self.given = () if isinstance(images, str | Path) else images
        if isinstance(images, Tensor) and look is not None:
            log.warning("Normalised tensors cannot go through the card's training pipeline: they are used as they are.")
        self._kept: dict[int, NDArray[Any]] = {}
        self._bytes = 0
        self._shape: tuple[torch.Size, int] | None = None

    def __len__(self) -> int:
        return len(self.sources) or len(self.given)

    @property
    def sha256(self) -> str:
        """Of the list of images: their ids, or the bytes of arrays."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(source.id.encode() + b"\n")
        for image in self.given:
            digest.update(np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()

    def check(self, wanted: set[int]) -> None:
        """Decode every image that will be used, so that all that fail are named before the first draw."""
        problems = []
        with ThreadPoolExecutor(2) as threads:
            for problem in threads.map(self._problem, sorted(wanted) if self.sources else ()):
                if problem:
                    problems.append(problem)
        if problems:
            more = f" And {len(problems) - 3} more." if len(problems) > 3 else ""
            raise ImageUnreadable(
                f"{len(problems)} of {len(wanted)} statistics images cannot be used. {' '.join(problems[:3])}{more} "
                "Repair them or take them out of the list; no bank was written."
            )

    def _problem(self, index: int) -> str:
        try:
            self._decoded(index)
        except ImageUnreadable as problem:
            return str(problem)
        return ""

    def _decoded(self, index: int) -> NDArray[Any]:
        if not self.sources:
            return np.asarray(self.given[index])
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        image = read_image(self.sources[index].path, white=self.network.card.input.white)
        if self._bytes + image.nbytes <= self.cache_bytes:
            self._bytes += image.nbytes
            self._kept[index] = image
        return image

    def seen(self, index: int, seed: int) -> Tensor:  # C H W
        if isinstance(self.given, Tensor):
            return self.given[index]
        image = self._decoded(index)
        if self.look is not None:
            image = self.look(image, seed)
        elif self.size is not None:
            image = shorter_side_and_centre(image, (self.size[0], self.size[1]))
        return prepare(image, self.network.card.input)

    def _batch(self, pick: Choice) -> Tensor:  # M C H W
        seen = [self.seen(index, seed) for index, seed in zip(pick.images, pick.seeds, strict=True)]
        for index, image in zip(pick.images, seen, strict=True):
            first = self._shape or (image.shape, index)
            self._shape = first
            if image.shape != first[0]:
                raise WrongUse(
                    f"Statistics images must share one size: {self._name(first[1])} is {_size(first[0])}, "
                    f"{self._name(index)} is {_size(image.shape)} (after padding). Give --size HxW, or a card with a "
                    "training pipeline that crops."
                )
        return torch.stack(seen)

    def _name(self, index: int) -> str:
        return self.sources[index].id if self.sources else f"image {index}"

    def batches(self, picks: Sequence[Choice]) -> Iterator[Tensor]:
        """Mini-batches in order, the next one made while the network is busy with this one."""
        with ThreadPoolExecutor(1) as thread:
            coming = thread.submit(self._batch, picks[0])
            for following in (*picks[1:], None):
                batch = coming.result()
                if following is not None:
                    coming = thread.submit(self._batch, following)
                yield batch

    def examples(self, count: int) -> list[Tensor]:
        """A few images as the statistics batches saw them, each (1 C H W)."""
        return [self.seen(index, index)[None] for index in range(min(count, len(self)))]


def _size(shape: torch.Size) -> str:
    return f"{shape[-2]}x{shape[-1]}"
