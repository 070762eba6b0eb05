"""A bank against the trained running statistics: whether its mini-batches are like those of training.

Running statistics are averages over the mini-batches of training. A bank whose mean statistics differ from them was
recorded from another distribution. Must not know where the images came from.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.errors import warn_once

log = logging.getLogger(__name__)

LEAST, MOST = 0.8, 1.25
"""A median ratio of variances outside of these is warned about; banks of the training pipeline have .99 to 1.00."""
ROUNDING = 1e-5
"""By which the statistics of the same images differ in another order, over their means and standard deviations."""
EQUAL = (
    "The bank's %d draws are equal: its mini-batches held the same images, transformed alike. Variance, mutual "
    "information and all else that compares draws show rounding, and no uncertainty. Record it from more images than "
    "a mini-batch holds (or with a smaller --batch), or with a card whose `training:` transforms are random."
)
NAMED = 3
"""Layers that are named in the sentence."""


def against_trained(bank: Bank, network: BatchNormNetwork) -> dict[str, Any] | None:
    """The bank's mean statistics against the trained ones, as JSON values.

    variance_ratio: median over channels of (mean of the draws' variances) / (running variance); low, high: 5 and 95 %
    of the channels. mean_shift: mean over channels of |mean of the draws' means - running mean|, in trained standard
    deviations. layers: name -> the two, by layer; worst: the layers whose ratio is farthest from 1.
    None where no layer of the bank keeps running statistics. A channel of trained variance 0 is left out.
    """
    average = bank.average()
    ratios, shifts, layers = [], [], {}
    for layer in network.stochastic:
        if layer.trained is None or layer.name not in average.mean:
            continue
        mean, var = (value.detach().double().cpu() for value in layer.trained)
        alive = var > 0
        if not alive.any():
            continue
        ratio = average.var[layer.name][0].double()[alive] / var[alive]
        shift = (average.mean[layer.name][0].double() - mean)[alive].abs() / var[alive].sqrt()
        layers[layer.name] = {"variance_ratio": _short(ratio.quantile(0.5)), "mean_shift": _short(shift.mean())}
        ratios.append(ratio)
        shifts.append(shift)
    if not layers:
        return None
    every = torch.cat(ratios)
    low, middle, high = torch.quantile(every, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64, device=every.device))
    comparison: dict[str, Any] = {
        "variance_ratio": _short(middle),
        "low": _short(low),
        "high": _short(high),
        "mean_shift": _short(torch.cat(shifts).mean()),
        "channels": len(every),
        "worst": sorted(layers, key=lambda name: -abs(math.log(max(layers[name]["variance_ratio"], 1e-30))))[:NAMED],
        "layers": layers,
    }
    return comparison


def are_equal(bank: Bank) -> bool:
    """Whether several draws differ by rounding alone, as where each mini-batch holds the same images."""
    if len(bank) < 2:
        return False
    for name, mean in bank.mean.items():
        size = mean.abs().amax(dim=0) + bank.var[name].amax(dim=0).sqrt()
        if bool((mean.amax(dim=0) - mean.amin(dim=0) > ROUNDING * size).any()):
            return False
    return True


def warn_of_equal_draws(bank: Bank) -> None:
    """Log a warning, once a process, where maps of the draws' spread show rounding: for each use of such a bank."""
    if are_equal(bank):
        warn_once(log, EQUAL, len(bank))


def warn_if_unlike_training(comparison: dict[str, Any] | None) -> None:
    """Log a warning where a bank's statistics are far from the trained ones: for each use of it, recorded or kept."""
    if comparison is not None and not LEAST <= comparison["variance_ratio"] <= MOST:
        log.warning(
            "%s. The statistics images are not like those of training: check size, crop, scaling, mean and std, and "
            "the `training:` entry of the card, where there is one.",
            sentence(comparison),
        )


def sentence(measured: dict[str, Any]) -> str:
    """The measured in one line, without a full stop.

    >>> layer = {"variance_ratio": 0.5, "mean_shift": 0.2}
    >>> print(sentence({**layer, "low": 0.4, "high": 0.9, "worst": ["bn1"], "layers": {"bn1": layer}}).split(";")[0])
    Median variance ratio to the trained statistics 0.50, not good (outside 0.8 to 1.25)
    """
    ratio = measured["variance_ratio"]
    verdict = "good (within" if LEAST <= ratio <= MOST else "not good (outside"
    worst = ", ".join(f"{name} ({measured['layers'][name]['variance_ratio']:.2f})" for name in measured["worst"])
    return (
        f"Median variance ratio to the trained statistics {ratio:.2f}, {verdict} {LEAST} to {MOST}); 90 % of channels "
        f"{measured['low']:.2f} to {measured['high']:.2f}. Means off by {measured['mean_shift']:.2f} standard "
        f"deviations; worst layers: {worst}"
    )


def _short(value: torch.Tensor) -> float:
    return float(f"{float(value):.4g}")
