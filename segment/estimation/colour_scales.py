"""The colour scales of measures that come from the spread of the draws: what the statistics images reach.

Their theoretical bounds are far above what networks give, so that heat maps up to them would be black.
Must not know a file: the images are some of those that the bank was recorded from.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from segment.axes import Head
from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.errors import error_message
from segment.estimation.estimate import estimate
from segment.methods.mcbn import mcbn
from segment.passes.passes import FAST

log = logging.getLogger(__name__)

SHARE = 0.995
"""Share of the statistics images' pixels below the last colour."""

IMAGES, DRAWS = 8, 8
"""Statistics images, and draws of each, that the scales are measured on."""

SPREADS = ("variance", "mutual_information", "predicted_std")

PIXELS = 2**18
"""Pixels of an image that are used, evenly chosen."""


def colour_scales(network: BatchNormNetwork, bank: Bank, images: Sequence[Tensor], head: Head) -> dict[str, float]:
    """Measure -> the value that 99.5 % of the images' pixels do not exceed, rounded up to two digits, in its unit.

    images: each (1 C H W), prepared
    `standard_error` is that of `predicted_std` over sqrt(T_eff - 1), for the whole bank. A measure that is 0 nearly
    everywhere has no scale. An image that the network fails on is left out with a warning; without any, there is none.
    """
    used = bank if bank.distilled else bank.first(min(DRAWS, len(bank)))
    if len(used) < 2 or not images:
        return {}
    values: dict[str, list[np.ndarray]] = {name: [] for name in SPREADS}
    method = mcbn(network, used, FAST)
    for number, image in enumerate(images):
        try:
            maps = estimate(method, image, head=head, measures=SPREADS).maps
        except Exception as error:  # whatever an unknown network raises
            log.warning("Colour scales are measured without statistics image %d: %s", number, error_message(error))
            continue
        for name in SPREADS:
            flat = maps[name].reshape(-1)
            values[name].append(flat[:: -(-len(flat) // PIXELS)].cpu().numpy())
    if not values[SPREADS[0]]:
        return {}
    scales = {name: rounded_up(float(np.quantile(np.concatenate(parts), SHARE))) for name, parts in values.items()}
    if bank.effective_draws > 1 and not bank.distilled:
        scales["standard_error"] = rounded_up(scales["predicted_std"] / math.sqrt(bank.effective_draws - 1))
    return {name: value for name, value in scales.items() if value > 0}


def rounded_up(value: float) -> float:
    """To two digits, away from 0, so that a legend ends in a short number.

    >>> rounded_up(0.03138), rounded_up(0.5243), rounded_up(0.02), rounded_up(0.0)
    (0.032, 0.53, 0.02, 0.0)
    """
    if not (math.isfinite(value) and value > 0):
        return 0.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    digits = math.ceil(round(value / step, 9))
    return float(f"{digits * step:.2g}")


def scales_of(provenance: Mapping[str, object]) -> dict[str, float]:
    """The scales that a bank keeps; empty for one that was recorded without."""
    kept = provenance.get("colour_scales", {})
    return {str(name): float(value) for name, value in kept.items()} if isinstance(kept, Mapping) else {}
