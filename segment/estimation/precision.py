"""The precision of a network's passes: half precision only where its rounding is small beside the variance map.

Must not know a file: the images are those that the bank was recorded from.
"""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from segment.axes import Head
from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.draws.recording import Precision
from segment.draws.reference import are_equal
from segment.errors import PredictionFailed, WrongUse, one_line
from segment.estimation.estimate import from_the_first_draw, moments_of
from segment.methods.mcbn import BankMethod, mcbn
from segment.networks.devices import synchronise
from segment.passes.fused import onednn
from segment.passes.passes import FAST, Engine
from segment.uncertainty.heads import probabilities
from segment.uncertainty.moments import DrawMoments

log = logging.getLogger(__name__)

LIMIT = 0.05
"""Largest relative L1 error of the variance map that half precision may add."""

AUDIT_DRAWS = 8

PAIRS = 12
"""Passes in fp32 and in half precision, one after the other, whose times are compared pair by pair."""

NO_BFLOAT16 = "this processor has no bfloat16 instructions, and passes without them are slower than in fp32"
NOT_AUDITED = "half precision was not audited: the processor that recorded the bank has no bfloat16 instructions"

ONE_DRAW = "one draw has no variance map, so half precision was not audited; record two draws or more"

EQUAL_DRAWS = "the draws are equal and have no variance map, so half precision was not audited"

NOT_IN_FP32 = "half precision was not audited, because this network does not work in fp32 here either"

Audited = dict[str, dict[str, Any]]
"""Precision -> `variance_error`, and `speed`, `speed_low` and `speed_high`; or the `reason` why it does not work."""


def audit(
    network: BatchNormNetwork,
    bank: Bank,
    images: Sequence[Tensor],
    head: Head,
    *,
    engine: Engine = "torch",
) -> Audited:
    """For each half precision of this device and engine: its error of the variance map, and its speed-up.

    images: a few, each (1 C H W), prepared; the same first draws are used in every precision
    variance_error: relative L1 against fp32. speed: seconds in fp32 over seconds in it, the median over pairs
    of neighbouring passes; a quarter of the pairs lies below speed_low, a quarter above speed_high
    An exception of the network in a half precision becomes its `reason`; nothing is raised.
    """
    bank = bank if bank.distilled else bank.first(min(AUDIT_DRAWS, len(bank)))
    candidates: tuple[Precision, ...] = ("bf16",) if network.device.type == "cpu" else ("bf16", "fp16")
    if not images:
        return {}
    if len(bank) < 2 or are_equal(bank):
        reason = ONE_DRAW if len(bank) < 2 else EQUAL_DRAWS
        return {precision: {"reason": reason} for precision in candidates}
    audited: Audited = {}
    if not onednn.computes_bfloat16(network.device):
        audited["bf16"] = {"reason": NOT_AUDITED}  # the first of the candidates
    for precision in candidates[len(audited) :]:
        try:
            audited[precision] = _compared(network, bank, images, head, precision, engine)
        except _FailedInFp32 as failed:
            audited[precision] = {"reason": f"{NOT_IN_FP32}: {failed}"}
        except Exception as error:  # whatever an unknown network raises
            message = _named(error)
            log.info("Precision audit, %s: %s", precision, message)
            audited[precision] = {"reason": f"this network does not work in {precision}: {message}"}
    return audited


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 200)}"


class _FailedInFp32(PredictionFailed):
    """What the audit compares with cannot be computed."""


def _compared(
    network: BatchNormNetwork,
    bank: Bank,
    images: Sequence[Tensor],
    head: Head,
    precision: Precision,
    engine: Engine,
) -> dict[str, float]:
    """Passes in fp32 and in half precision in turn, so that other load on the machine affects both alike."""
    plans = [replace(FAST, precision=of, engine=engine) for of in ("fp32", precision)]
    methods = [mcbn(network, bank, plan) for plan in plans]
    for method in methods:  # the first call compares with plain passes: not timed
        try:
            from_the_first_draw((method,), partial(moments_of, method, images[0], head=head, keep=("square",)))
        except Exception as raised:
            if method is methods[0]:
                raise _FailedInFp32(_named(raised)) from raised
            raise
    error = signal = 0.0
    ratios: list[float] = []
    rounds = max(len(images), -(-PAIRS // (len(bank) - 1)))
    for number in range(rounds):
        exact, rounded = _in_turn(methods, images[number % len(images)], head, ratios)
        if number < len(images):
            error += float((rounded - exact).abs().sum())
            signal += float(exact.sum())
    if any(method.engine != engine for method in methods):
        raise PredictionFailed(f"{engine} does not run its passes")
    low, middle, high = statistics.quantiles(ratios, n=4)
    if not math.isfinite(error):
        raise PredictionFailed("its output is not finite")
    return {
        "variance_error": round(error / signal, 5) if signal > 0 else 1.0,
        "speed": round(middle, 3),
        "speed_low": round(low, 3),
        "speed_high": round(high, 3),
    }


def _in_turn(methods: Sequence[BankMethod], image: Tensor, head: Head, ratios: list[float]) -> list[Tensor]:
    """The variance map of each method; adds the ratios of their seconds, of all passes but the first, to `ratios`."""
    moments = [DrawMoments(head, ("square",)) for _ in methods]
    passes = [method(image) for method in methods]
    device = methods[0].passes.network.device
    for draw in range(methods[0].draws):
        seconds = []
        for each, kept in zip(passes, moments, strict=True):
            start = _now(device)
            weight, logits = next(each)
            seconds.append(_now(device) - start)
            kept.update(probabilities(logits, head), weight)
        if draw:  # the first pass also computes the shared results
            ratios.append(seconds[0] / max(seconds[1], 1e-9))
    return [kept.variance for kept in moments]


def _now(device: torch.device) -> float:
    synchronise(device)  # on a processor the time of other processes does not count
    return time.perf_counter() if device.type == "cuda" else time.process_time()


def audit_key(device: torch.device, engine: Engine) -> str:
    """What the audit of passes there is called in a bank's provenance; of a GPU by its model, whose speed it is."""
    if engine != "torch":
        return engine
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def choose(audited: Mapping[str, Any]) -> tuple[Precision, str]:
    """The fastest precision whose rounding stays under LIMIT of the variance map, and the reason in words.

    A precision counts as faster only where three quarters of its pairs of passes are.
    audited: the result of `audit` on this kind of device; empty: it was not audited

    >>> choose({"bf16": {"variance_error": 0.03, "speed": 1.9, "speed_low": 1.8, "speed_high": 2.0}})
    ('bf16', 'bf16 rounding adds 3.0 % to the variance map (under 5 %) and is 1.9x as fast')
    >>> close = {"variance_error": 0.03, "speed": 1.1, "speed_low": 1.0, "speed_high": 1.2}
    >>> choose({"bf16": close})[1].partition(" is ")[2]
    '1.1x as fast, but at most 1.0x in a quarter of the pairs of passes'
    >>> choose({"bf16": {"reason": "this network does not work in bf16: RuntimeError: no kernel"}})
    ('fp32', 'this network does not work in bf16: RuntimeError: no kernel')
    >>> choose({})[0]
    'fp32'
    """
    if not audited:
        return "fp32", "half precision was not audited for this device when the bank was recorded"
    best: Precision = "fp32"
    speed = 1.05  # a tie is not worth the rounding
    reasons = {}
    for name, figures in audited.items():
        if "reason" in figures:
            reasons[name] = str(figures["reason"])
            continue
        rounding = f"{name} rounding adds {100 * figures['variance_error']:.1f} % to the variance map"
        if figures["variance_error"] >= LIMIT:
            reasons[name] = f"{rounding} ({100 * LIMIT:.0f} % or more)"
            continue
        reasons[name] = f"{rounding} (under {100 * LIMIT:.0f} %) and is {figures['speed']:.1f}x as fast"
        if figures["speed_low"] <= speed < figures["speed"]:
            reasons[name] += f", but at most {figures['speed_low']:.1f}x in a quarter of the pairs of passes"
        if figures["speed_low"] > speed:
            best, speed = ("bf16" if name == "bf16" else "fp16"), figures["speed"]
    return best, reasons[best] if best != "fp32" else "; ".join(dict.fromkeys(reasons.values()))


def resolve_precision(asked: str, bank: Bank, device: torch.device, engine: Engine = "torch") -> tuple[Precision, str]:
    """fp32, bf16 or fp16, and why: as asked, or for "auto" as the audit recorded in the bank allows.

    Errors: WrongUse for what this device or engine does not compute in.
    """
    lacking = not onednn.computes_bfloat16(device)
    if asked == "auto":
        audits = bank.provenance.get("audit", {})
        if engine != "torch" and engine not in audits:
            advice = f"fit --engine {engine}" + (", then distill that bank" if bank.distilled else "")
            return "fp32", f"half precision was not audited for {engine} when the bank was recorded: {advice}"
        chosen, why = choose(audits.get(audit_key(device, engine), {}))
        return ("fp32", NO_BFLOAT16) if lacking and chosen == "bf16" else (chosen, why)
    precision = known_precision(asked)
    if precision == "fp16" and device.type == "cpu":
        raise WrongUse("fp16 runs on CUDA only; on a CPU use --precision bf16 or fp32.")
    if precision == "bf16" and lacking:
        if engine == "openvino":
            raise WrongUse(
                "OpenVINO would compute bf16 in fp32: this processor has no bfloat16. Take --precision fp32."
            )
        log.warning("--precision bf16: %s. Take fp32.", NO_BFLOAT16)
    return precision, "asked for"


def known_precision(asked: str) -> Precision:
    """The precision of that name. Errors: WrongUse where there is none."""
    known: tuple[Precision, ...] = get_args(Precision)
    for precision in known:
        if asked == precision:
            return precision
    raise WrongUse(f"No precision is called {asked!r}. Known: auto, {', '.join(known)}.")
