"""The networks whose mini-batch statistics are measured: dense ones trained here, and a ResNet32's first layer.

Must not know what is measured on them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from segment.experiments.cifar.network import drawn_network, normalised, read_images
from segment.experiments.regression.methods import seeded
from segment.experiments.regression.stack import Architecture, Stack, standardised
from segment.experiments.regression.stack_training import StackFit, Training
from segment.experiments.uci.data import read_table

SET, HIDDEN, BATCH, L2 = "concrete", (50, 50), 32, 1e-3


def trained(data: Path, *, count: int, epochs: int, seed: int) -> tuple[list[nn.Sequential], Tensor, float]:
    """The paper's regression network on all rows of one set; its standardised inputs; tau, of the first's residuals."""
    table = read_table(data, SET)
    rows = torch.arange(table.rows)[None]
    training_data = standardised(table.x, table.y, rows, rows)
    generator = seeded(seed, 6)
    stack = Stack(Architecture(features=table.x.shape[1], hidden=HIDDEN), count, generator)
    fit = StackFit(
        data=training_data, sets=torch.zeros(count, dtype=torch.long), batch=BATCH, l2=torch.full((count,), L2)
    )
    Training(stack, fit, generator).run(epochs)
    networks = [stack.network(number, statistics=training_data.x[0]) for number in range(count)]
    with torch.no_grad():
        residuals = networks[0](training_data.x[0])[:, 0] - training_data.y[0]
    return networks, training_data.x[0], float(1 / residuals.square().mean())


def pixels_first(data: Path) -> tuple[nn.Sequential, Tensor]:
    """The first convolution and BN of the ResNet32, and 1000 training images."""
    module = drawn_network(data).module
    convolution, norm = module.get_submodule("conv1"), module.get_submodule("bn1")
    return nn.Sequential(convolution, norm).eval(), normalised(read_images(data, "train1000")[0])


def dense_names(network: nn.Sequential) -> tuple[str, ...]:
    count = sum(isinstance(layer, nn.BatchNorm1d) for layer in network)
    return tuple(f"{SET}, layer {number + 1}" for number in range(count))
