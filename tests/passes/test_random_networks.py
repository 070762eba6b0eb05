"""Networks made at random give a plain loop's numbers by every fast way, or are refused by a sentence."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain import calibrated, noise, plain_loop, random_bank, seeded
from random_networks import RandomNetwork
from torch import Tensor

from segment.batch_norm.layers import survey
from segment.draws.bank import Bank
from segment.draws.large_batches import record_in_parts
from segment.draws.recording import record
from segment.errors import SegmentError
from segment.passes.passes import Passes, PassPlan

NETWORKS = int(os.environ.get("SEGMENT_RANDOM_NETWORKS", "300"))
"""More of them in a longer search; new ones in each run, the failing seed is printed."""

IMAGES = [(1.0, 0.0, (24, 24)), (0.3, 1.5, (24, 24)), (2.0, -1.0, (18, 30)), (1.0, -3.0, (30, 24))]
"""Contrast, brightness and size of the images of one network."""

PLANS = (PassPlan(channels_last=True, fuse=True), PassPlan(), PassPlan(fold=2, channels_last=True))


def images(count: int = 1) -> list[Tensor]:
    return [
        contrast * noise(count, 3, *size, seed=number) + brightness
        for number, (contrast, brightness, size) in enumerate(IMAGES)
    ]


@contextmanager
def no_fast_path_given_up() -> Iterator[None]:
    """What the traces say was right: no comparison with plain passes had to find that a fast path was wrong."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler, logger = Kept(logging.WARNING), logging.getLogger("segment")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert not [message for message in messages if "other numbers than a plain pass" in message]


def rounding_decides(module: RandomNetwork, bank: Bank) -> bool:
    """Whether the plain loop in another layout is not near itself: a comparison or a sort that rounding turns."""
    for image in images():
        plain = plain_loop(module, bank, image)
        exact = plain_loop(module, bank, image, dtype=torch.float64)
        try:
            innermost = plain_loop(module, bank, image.contiguous(memory_format=torch.channels_last))
        except RuntimeError:  # it takes contiguous images only
            return False
        if not torch.isclose(innermost, plain, rtol=1e-4, atol=tolerance(plain, exact), equal_nan=True).all():
            return True
    return False


def tolerance(plain: Tensor, exact: Tensor) -> float:
    """1e-4, and 4 times what float32 costs this network against float64."""
    return 1e-4 + 4 * float((plain.double() - exact).abs().max())


def assert_near(output: Tensor, plain: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(output, plain, rtol=1e-4, atol=tolerance(plain, exact))


@settings(max_examples=NETWORKS, derandomize=False, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_every_fast_path_gives_the_plain_loops_numbers(seed: int) -> None:
    module = calibrated(seeded(lambda: RandomNetwork(seed), seed), (24, 24))
    try:
        network = survey(module, module, noise(1, 3, 32, 32, seed=7))
        bank = random_bank(network, seed=seed % 97)
        engines = [Passes(network, bank, plan) for plan in PLANS]
        jumps = rounding_decides(module, bank)
        with nullcontext() if jumps else no_fast_path_given_up():
            outputs = [[torch.stack(list(engine(image))) for image in images()] for engine in engines]
    except SegmentError:  # how many may be is another test's
        return
    for number, image in enumerate(images() if not jumps else ()):
        plain = plain_loop(module, bank, image)
        exact = plain_loop(module, bank, image, dtype=torch.float64)
        for output in outputs:
            assert_near(output[number], plain, exact)


@settings(max_examples=NETWORKS // 3, derandomize=False, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_a_mini_batch_recorded_image_by_image_is_the_draw_of_one_pass(seed: int) -> None:
    module = calibrated(seeded(lambda: RandomNetwork(seed), seed), (24, 24))
    batches = images(count=3)[:3]
    try:
        network = survey(module, module, noise(1, 3, 32, 32, seed=7))
        whole = list(record(network, batches))
        parts = list(record_in_parts(network, batches, at_once=1, keep_bytes=float("inf"), whole_fits=True))
    except SegmentError:  # how many may be is another test's
        return
    for one_pass, by_image in zip(whole, parts, strict=True):
        for name, (mean, var) in one_pass.items():
            scale = float(mean.abs().max() + var.max().sqrt()) + 1e-3
            torch.testing.assert_close(by_image[name][0], mean, rtol=1e-3, atol=1e-4 * scale)
            torch.testing.assert_close(by_image[name][1], var, rtol=1e-3, atol=1e-4 * scale**2)


def test_few_of_the_random_networks_are_refused() -> None:
    refused = 0
    for seed in range(40):
        module = calibrated(seeded(partial(RandomNetwork, seed), seed), (24, 24))
        try:
            network = survey(module, module, noise(1, 3, 32, 32, seed=7))
            list(Passes(network, random_bank(network), PLANS[0])(images()[0]))
        except SegmentError:
            refused += 1
    assert refused <= 4
