"""Seconds and error of variance maps that should be as good: from K distilled draws, and from torch-uncertainty's 64.

    python -m benchmarks.equal_quality FOLDER --draws K

FOLDER is that of `python -m benchmarks.distill`, for its network, test images, banks and reference. The contenders take
turns, an image in each round. Each makes maps of variance, predictive entropy and mutual information, and the error is
that of the variance maps that were timed.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from benchmarks.distill import merge_halves, part, relative_l1
from benchmarks.passes import MEASURES, THREADS, torch_uncertainty
from benchmarks.turns import answer_lines, take_turns
from segment import MCBN, load_bank, load_network
from segment.draws.image_pool import ImagePool
from segment.draws.minibatches import DrawPlan, choices
from segment.files.writing import write_json
from segment.images.find import find_images
from segment.images.prepare import crop, normalise, pad
from segment.images.read import read_source
from segment.networks.load import Network
from segment.passes.fused.onednn import has_bfloat16

PLAIN = 64
"""Draws that are not distilled: the rival's, and ours beside them."""
RIVALS_SEED = 2
"""Of the rival's mini-batches: neither the bank's seed nor the reference's."""

MapOf = Callable[[Tensor], Tensor]
"""A normalised image (1 C H W) to its variance (H W), the mean over classes."""


@dataclass(frozen=True)
class Measured:
    """What `benchmarks.distill` left: its settings, the ids of its images, and its files."""

    folder: Path
    settings: dict[str, str]
    images: list[str]

    def network(self) -> Network:
        return load_network(self.settings["model"])

    def reference(self, image: str) -> Tensor:  # H W
        name = f"{image.replace('/', '_')}.pt"
        half = int(self.settings["reference"]) // 2
        moments = [[torch.load(self.folder / f"reference{start}" / name)] for start in (0, half)]
        return merge_halves(*moments)[0][1].mean(dim=0)

    def normalised(self, network: Network) -> list[Tensor]:  # each 1 C H W
        sources = {source.id: source for source in find_images(self.settings["test"])}
        return [
            normalise(read_source(sources[image], network.input).pixels, network.card.input)[None]
            for image in self.images
        ]


def measured_in(folder: Path) -> Measured:
    kept = json.loads((folder / "distill.json").read_text())
    return Measured(folder=folder, settings=kept["settings"], images=kept["images"])


def ours(measured: Measured, network: Network, file: str, precision: str, draws: int | None = None) -> MapOf:
    bank = load_bank(measured.folder / file)
    method = MCBN(network, bank if draws is None else part(bank, 0, draws), precision=precision)
    return lambda image: method(image, MEASURES).variance[0]


def rival(measured: Measured, network: Network, *, tuned: bool) -> MapOf:
    pool = ImagePool(network, measured.settings["train"])
    plan = DrawPlan(draws=PLAIN, batch=int(measured.settings["batch"]), seed=RIVALS_SEED)
    module = activations_apart(copy.deepcopy(network.module))
    maps = torch_uncertainty(module, list(pool.batches(choices(plan, len(pool)))), tuned=tuned)
    spec = network.card.input
    return lambda image: crop(maps(pad(image, spec))[0], *image.shape[-2:])


def activations_apart(module: nn.Module) -> nn.Module:
    """The module with timm's BN layers that hold an activation as two: torch-uncertainty's layer would drop it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNormAct2d):
                plain = nn.BatchNorm2d(child.num_features, eps=child.eps)
                plain.load_state_dict(child.state_dict())
                setattr(parent, name, nn.Sequential(plain, child.drop, child.act).eval())
    return module


def contenders(draws: int) -> dict[str, Callable[[Measured, Network], MapOf]]:
    file = f"distilled{draws}.safetensors"
    made: dict[str, Callable[[Measured, Network], MapOf]] = {
        f"torch-uncertainty, as documented, {PLAIN} draws": lambda m, n: rival(m, n, tuned=False),
        f"segment, fp32, {PLAIN} draws": lambda m, n: ours(m, n, "bank.safetensors", "fp32", PLAIN),
        f"segment, fp32, {draws} distilled draws": lambda m, n: ours(m, n, file, "fp32"),
    }
    if has_bfloat16():
        made |= {
            f"torch-uncertainty, bf16, channels_last, {PLAIN} draws": lambda m, n: rival(m, n, tuned=True),
            f"segment, bf16, {PLAIN} draws": lambda m, n: ours(m, n, "bank.safetensors", "bf16", PLAIN),
            f"segment, bf16, {draws} distilled draws": lambda m, n: ours(m, n, file, "bf16"),
        }
    return made


def contend(name: str, measured: Measured, draws: int, out: Path) -> None:
    """One contender, in a process of its own: the first image to warm up, then each in turn."""
    torch.set_num_threads(THREADS)
    network = measured.network()
    variance_of = contenders(draws)[name](measured, network)
    images = measured.normalised(network)
    rounds = iter([(images[0], "warm_up"), *zip(images, measured.images, strict=True)])
    maps: dict[str, Tensor] = {}

    def run() -> None:
        image, its_id = next(rounds)
        maps[its_id] = variance_of(image)

    answer_lines(run)
    torch.save(maps, out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of benchmarks.distill")
    parser.add_argument("--draws", type=int, required=True, help="K of the distilled bank in it")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    measured, draws = measured_in(arguments.folder), arguments.draws
    files = {name: measured.folder / f"equal_quality{number}.pt" for number, name in enumerate(contenders(draws))}
    if arguments.contender:
        contend(arguments.contender, measured, draws, files[arguments.contender])
        return
    command = [sys.executable, "-m", "benchmarks.equal_quality", str(measured.folder), "--draws", str(draws)]
    seconds = take_turns({name: [*command, "--contender", name] for name in files}, len(measured.images))
    ours_distilled = list(files)[-1]
    if ours_distilled not in seconds:
        raise SystemExit(f"{ours_distilled!r} did not run, so there are no ratios.")
    median = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = {name: value / median[ours_distilled] for name, value in median.items()}
    references = [measured.reference(image) for image in measured.images]
    maps = {name: torch.load(files[name]) for name in seconds}
    errors = {name: relative_l1((of[image] for image in measured.images), references) for name, of in maps.items()}
    lines = [f"{'':50} seconds   time / {ours_distilled}   relative L1 error"]
    lines += [f"{name:50} {median[name]:7.3f}   {ratios[name]:5.2f}   {errors[name]:.3f}" for name in seconds]
    sys.stdout.write("\n".join(lines) + "\n")
    result = {"images": len(measured.images), "median": median, "ratios": ratios, "errors": errors, "seconds": seconds}
    write_json(measured.folder / "equal_quality.json", result)


if __name__ == "__main__":
    main()
