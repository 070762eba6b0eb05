"""The methods whose cost is compared, and their processor seconds: of a map, and of a training step.

Must not know what is claimed of the costs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.estimation.estimate import estimate
from segment.experiments.regression.mnf_convolutions import FlowConvolution
from segment.experiments.segmentation.scenes_training import BATCH
from segment.images.prepare import prepare
from segment.methods.deterministic import Plain, deterministic
from segment.methods.dropout import Dropout, inserted
from segment.methods.ensemble import Ensemble
from segment.methods.mcbn import mcbn
from segment.methods.method import Method
from segment.networks.load import Network
from segment.passes.passes import FAST, PassPlan
from segment.scenes import scene as scenes
from segment.scores.intervals import middle_95

MEASURES = ("variance", "predictive_entropy")


UNSHARED = PassPlan(channels_last=True, share=False)
"""Dropout makes what comes before a BN layer differ between passes."""


RATE = 0.1


MEMBERS = 5


REPLICATES = 1000


def methods_of(network: Network, bank: Bank, flows: nn.Module, draws: int, seed: int) -> dict[str, Method]:
    """The plain single pass, and each method as the engine runs it."""
    drawn = bn_network_of(network)
    dropout = inserted(drawn.calls, network.module, RATE)
    single = Plain(network.module, network, PassPlan(channels_last=True))
    one_flow = Plain(flows, flows, PassPlan())
    return {
        "single pass": single,
        "mcbn": mcbn(drawn, bank, FAST),
        "mcdo": Dropout(deterministic(drawn, plan=UNSHARED), draws=draws, seed=seed, insert=dropout),
        "ensemble": Ensemble((single,) * MEMBERS),  # its members differ in their weights only, which cost the same
        "mnf": Ensemble((one_flow,) * draws, name="mnf"),
    }


def timed(methods: Mapping[str, Method], images: Tensor, network: Network, repeats: int) -> dict[str, list[float]]:
    """Processor seconds to one map, the methods in turn; the first round, which sets things up, is left out."""
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            start = time.process_time()
            estimate(method, images, head=network.card.head, measures=MEASURES)
            spent[name].append(time.process_time() - start)
    return {name: values[1:] for name, values in spent.items()}


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval over rounds of a ratio of medians; both were timed in the same rounds.

    >>> ratio_interval([2.0, 2.0], [1.0, 1.0])
    (2.0, 2.0)
    """
    rounds = np.random.default_rng(0).integers(len(above), size=(REPLICATES, len(above)))
    ratios = np.median(np.asarray(above)[rounds], axis=1) / np.median(np.asarray(below)[rounds], axis=1)
    return middle_95(ratios)


def step_seconds(module: nn.Module, network: Network, steps: int) -> float:
    """Median processor seconds of one training step on a mini-batch of scenes; the module is trained by it.

    The loss is the mean cross-entropy and, for MNF, the divergence over the number of training pixels.
    """
    shown = [scenes.scene(number) for number in scenes.TRAIN[:BATCH]]
    x = torch.stack([prepare(scene.image, network.card.input) for scene in shown])
    labels = torch.from_numpy(np.stack([scene.label for scene in shown])).long()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)
    flows = [part for part in module.modules() if isinstance(part, FlowConvolution)]
    pixels = len(scenes.TRAIN) * labels[0].numel()
    spent = []
    module.train()
    for _ in range(steps + 1):
        start = time.process_time()
        loss = functional.cross_entropy(module(x), labels)
        for flow in flows:
            loss = loss + flow.divergence / pixels
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        spent.append(time.process_time() - start)
    module.eval()
    return float(np.median(spent[1:]))


def kept_numbers(network: Network, bank: Bank, flows: nn.Module) -> dict[str, int]:
    """How many numbers a method keeps: weights, and for MCBN the bank."""
    weights = sum(parameter.numel() for parameter in network.module.parameters())
    drawn = sum(mean.numel() + bank.var[name].numel() for name, mean in bank.mean.items())
    flowing = sum(parameter.numel() for parameter in flows.parameters())
    return {
        "single pass": weights,
        "mcbn": weights + drawn,
        "mcdo": weights,
        "ensemble": MEMBERS * weights,
        "mnf": flowing,
    }
