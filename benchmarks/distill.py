"""How near K distilled draws come to a whole bank, on test images.

    python -m benchmarks.distill --train SRC --test SRC [--views-from SRC]

The reference for all is the variance map of a bank of another seed. Its own error is estimated from its two halves: two
independent halves of n draws each differ by about twice what all 2n draws are off (errors fall as 1 / sqrt(T)).
Banks and moments are kept in the output folder, so that a run that was stopped continues.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.image_lists import evenly_spaced
from segment.distilling.distill import DistillPlan, Observed, distill
from segment.distilling.refine import RefinePlan
from segment.draws.bank import Bank
from segment.draws.identity import network_of_bank
from segment.draws.image_pool import ImagePool
from segment.estimation.estimate import moments_of
from segment.files.banks.bank_file import load_bank, save_bank
from segment.files.banks.unfinished import PartialTensors
from segment.images.find import Source, find_images
from segment.images.prepare import normalise
from segment.images.read import read_source
from segment.jobs.distill import cut_views, observe_in_parts
from segment.jobs.fit import fit_bank
from segment.methods.mcbn import mcbn
from segment.networks.load import Network, load_network
from segment.passes.passes import FAST

log = logging.getLogger(__name__)

DECIDING = 16
"""Held-out views, which decide the step, as `segment distill` takes them."""
Moments = list[tuple[Tensor, Tensor]]
"""Of each image the mean over draws and the variance, each (K H W)."""


def part(bank: Bank, start: int, stop: int) -> Bank:
    """Some draws in a row, equal weights."""
    return bank.with_draws(
        torch.full((stop - start,), 1.0 / (stop - start)),
        {name: value[start:stop] for name, value in bank.mean.items()},
        {name: value[start:stop] for name, value in bank.var.items()},
    )


def counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def moments(network: Network, bank: Bank, sources: Sequence[Source], kept: Path) -> Moments:
    """Moments of whole images under a bank, in fp32; one file an image."""
    kept.mkdir(parents=True, exist_ok=True)
    method = mcbn(network_of_bank(network, bank), bank, FAST, network.card.input)
    moments_of_images = []
    for source in sources:
        file = kept / f"{source.id.replace('/', '_')}.pt"
        if not file.is_file():
            pixels = read_source(source, network.input).pixels
            images = normalise(pixels, network.card.input)[None]
            accumulator = moments_of(method, images, head=network.card.head, keep=("square",))
            torch.save((accumulator.mean[0], accumulator.variance[0]), file.with_suffix(".part"))
            file.with_suffix(".part").rename(file)
        moments_of_images.append(torch.load(file))
    return moments_of_images


def error(estimate: Moments, reference: Moments) -> float:
    """Relative L1 error of the variance maps, each the mean over classes."""
    of_maps = [(v.mean(dim=0), w.mean(dim=0)) for (_, v), (_, w) in zip(estimate, reference, strict=True)]
    return relative_l1(*zip(*of_maps, strict=True))


def relative_l1(maps: Iterable[Tensor], references: Iterable[Tensor]) -> float:
    """Over all pixels of all maps: sum |v - v_ref| / sum v_ref."""
    off, whole = 0.0, 0.0
    for own, reference in zip(maps, references, strict=True):
        off, whole = off + float((own - reference).abs().sum()), whole + float(reference.sum())
    return off / whole


def merge_halves(first: Moments, second: Moments) -> Moments:
    """Moments of a whole bank from those of its two halves (Chan, Golub & LeVeque 1983)."""
    return [((m + n) / 2, (v + w) / 2 + ((m - n) / 2) ** 2) for (m, v), (n, w) in zip(first, second, strict=True)]


def report(stage: str, done: int, total: int, draws: int = 0) -> None:
    """A line for every tenth of the steps."""
    if done % max(1, total // 10) == 0:
        log.info("%s: %d of %d", stage, done, total)


def load_or_make_bank(file: Path, make: Callable[[], Bank]) -> Bank:
    if not file.is_file():
        save_bank(make(), file)
    return load_bank(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="unet_lite0_camvid")
    parser.add_argument("--train", required=True, help="SRC of the training images")
    parser.add_argument(
        "--views-from", help="SRC of unlabelled images to distil on, none of the test; default: --train"
    )
    parser.add_argument("--test", required=True, help="SRC of the test images")
    parser.add_argument("--count", type=int, default=10, help="test images, evenly spaced in the list")
    parser.add_argument("--batch", type=int, default=8, help="M")
    parser.add_argument("--bank", type=int, default=256, help="draws of the bank that is distilled, seed 0")
    parser.add_argument("--reference", type=int, default=256, help="draws of the reference, seed 1001")
    parser.add_argument("--draws", default="8", help="K, one or more with commas")
    parser.add_argument("--views", type=int, default=128)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--together", type=int, default=2, help="views in one step")
    parser.add_argument("--sizes", default="8,16,32,64,128,256", help="T of the plain draws it is held against")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/bench/distill"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.output
    out.mkdir(parents=True, exist_ok=True)
    network = load_network(arguments.model)
    every = find_images(arguments.test)
    sources = [every[index] for index in evenly_spaced(len(every), arguments.count)]
    learnt_from = arguments.views_from or arguments.train
    if shared := {source.id for source in find_images(learnt_from)} & {source.id for source in sources}:
        parser.error(f"--views-from holds images that are measured on: {min(shared)}")

    def fit(seed: int, draws: int) -> Callable[[], Bank]:
        return lambda: fit_bank(network, arguments.train, batch=arguments.batch, draws=draws, seed=seed)

    bank = load_or_make_bank(out / "bank.safetensors", fit(0, arguments.bank))
    reference = load_or_make_bank(out / "reference.safetensors", fit(1001, arguments.reference))
    half = len(reference) // 2
    halves = [
        moments(network, part(reference, start, start + half), sources, out / f"reference{start}")
        for start in (0, half)
    ]
    truth = merge_halves(*halves)
    row = plain_errors(counts(arguments.sizes), network, bank, sources, truth, out)
    learn = cache(lambda: observed(network, bank, learnt_from, arguments.views, out / "observed.safetensors"))
    for draws in counts(arguments.draws):
        small, made = distilled(draws, arguments, network, bank, learn, out)
        found = moments(network, small, sources, out / f"distilled{draws}")
        row |= {**made, f"distilled, K = {draws}": error(found, truth)}
    row["halves of the reference against each other"] = error(halves[0], halves[1])
    row["the reference itself, estimated"] = row["halves of the reference against each other"] / 2
    lines = [f"{'relative L1 error of the variance map':48} {arguments.count} test images"]
    lines += [f"{name:48} {value:.3f}" for name, value in row.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    images = [source.id for source in sources]
    result = {"settings": {key: str(value) for key, value in vars(arguments).items()}, "images": images, "errors": row}
    (out / "distill.json").write_text(json.dumps(result, indent=2))


def plain_errors(
    sizes: Sequence[int], network: Network, bank: Bank, sources: Sequence[Source], truth: Moments, out: Path
) -> dict[str, float]:
    """Of the first T draws of the bank, of the next T, and so on up to four times in its first half: the mean error."""
    row = {}
    for size in sizes:
        starts = range(0, min(4 * size, len(bank) // 2), size) if size < len(bank) else range(int(size == len(bank)))
        plain = [moments(network, part(bank, at, at + size), sources, out / f"plain{size}_{at}") for at in starts]
        if plain:
            row[f"plain, T = {size}, mean of {len(plain)}"] = statistics.fmean(error(v, truth) for v in plain)
    return row


def observed(network: Network, bank: Bank, images: str, views: int, kept: Path) -> tuple[Observed, Observed]:
    """What the bank gives on views of these images, and on held-out ones; parts of it are kept beside a file."""
    own, others = cut_views(ImagePool(network, images), views, DECIDING, seed=0)
    drawn, head = network_of_bank(network, bank), network.card.head
    files = PartialTensors(kept, f"{views} views")
    return observe_in_parts(drawn, bank, (own, others), head, files, progress=report)


def distilled(
    draws: int,
    arguments: argparse.Namespace,
    network: Network,
    bank: Bank,
    learn: Callable[[], tuple[Observed, Observed]],
    out: Path,
) -> tuple[Bank, dict[str, float]]:
    """K draws and what making them gave, both kept in files; a call that was stopped goes on."""
    name, file = f"distilled, K = {draws}", out / f"distilled{draws}.safetensors"
    if not file.with_suffix(".json").is_file():
        learnt, others = learn()
        kept = PartialTensors(file, f"{arguments.views} views, {arguments.steps} x {arguments.together}")
        plan = DistillPlan(draws=draws, refine=RefinePlan(steps=arguments.steps, together=arguments.together))
        drawn, start, begun = network_of_bank(network, bank), time.perf_counter(), kept.load()
        made = distill(drawn, bank, learnt, others.targets, network.card.head, plan, report, begun, kept.keep)
        row = {
            "the bank's passes over views, seconds": learnt.seconds + others.seconds,
            f"{name}, on held-out views before it is refined": made.chosen_error,
            f"{name}, on held-out views": made.error,
        }
        if begun is None:
            row[f"{name}, seconds after the bank's passes"] = time.perf_counter() - start
        save_bank(made.bank, file)
        file.with_suffix(".json").write_text(json.dumps(row))
        kept.remove()
    return load_bank(file), json.loads(file.with_suffix(".json").read_text())


if __name__ == "__main__":
    main()
