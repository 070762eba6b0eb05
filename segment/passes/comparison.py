"""The difference between the outputs of a fast pass and of a plain one, and how large it may be.

Must not know how either pass was made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from segment.axes import Head
from segment.draws.float64_copy import in_float64
from segment.draws.recording import layers_in_order
from segment.networks.preserve_state import preserve_state
from segment.passes.drawn_calls import PlainPass
from segment.tracing.bn_layers import BatchNormNetwork
from segment.uncertainty.heads import probabilities

TOLERANCE = 1e-4
"""Largest difference that counts as none: of a probability; of an output without a head, relative to 1 + its size."""

NOISE_FACTOR = 4
"""A difference counts as rounding up to this many times that of the network in float32 and in float64."""


def output_difference(fast: Tensor, plain: Tensor, head: Head | None) -> float:
    """The largest over all pixels and classes, of probabilities (N K ...) where the head is known.

    Infinite where shapes differ, or where entries that are not finite are other ones or of another kind.
    """
    if fast.shape != plain.shape:
        return math.inf
    fast, plain = fast.float(), plain.float()
    if any(not torch.equal(kind(fast), kind(plain)) for kind in (torch.isnan, torch.isposinf, torch.isneginf)):
        return math.inf
    if head is None:
        difference = (fast - plain).abs() / (1 + plain.abs())
    else:
        difference = (probabilities(fast, head) - probabilities(plain, head)).abs()
    finite = difference[difference.isfinite()]
    return float(finite.max()) if len(finite) else 0.0


def float32_noise(
    network: BatchNormNetwork, draw: Mapping[str, tuple[Tensor, Tensor]], images: Tensor, plain: Tensor
) -> float:
    """The largest difference between a plain pass in float32 and the same pass in float64.

    draw: of each stochastic layer mean and variance (1 C); plain: the float32 output
    0 where a float64 copy of the network cannot be made or does not run.
    """
    exact = in_float64(network)
    if exact is None:
        return 0.0
    try:
        with torch.no_grad(), preserve_state(exact.module), PlainPass(layers_in_order(exact), draw):
            output = exact.forward(images.double())
    except Exception:  # whatever an unknown network raises in a type that it was not made for
        return 0.0
    noise = output_difference(output, plain, network.head)
    return noise if math.isfinite(noise) else 0.0
