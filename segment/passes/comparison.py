"""How far the outputs of a fast pass are from those of a plain one, and how far they may be.

Must not know how either pass was made.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from segment.axes import Head
from segment.draws.recording import layers_in_order
from segment.networks.preserve_state import preserve_state
from segment.passes.drawn_calls import PlainPass
from segment.tracing.bn_layers import BatchNormNetwork
from segment.uncertainty.heads import probabilities

TOLERANCE = 1e-4
"""Largest difference that counts as none: of a probability; of an output without a head, relative to 1 + its size."""

NOISE_FACTOR = 4
"""A difference is rounding up to this many times what float32 costs the network against float64."""


def largest_difference(fast: Tensor, plain: Tensor, head: Head | None) -> float:
    """Over all pixels and classes, of probabilities (N K ...) where the head is known; infinite where shapes differ.

    Entries that are not finite must be the same ones of the same kind, else the difference is infinite.
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
    """What float32 costs this network: the largest difference of a plain pass to the same pass in float64.

    draw: of each stochastic layer mean and variance (1 C); plain: the float32 output
    0 where a float64 copy of the network cannot be made or does not run.
    """
    exact = in_float64(network)
    if exact is None:
        return 0.0
    try:
        # the copy's running statistics have another type, so layers are told apart by their order
        layers = [dataclasses.replace(layer, trained=None) for layer in layers_in_order(exact)]
        with torch.no_grad(), preserve_state(exact.module), PlainPass(layers, draw):
            output = exact.forward(images.double())
    except Exception:  # whatever an unknown network raises in a type that it was not made for
        return 0.0
    noise = largest_difference(output, plain, network.head)
    return noise if math.isfinite(noise) else 0.0


def in_float64(network: BatchNormNetwork) -> BatchNormNetwork | None:
    """A copy in float64; None where `forward` cannot be given another module, or the module not be copied."""
    try:
        module = copy.deepcopy(network.module).double()
    except Exception:  # a module may hold what cannot be copied
        return None
    forward: Any = network.forward
    if forward is network.module:
        return dataclasses.replace(network, module=module, forward=module)
    if dataclasses.is_dataclass(forward) and getattr(forward, "module", None) is network.module:
        moved = dataclasses.replace(cast(Any, forward), module=module)
        return dataclasses.replace(network, module=module, forward=cast(Callable[[Tensor], Tensor], moved))
    return None
