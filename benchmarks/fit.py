"""Recording draws beside as many plain passes of the same images, fp32: `python -m benchmarks.fit [--images SRC]`.

With `--images` also the whole of `segment fit` (reading, training pipeline, audit left out) of a model card's network.
They take turns, round after round; ratios are of the medians of processor seconds and of wall seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segment.batch_norm.layers import BatchNormNetwork, survey
from segment.batch_norm.network import bn_network_of
from segment.draws.image_pool import ImagePool
from segment.draws.large_batches import record_in_parts
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import record
from segment.estimation.memory_budget import KeptPages
from segment.networks.load import load_network

M, SIZE = 8, (384, 480)


def plain(module: nn.Module, batches: list[Tensor], at_once: int) -> None:
    with torch.no_grad():
        for batch in batches:
            for images in torch.split(batch, at_once):
                module(images.contiguous(memory_format=torch.channels_last))


def recorded(network: BatchNormNetwork, batches: Callable[[], list[Tensor]]) -> Callable[[], None]:
    """As `segment fit` on a CPU records them; the trace of the network is part of the first call alone."""
    coming: list[Tensor] = []
    ahead = (coming.pop(0) for _ in itertools.count())
    draws = record_in_parts(network, ahead, at_once=1, keep_bytes=float("inf"))

    def run() -> None:
        coming.extend(batches())
        while coming:
            next(draws)

    return run


def in_one_pass(network: BatchNormNetwork, batches: list[Tensor]) -> None:
    for _ in record(network, batches):
        pass


def turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of processor and wall seconds; the first round warms up."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    pages = KeptPages()
    for _ in range(rounds + 1):
        for name, run in runs.items():
            busy, wall = time.process_time(), time.perf_counter()
            run()
            taken[name].append((time.process_time() - busy, time.perf_counter() - wall))
            pages.settle()
    return {
        name: {of: statistics.median(pair[at] for pair in pairs[1:]) for at, of in enumerate(("processor", "wall"))}
        for name, pairs in taken.items()
    }


def print_ratios(title: str, medians: dict[str, dict[str, float]], first: str) -> dict[str, float]:
    ratios = {}
    sys.stdout.write(f"{title}\n{'':44} processor   wall   {first} / this\n")
    for name, median in medians.items():
        ratios[name] = medians[first]["processor"] / median["processor"]
        by_wall = medians[first]["wall"] / median["wall"]
        sys.stdout.write(
            f"  {name:42} {median['processor']:9.2f} {median['wall']:6.2f}   {ratios[name]:5.2f} {by_wall:5.2f}\n"
        )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", help="SRC of training images")
    parser.add_argument("--model", default="unet_lite0_camvid")
    parser.add_argument("--draws", type=int, default=2, help="in one round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/bench"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    module = smp.Unet("resnet34", encoder_weights=None, classes=11).eval().to(memory_format=torch.channels_last)
    drawn = survey(module, module, torch.rand(1, 3, 128, 128))
    batches = [torch.rand(M, 3, *SIZE) for _ in range(arguments.draws)]
    runs: dict[str, Callable[[], object]] = {
        "draws recorded": recorded(drawn, lambda: batches),
        "draws recorded, all 8 images in one pass": lambda: in_one_pass(drawn, batches),
        "plain passes, 8 images each": lambda: plain(module, batches, M),
        "plain passes, one image each": lambda: plain(module, batches, 1),
    }
    title = f"smp.Unet resnet34, {SIZE[0]}x{SIZE[1]}, {arguments.draws} draws of M = {M}"
    ratios = {title: print_ratios(title, turns(runs, arguments.rounds), "draws recorded")}
    if arguments.images:
        network = load_network(arguments.model)
        pool = ImagePool(network, arguments.images)
        picks = choices(DrawPlan(draws=arguments.draws, batch=M, seed=0), len(pool))
        prepared = list(pool.batches(picks))  # decoded from here on, as in a fit of many draws
        fitted = bn_network_of(network, "all")
        inner = network.module.to(memory_format=torch.channels_last)
        runs = {
            "images prepared and draws recorded": recorded(fitted, lambda: list(pool.batches(picks))),
            "draws recorded": recorded(fitted, lambda: prepared),
            "draws recorded, all 8 images in one pass": lambda: in_one_pass(fitted, prepared),
            "plain passes, 8 images each": lambda: plain(inner, prepared, M),
            "plain passes, one image each": lambda: plain(inner, prepared, 1),
        }
        title = f"{arguments.model}, {'x'.join(map(str, prepared[0].shape[2:]))}, {arguments.draws} draws of M = {M}"
        medians = turns(runs, arguments.rounds)
        ratios[title] = print_ratios(title, medians, "images prepared and draws recorded")
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "fit.json").write_text(json.dumps(ratios, indent=2))


if __name__ == "__main__":
    main()
