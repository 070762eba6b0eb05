"""What a network is made of, as MCBN sees it: `segment inspect`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from segment.batch_norm.layers import Layer
from segment.batch_norm.network import bn_network_of, little_batchnorm
from segment.networks.load import Network
from segment.networks.modules import parameters
from segment.networks.preserve_state import preserve_state
from segment.tracing.pass_memory import peak_bytes


@dataclass(frozen=True)
class Inspection:
    """A network's BN layers in data order, and what one pass over one image of `size` (H, W) takes.

    whole_image: whether a BN layer normalises one value a channel, pooled over the whole image
    few: why the draws vary little; "" where they do not
    preprocessing: what happens to the pixels of an image, in words
    """

    name: str
    parameters: int
    classes: int
    head: str
    layers: tuple[Layer, ...]
    size: tuple[int, int]
    pass_bytes: int
    whole_image: bool
    preprocessing: str
    few: str

    @property
    def stochastic(self) -> int:
        return sum(layer.status == "stochastic" for layer in self.layers)


def inspect_network(network: Network, *, layers: str = "all", size: tuple[int, int] = (480, 640)) -> Inspection:
    """List the BN layers and count the memory of one fp32 pass over an image of `size`, padded to the stride."""
    drawn = bn_network_of(network, layers)
    stride = network.card.input.stride
    height, width = (-(-side // stride) * stride for side in size)
    image = torch.zeros(1, network.channels, height, width, device=drawn.device)
    with preserve_state(network.module):
        taken = peak_bytes(network, image)
    pooled = any(layer.values == 1 for layer in drawn.layers)
    return Inspection(
        network.name,
        sum(parameter.numel() for parameter in parameters(network.module)),
        network.classes,
        network.card.head,
        drawn.layers,
        (height, width),
        taken,
        pooled,
        _stated(network),
        little_batchnorm(drawn),
    )


def _stated(network: Network) -> str:
    assumed = " (nobody stated it: say otherwise in a card's `input:`)" if network.card.assumed else ""
    return network.input.sentence + assumed
