"""A convolutional network with multiplicative normalizing flows in place of its weights.

Must not know what the network is for.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segment.experiments.regression.mnf import ConvMNF


class FlowConvolution(nn.Module):
    """A convolution with MNF weights, one z an image; in training it keeps the divergence of its last call."""

    def __init__(self, plain: nn.Conv2d, generator: torch.Generator) -> None:
        super().__init__()
        self.weights = ConvMNF(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size[0],
            generator=generator,
            stride=plain.stride[0],
            padding=int(plain.padding[0]),
        )
        self.generator = generator
        self.divergence = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:  # N C H W -> N K H' W'
        drawn = self.weights.multipliers(len(x), self.generator)
        if self.training:
            self.divergence = self.weights.divergence(drawn, self.generator)
        return self.weights(x, drawn, self.generator)


def flow_network(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """The network, changed in place: every convolution with MNF weights and, as MNF networks are, without BN."""
    for path, module in list(network.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(module, nn.Conv2d):
            setattr(network.get_submodule(parent), name, FlowConvolution(module, generator))
        elif isinstance(module, nn.BatchNorm2d):
            setattr(network.get_submodule(parent), name, nn.Identity())
    return network
