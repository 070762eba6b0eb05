"""A loaded network with its BN layers listed, traced at an image size that it accepts.

Must not know a bank.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.errors import ModelRefused, count_of
from segment.networks.load import Network
from segment.networks.modules import named_modules, parameters
from segment.networks.trial_images import at_smallest_side, trial_image
from segment.tracing.probabilities import warn_of_probabilities
from segment.tracing.trace import Call, trace

FEW = 4
"""Other normalisations per BN layer from which the draws of a network vary little."""


def little_batchnorm(network: BatchNormNetwork) -> str:
    """Why the draws of a network vary little, where most of its normalisations are no BN; "" elsewhere."""
    stochastic = [layer for layer in network.layers if layer.status == "stochastic"]
    others = Counter(
        type(part).__name__
        for _, part in named_modules(network.module)
        if "Norm" in type(part).__name__ and not isinstance(part, BatchNorm) and "BatchNorm" not in type(part).__name__
    )
    if sum(others.values()) < FEW * len(stochastic):
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(2))
    layers = count_of(len(stochastic), "BN layer")
    return (
        f"Only {layers} is drawn, beside {kinds}: the draws vary little, and so do the maps of their spread. Compare "
        "with MC dropout or flips by `segment evaluate`."
    )


def check_single_precision(network: Network) -> None:
    """Errors: ModelRefused where its parameters are in float64, which images are not."""
    types = {value.dtype for value in parameters(network.module) if value.is_floating_point()}
    if types == {torch.float64}:
        raise ModelRefused(
            f"The parameters of {network.name!r} are in float64, and images are in float32: give it in float32 "
            "(`module.float()`)."
        )


def calls_of(network: Network) -> tuple[Call, ...]:
    """The calls of a pass of a network, also of one without BN.

    Errors: ModelRefused where it accepts no size, or is in float64.
    """
    check_single_precision(network)

    def calls(side: int) -> tuple[Call, ...]:
        image = trial_image(network.module, network.channels, side)
        traced = trace(network.module, network, image)
        warn_of_probabilities(network, traced, image)
        return traced.calls

    return at_smallest_side(network.name, network.card.input.stride, calls)


def bn_network_of(network: Network, layers: str = "all") -> BatchNormNetwork:
    """The BN layers of a network, those that match `layers` stochastic.

    Errors: NoBatchNorm, ModelRefused, WrongUse as in `BatchNormNetwork.select`; ModelRefused where it accepts no size,
    or is in float64.
    """
    check_single_precision(network)

    def listed(side: int) -> BatchNormNetwork:
        image = trial_image(network.module, network.channels, side)
        surveyed = survey(network.module, network, image, network.card.head)
        warn_of_probabilities(network, surveyed.trace, image)
        return surveyed.select(layers)

    return at_smallest_side(network.name, network.card.input.stride, listed)
