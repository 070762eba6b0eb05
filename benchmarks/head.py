"""Maps by one pass: a small head on a frozen network's features, trained on the maps of a bank for generated scenes.

    python -m benchmarks.head

The head reads the last BN output of each size down to an eighth, and the logits, at half size. It predicts the maps of
many draws from one pass, or also from the variance map of a few distilled draws. What that loses is measured on objects
of no trained class. What was computed is kept in the output folder, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from benchmarks.distill import load_or_make_bank, part
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.estimation.estimate import estimate
from segment.images.prepare import normalise, prepare
from segment.jobs.distill import distill_bank
from segment.jobs.fit import fit_bank
from segment.methods.mcbn import BankMethod, mcbn
from segment.networks.load import Network, load_network
from segment.passes.passes import FAST
from segment.scenes.scene import TEST, TRAIN, UNSEEN, scene

log = logging.getLogger(__name__)

MAPS = ("variance", "mutual_information")
WIDTH = 48
"""Channels of the head."""
TOGETHER = 2
"""Images in a step."""


@dataclass
class Item:
    """One image: features (1 C h w, of each size), logits (1 K H W), and the maps of draws (2 H W).

    few: the variance map (H W) of the few distilled draws that the head reads too; None where it reads none
    """

    features: list[Tensor]
    logits: Tensor
    target: Tensor
    few: Tensor | None


class Features:
    """The last BN output of each size down to an eighth of the image, and the logits, in one plain pass."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._outputs: dict[int, Tensor] = {}
        for module in network.module.modules():
            if isinstance(module, BatchNorm):
                module.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, given: Any, output: Tensor) -> None:
        self._outputs[output.shape[-1]] = output

    def __call__(self, pixels: NDArray[Any]) -> tuple[list[Tensor], Tensor]:
        image = prepare(pixels, self.network.input)[None]
        self._outputs.clear()
        with torch.no_grad():
            logits = self.network(image)
        features = [value.relu() for width, value in self._outputs.items() if 8 * width >= image.shape[-1]]
        return features, logits


class Block(nn.Module):
    """A depthwise 5 x 5 convolution and one across channels, beside the way past them."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(WIDTH, WIDTH, 5, padding=2, groups=WIDTH)
        self.across = nn.Conv2d(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.across(self.near(x).relu())
        return (x + added).relu()


class Head(nn.Module):
    """Features and logits to the variance and mutual information of draws, each (1 H W)."""

    def __init__(self, item: Item) -> None:
        super().__init__()
        classes = item.logits.shape[1]
        self.reads = nn.ModuleList(nn.Conv2d(feature.shape[1], WIDTH, 1) for feature in item.features)
        self.logits = nn.Conv2d(2 * classes + int(item.few is not None), WIDTH, 1)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.whole = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Conv2d(WIDTH, classes + 4, 1)
        with torch.no_grad():  # the first maps are as small as those of draws
            self.out.weight.mul_(0.1)
            self.out.bias.fill_(-3)  # type: ignore[union-attr]
            self.out.bias[-2] = 0  # type: ignore[index]

    def forward(self, item: Item) -> Tensor:  # 2 H W
        logits = item.logits.float()
        p = logits.softmax(1)
        spread = p * (1 - p)
        few = None if item.few is None else item.few[None, None]
        given = [logits / 8, spread, *([] if few is None else [few.clamp(min=1e-8).log() / 8])]
        x = self.logits(functional.avg_pool2d(torch.cat(given, 1), 2))
        for read, feature in zip(self.reads, item.features, strict=True):
            x = x + _to_size(read(feature.float()), x)
        x = x.relu()
        x = self.blocks(x + self.whole(x.mean((2, 3)))[..., None, None])
        out = _to_size(self.out(x), logits)
        share, rest = out[:, :-4].sigmoid(), out[:, -4:]
        entropy = -(p * p.clamp(min=1e-9).log()).sum(1)
        variance = (share * spread).mean(1) + functional.softplus(rest[:, 0] - 6) * 0.1
        if few is not None:
            variance = few[:, 0] * rest[:, 2].exp() + rest[:, 3].sigmoid() * 0.1 * variance
        information = rest[:, 1].sigmoid() * entropy + functional.softplus(rest[:, 0] - 6)
        return torch.cat([variance, information])


def _to_size(values: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(values, like.shape[-2:], mode="bilinear", align_corners=False)


def maps_of(method: BankMethod, pixels: NDArray[Any], network: Network) -> Tensor:  # 2 H W
    made = estimate(method, normalise(pixels, network.card.input)[None], head=network.card.head, measures=MAPS)
    return torch.stack([made.maps[name][0] for name in MAPS])


def load_or_make(file: Path, make: Callable[[], Any]) -> Any:
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    return torch.load(file, weights_only=False)


class Items:
    """Scenes with the inputs of the head and its targets.

    draws: of a scene's maps; the next scene has the bank's next ones. few: distilled draws, or None
    """

    def __init__(self, network: Network, bank: Bank, few: Bank | None, draws: int, out: Path) -> None:
        self._network = network
        drawn, spec = network_of_bank(network, bank), network.card.input
        self._methods = [mcbn(drawn, part(bank, at, at + draws), FAST, spec) for at in range(0, len(bank), draws)]
        self._few = None if few is None else (len(few), mcbn(drawn, few, FAST, spec))
        self.features = Features(load_network(network.name))  # a copy, whose BN modules are listened to
        self._out = out

    def item(self, seed: int, *, unseen: bool) -> Item:
        pixels = scene(seed, unseen=unseen).image
        method = self._methods[(seed - TRAIN[0]) % len(self._methods)]
        target = load_or_make(self._out / f"scene_{seed}.pt", lambda: maps_of(method, pixels, self._network))
        features, logits = self.features(pixels)
        few = None
        if self._few is not None:
            count, of_few = self._few
            file = self._out / f"scene_{seed}_of_{count}.pt"
            few = load_or_make(file, lambda: maps_of(of_few, pixels, self._network))[0]
        return Item([feature.half() for feature in features], logits.half(), target, few)


def trained_head(items: Sequence[Item], steps: int, rate: float = 2e-3) -> Head:
    """A head trained by Adam on the relative L1 error of both maps; the rate falls to 0 as a cosine."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        head = Head(items[0])
    order = random.Random(0)
    optimiser = torch.optim.AdamW(head.parameters(), rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    mean = 0.0
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        for item in order.sample(items, TOGETHER):
            off = (head(item) - item.target).abs().sum((-2, -1)) / item.target.sum((-2, -1)).clamp(min=1e-6)
            loss = off.sum() / TOGETHER
            loss.backward()
            mean += float(loss.detach())
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            log.info("step %d, loss %.3f", step, mean / 100)
            mean = 0.0
    return head.eval()


def errors(made: Sequence[Tensor], items: Sequence[Item]) -> dict[str, float]:
    """Relative L1 error of each map over all pixels, and of the few draws' variance map where there is one."""
    targets = torch.stack([item.target for item in items])
    whole = targets.sum((0, 2, 3))
    result = dict(zip(MAPS, ((torch.stack(list(made)) - targets).abs().sum((0, 2, 3)) / whole).tolist(), strict=True))
    few = [item.few for item in items if item.few is not None]
    if few:
        result["the few draws alone, variance"] = float((torch.stack(few) - targets[:, 0]).abs().sum() / whole[0])
    return result


def auroc(maps: Sequence[Tensor], labels: Sequence[NDArray[Any]]) -> float:
    """How well maps rank the pixels of unseen objects before all others."""
    values = np.concatenate([value.reshape(-1).numpy() for value in maps])
    return float(roc_auc_score(np.concatenate([(label == UNSEEN).reshape(-1) for label in labels]), values))


def seconds(run: Callable[[], Any], times: int = 7) -> float:
    """The shortest time of several runs."""
    spent = []
    for _ in range(times):
        start = time.perf_counter()
        with torch.no_grad():
            run()
        spent.append(time.perf_counter() - start)
    return min(spent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=200, help="training scenes")
    parser.add_argument("--test", type=int, default=100, help="test scenes, with unseen objects")
    parser.add_argument("--batch", type=int, default=8, help="M")
    parser.add_argument("--bank", type=int, default=128, help="draws of the bank, and of the reference of another seed")
    parser.add_argument("--draws", type=int, default=32, help="of a training scene's maps")
    parser.add_argument("--told", type=int, default=0, help="K distilled draws whose variance map the head reads too")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/bench/head"))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(given.threads)
    out: Path = given.output / f"scenes_m{given.batch}_t{given.bank}"
    out.mkdir(parents=True, exist_ok=True)
    network, images = load_network("scenes"), [scene(seed).image for seed in TRAIN]

    def fit(seed: int) -> Callable[[], Bank]:
        return lambda: fit_bank(network, images, batch=given.batch, draws=given.bank, seed=seed)

    bank = load_or_make_bank(out / "bank.safetensors", fit(0))
    reference = load_or_make_bank(out / "reference.safetensors", fit(1001))
    few = None
    if given.told:
        distil = partial(distill_bank, network, bank, images, draws=given.told)
        few = load_or_make_bank(out / f"distilled{given.told}.safetensors", distil)
    training = Items(network, bank, few, given.draws, out / f"train{given.draws}")
    items = [training.item(seed, unseen=False) for seed in TRAIN[: given.train]]
    head = trained_head(items, given.steps)
    testing = Items(network, reference, few, given.bank, out / f"test{given.bank}")
    tested = [testing.item(seed, unseen=True) for seed in TEST[: given.test]]
    with torch.no_grad():
        learnt, made = ([head(item) for item in each] for each in (items, tested))
    scenes = [scene(seed, unseen=True) for seed in TEST[: given.test]]
    labels = [each.label for each in scenes]
    result: dict[str, Any] = {
        "settings": {key: str(value) for key, value in vars(given).items()},
        "training scenes": errors(learnt, items),
        "test scenes": errors(made, tested),
        "seconds": {
            "a pass": seconds(lambda: testing.features(scenes[0].image)),
            "the head": seconds(lambda: head(tested[0])),
        },
        "unseen AUROC": {
            name: {
                "draws": auroc([item.target[at] for item in tested], labels),
                "head": auroc([one[at] for one in made], labels),
            }
            for at, name in enumerate(MAPS)
        },
    }
    text = json.dumps(result, indent=2)
    (given.output / "head.json").write_text(text)
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
