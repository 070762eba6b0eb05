"""A loaded network with its BN layers listed: the two halves of this room put together.

Must not know a bank.
"""

from __future__ import annotations

import torch

from segment.errors import ModelRefused, SegmentError, one_line
from segment.networks.load import Network
from segment.tracing.bn_layers import BatchNormNetwork, survey

SIDES = (128, 256, 512)
"""Sizes at which a network is followed: the smallest that it takes."""


def drawable(network: Network, layers: str = "all") -> BatchNormNetwork:
    """The BN layers of a network, those that match `layers` stochastic.

    Errors: NoBatchNorm, ModelRefused, WrongUse as in `BatchNormNetwork.select`; ModelRefused where no size is taken.
    """
    like = next(network.module.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    problem: Exception | None = None
    for wanted in SIDES:
        side = -(-wanted // network.card.input.stride) * network.card.input.stride
        image = torch.rand((1, network.card.input.planes, side, side), generator=generator).to(like)
        try:
            return survey(network.module, network, image).select(layers)
        except SegmentError:
            raise
        except Exception as error:  # whatever an unknown network raises, it does not take this size
            problem = error
    message = one_line(problem, 200)
    raise ModelRefused(f"{network.name!r} does not take a {side}x{side} image: {type(problem).__name__}: {message}")
