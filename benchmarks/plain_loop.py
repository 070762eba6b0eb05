"""MCBN by a plain loop, the reference for the engine on networks of random weights: hooks set each layer's statistics.

Must not use the engine: no trace, no passes.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.bank import Bank
from segment.networks.load import Network

DRAWS, SIZES = 2, ((128, 128), (128, 160))
LEVELS = ((-1.0, 0.5), (1.5, 1.5))
"""Mean and standard deviation of each image's noise, after normalising: a dark image and a bright one."""

SCALE = 2.0
"""Standard deviation of the logits whose probabilities are compared: those of random weights are nearly equal."""


def noise_images() -> list[Tensor]:  # 1 3 H W each
    """A dark image and a bright one, of different size."""
    return [
        mean + spread * torch.randn((1, 3, *size), generator=torch.Generator().manual_seed(place))
        for place, (size, (mean, spread)) in enumerate(zip(SIZES, LEVELS, strict=True))
    ]


def settle(network: Network, seed: int = 0) -> None:
    """Scatter BN's affine parameters, and take its running statistics from a mini-batch of dark and bright noise."""
    generator = torch.Generator().manual_seed(seed)
    layers = [part for part in network.module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0  # the running statistics are those of the last batch
        for parameter, centre in ((layer.weight, 1.0), (layer.bias, 0.0)):
            if parameter is not None:
                nn.init.trunc_normal_(parameter, centre, 0.1, generator=generator)
    images = torch.randn((4, 3, *SIZES[0]), generator=generator)
    for image, (mean, spread) in zip(images, itertools.cycle(LEVELS), strict=False):
        image.mul_(spread).add_(mean)
    training = [(part, part.training) for part in network.module.modules()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for layer in layers:
            layer.training = True  # these only: dropout stays off
        network.module(images)
    for part, flag in training:
        part.training = flag
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def plain(network: Network, bank: Bank, image: Tensor, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
    """A pass for each draw: hooks set its statistics in a copy of the network at each call, without the engine."""
    module = copy.deepcopy(network.module).to(dtype)
    names = {child: name or "(root)" for name, child in module.named_modules()}
    calls: Counter[str] = Counter()
    draw = 0

    def put(layer: Any, _: object) -> None:
        calls[names[layer]] += 1
        name = names[layer] if calls[names[layer]] == 1 else f"{names[layer]}#{calls[names[layer]]}"
        if name in bank.mean:
            layer.running_mean, layer.running_var = bank.mean[name][draw].to(dtype), bank.var[name][draw].to(dtype)

    for child, name in names.items():
        if name in bank.mean:
            child.register_forward_pre_hook(put)
    for draw in range(len(bank)):  # noqa: B007 - `put` reads it
        calls.clear()
        with torch.no_grad():
            yield replace(network, module=module)(image.to(dtype, copy=True))


def random_bank(network: BatchNormNetwork, spread: float = 0.3, seed: int = 0) -> Bank:
    """Draws around the running statistics."""
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(DRAWS):
        draw = {}
        for layer in network.stochastic:
            mean, var = layer.trained or (torch.zeros(layer.channels), torch.ones(layer.channels))
            shift, scale = torch.randn((2, layer.channels), generator=generator)
            draw[layer.name] = (mean + spread * var.sqrt() * shift, var * (spread * scale).exp())
        draws.append(draw)
    return Bank.of_draws(draws)


Outputs = Sequence[Sequence[Tensor]]
"""Of each image, the logits (N K H W) of each draw."""


def largest_difference(outputs: Outputs, reference: Outputs) -> float:
    """Largest difference in probability; NaN where only one of the two is finite somewhere."""
    difference = 0.0
    for output, expected in zip(itertools.chain(*outputs), itertools.chain(*reference), strict=True):
        scale = SCALE / float(expected.std())
        p, q = ((logits.double() * scale).softmax(dim=1) for logits in (output, expected))
        if output.shape != expected.shape or not bool((p.isfinite() & q.isfinite()).all()):
            return math.nan
        difference = max(difference, float((p - q).abs().amax()))
    return difference
