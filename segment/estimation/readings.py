"""Several estimates from one run of each method: at several numbers of draws, at several temperatures.

A sweep over T costs one run at the largest T, and a temperature costs a softmax. Must not know a file or a score.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from segment.axes import Head
from segment.errors import PredictionFailed
from segment.estimation.estimate import Estimate
from segment.methods.dropout import Dropout
from segment.methods.method import Method
from segment.uncertainty.heads import probabilities
from segment.uncertainty.measures import MEASURES, needed, prediction
from segment.uncertainty.moments import DrawMoments


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What is read off a method's passes.

    method: readings of one and the same object share its passes
    draws: after how many of them, weights renormalised; None: all. temperature: divides the logits
    measures: the maps that are made
    """

    method: Method
    measures: tuple[str, ...]
    draws: int | None = None
    temperature: float = 1.0

    @property
    def passes(self) -> int:
        return self.draws or self.method.draws


@dataclass(frozen=True)
class Read:
    """An estimate of one image, and the seconds its passes and moments took (shared passes count in full)."""

    estimate: Estimate
    seconds: float


def read(readings: Mapping[str, Reading], images: Tensor, head: Head, identity: str = "") -> dict[str, Read]:
    """Every reading of one image (1 C H W), not padded. Errors: PredictionFailed where an output is not finite."""
    methods = {id(reading.method): reading.method for reading in readings.values()}
    found: dict[str, Read] = {}
    for key, method in methods.items():
        mine = {name: reading for name, reading in readings.items() if id(reading.method) == key}
        found |= _read(method.of(identity) if isinstance(method, Dropout) else method, mine, images, head)
    return {name: found[name] for name in readings}


def _read(method: Method, readings: Mapping[str, Reading], images: Tensor, head: Head) -> dict[str, Read]:
    temperatures = {reading.temperature for reading in readings.values()}
    moments = {t: DrawMoments(head, _kept(readings.values(), t)) for t in temperatures}
    spent = dict.fromkeys(temperatures, 0.0)
    passing, found = 0.0, {}
    wanted = max(reading.passes for reading in readings.values())
    start = _now(images)
    for number, (weight, logits) in enumerate(method(images), start=1):
        passing += _now(logits) - start
        for t, sums in moments.items():
            begun = _now(logits)
            sums.update(probabilities(logits if t == 1.0 else logits.float() / t, head), weight)
            spent[t] += _now(logits) - begun
        for name, reading in readings.items():
            if reading.passes == number:
                begun = time.perf_counter()
                made = _estimate(moments[reading.temperature], reading.measures)
                seconds = passing + spent[reading.temperature] + time.perf_counter() - begun
                found[name] = Read(made, seconds)
        if number == wanted:
            break
        start = _now(logits)
    return found


def _kept(readings: Iterable[Reading], temperature: float) -> frozenset[str]:
    return frozenset().union(*(needed(r.measures) for r in readings if r.temperature == temperature))


def _estimate(moments: DrawMoments, measures: tuple[str, ...]) -> Estimate:  # 1 K H W -> one image's
    """On the CPU, and none of it a view of the moments: more draws may follow."""
    mean = moments.mean.clone()
    if not bool(torch.isfinite(mean).all()):
        raise PredictionFailed(
            "The network's output is not finite (NaN or infinity): try --precision fp32, and look at the weights and "
            "the bank."
        )
    # rounding alone takes p above 1 and a map below 0
    maps = {name: MEASURES[name].of(moments).clamp(min=0)[0].cpu() for name in measures}
    return Estimate(prediction(mean, moments.head)[0].cpu(), mean.clamp(0, 1)[0].cpu(), maps, moments.draws)


def _now(tensor: Tensor) -> float:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
