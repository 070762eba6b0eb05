"""The draws of a bank, recorded one after the other and kept while they are: the long part of `segment fit`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Literal

import torch
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank, Statistics
from segment.draws.image_pool import ImagePool
from segment.draws.minibatches import MiniBatch
from segment.errors import BankRefused, ModelRefused, PredictionFailed, StoreRefuses, WrongUse
from segment.estimation.estimate import moments_of
from segment.estimation.memory_budget import Memory, Parts, memory_budget, parts_of
from segment.files.banks.unfinished import PartialBank
from segment.jobs.progress import Progress
from segment.jobs.recording.worker import RecordedDraws, Recorder
from segment.methods.mcbn import mcbn
from segment.networks.load import Network
from segment.passes.passes import PassPlan
from segment.runners.process import memory_for
from segment.runners.runner import Runner
from segment.tracing.pass_memory import bytes_a_pixel

log = logging.getLogger(__name__)


def recorded(
    network: Network,
    drawn: BatchNormNetwork,
    pool: ImagePool,
    picks: Sequence[MiniBatch],
    precision: Literal["fp32", "bf16"],
    memory: int | str | None,
    partial: PartialBank | None,
    progress: Progress,
    runner: Runner,
) -> Bank:
    """One draw for each of `picks`, recorded where the runner has it done.

    partial: where the draws so far are kept until the caller has the whole bank; those that an earlier call left there
    are not recorded again. None: nothing is kept
    Errors: ModelRefused where a mini-batch does not fit in memory, or what is recorded is not finite.
    """
    example = pool.examples(1)[0]
    draws, parts = _begun(network, drawn, partial)
    parts = parts or _parts(drawn, example, len(picks[0].images), memory_for(runner, memory, drawn.device))
    start, before = time.perf_counter(), len(draws)
    with _finite(network):
        keep = None if partial is None else partial.keeper(network, drawn, asdict(parts))
        recorder = Recorder(
            drawn,
            pool,
            parts,
            precision,
            progress=progress,
            total=len(picks),
            threads=runner.threads(torch.get_num_threads()),
            keep=keep,
            draws=RecordedDraws(dict(enumerate(draws))),
        )
        progress("recording draws", before, len(picks))
        try:
            runner(recorder, list(enumerate(picks))[before:])
        except BaseException as error:
            again = not isinstance(error, WrongUse) or isinstance(error, StoreRefuses)  # else it would end so again
            if again and keep is not None and before < len(first := recorder.first_draws) < len(picks) and keep(first):
                log.warning("%d of %d draws are kept: the same command goes on with them.", len(first), len(picks))
            raise
        draws = recorder.first_draws
        bank = Bank.of_draws(draws)
        # one plain pass: a network whose output is not finite has no use for a bank
        moments_of(mcbn(drawn, bank.first(1), PassPlan(share=False)), example, head=network.card.head, keep=())
    seconds = time.perf_counter() - start
    log.info("%d draws of M = %d in %.1f s", len(picks) - before, len(picks[0].images), seconds)
    return bank


def _begun(
    network: Network, drawn: BatchNormNetwork, partial: PartialBank | None
) -> tuple[list[Statistics], Parts | None]:
    """The draws that an earlier call left, and the way their mini-batches went."""
    left = None if partial is None else partial.load(network, drawn)
    if left is None or partial is None:
        return [], None
    try:
        parts = Parts(**left[1])
    except TypeError as error:
        log.info("%s is not used: %s", partial.path, error)
        return [], None
    log.warning("Going on from %d draws that an earlier call left in %r.", len(left[0]), str(partial.path))
    return left[0], parts


def _parts(drawn: BatchNormNetwork, image: Tensor, batch: int, memory: Memory) -> Parts:
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
    except (BankRefused, PredictionFailed) as error:
        raise ModelRefused(f"No bank can be recorded of {network.name!r}: {error}") from error
