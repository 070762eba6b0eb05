"""Which number format this network bears: half precision only where its rounding is small beside the signal.

Must not know a file: the images are those that the bank was recorded from.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segment.axes import Head
from segment.draws.bank import Bank
from segment.draws.recording import Precision
from segment.errors import PredictionFailed
from segment.estimation.estimate import from_the_first_draw, moments_of
from segment.methods.mcbn import mcbn
from segment.passes.passes import PassPlan
from segment.tracing.bn_layers import BatchNormNetwork

LIMIT = 0.05
"""Largest relative L1 error of the variance map that half precision may add."""

AUDIT_DRAWS = 8


def audit(
    network: BatchNormNetwork, bank: Bank, images: Sequence[Tensor], head: Head, *, draws: int = AUDIT_DRAWS
) -> dict[str, dict[str, float]]:
    """For each half precision of this device: what it does to the variance map, and how much faster it is.

    images: a few, each (1 C H W), prepared; the same first draws are used in every precision
    {"bf16": {"variance_error": relative L1 against fp32, "speed": seconds in fp32 over seconds in it}}; the seconds are
    those of the quickest draw, which other work on the machine has held up least
    """
    bank = bank if bank.distilled else bank.first(min(draws, len(bank)))
    candidates: tuple[Precision, ...] = ("bf16",) if network.device.type == "cpu" else ("bf16", "fp16")
    if not images or len(bank) < 2:
        return {}
    exact, plain_seconds = _spread(network, bank, images, head, "fp32")
    found: dict[str, dict[str, float]] = {}
    for precision in candidates:
        try:
            rounded, seconds = _spread(network, bank, images, head, precision)
        except PredictionFailed:  # fp16 may overflow where fp32 does not
            found[precision] = {"variance_error": 1.0, "speed": 0.0}
            continue
        error = sum(float((a - b).abs().sum()) for a, b in zip(exact, rounded, strict=True))
        signal = sum(float(a.sum()) for a in exact)
        found[precision] = {
            "variance_error": round(error / signal, 5) if signal > 0 else 1.0,
            "speed": round(plain_seconds / seconds, 3),
        }
    return found


def _spread(
    network: BatchNormNetwork, bank: Bank, images: Sequence[Tensor], head: Head, precision: Precision
) -> tuple[list[Tensor], float]:
    method = mcbn(network, bank, PassPlan(precision=precision, channels_last=True, fuse=True))
    # the first call checks the plan: not timed
    from_the_first_draw((method,), lambda: moments_of(method, images[0], head=head, keep=("square",)))
    ends: list[float] = []

    def tick(*_: object) -> bool:
        _wait(network.device)
        ends.append(time.perf_counter())
        return False

    spreads, quickest = [], math.inf
    for image in images:
        ends.clear()
        spreads.append(moments_of(method, image, head=head, keep=("square",), stop=tick).variance.cpu())
        quickest = min([quickest, *(after - before for before, after in itertools.pairwise(ends))])
    return spreads, quickest


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def choose(audited: Mapping[str, Any]) -> tuple[Precision, str]:
    """The fastest format whose rounding stays under LIMIT of the signal, and the reason in words.

    audited: what `audit` found on this kind of device; empty: it was not audited

    >>> choose({"bf16": {"variance_error": 0.03, "speed": 1.9}})
    ('bf16', 'bf16 rounding adds 3.0 % to the variance map (under 5 %) and is 1.9x as fast')
    >>> choose({})[0]
    'fp32'
    """
    if not audited:
        return "fp32", "half precision was not audited for this device when the bank was recorded"
    best: Precision = "fp32"
    speed = 1.05  # a tie is not worth the rounding
    reasons = {}
    for name, figures in audited.items():
        error, faster = figures["variance_error"], figures["speed"]
        rounding = f"{name} rounding adds {100 * error:.1f} % to the variance map"
        if error >= LIMIT:
            reasons[name] = f"{rounding} ({100 * LIMIT:.0f} % or more)"
            continue
        reasons[name] = f"{rounding} (under {100 * LIMIT:.0f} %) and is {faster:.1f}x as fast"
        if faster > speed:
            best, speed = ("bf16" if name == "bf16" else "fp16"), faster
    return best, reasons[best] if best != "fp32" else "; ".join(reasons.values())
