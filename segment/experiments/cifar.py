"""Log-likelihood against the number of draws: how many passes MCBN needs, on CIFAR-10 with a ResNet32.

Must not know how the network was trained beyond what a mini-batch looked like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.draws.bank import Bank
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import record
from segment.errors import WrongUse
from segment.experiments.regression.predictive import Array
from segment.experiments.reporting import (
    COLOURS,
    INK,
    MUTED,
    Budget,
    Progress,
    Row,
    Verdict,
    judged_by,
    new_figure,
    styled,
    write_figure,
    write_page,
    write_table,
)
from segment.files.writing import check_writable
from segment.images.augment import pipeline
from segment.images.prepare import prepare
from segment.images.specs import InputSpec
from segment.methods.deterministic import deterministic
from segment.methods.mcbn import mcbn, mean_statistics
from segment.methods.method import Method
from segment.networks.architectures.resnet import ResNet32
from segment.networks.cards import IMAGENET_MEAN, IMAGENET_STD
from segment.networks.weights import load_weights
from segment.passes.passes import PassPlan
from segment.scores.intervals import middle_95
from segment.tracing.bn_layers import BatchNormNetwork, survey
from segment.uncertainty.heads import probabilities

INPUT = InputSpec(mean=IMAGENET_MEAN, std=IMAGENET_STD)
TRANSFORMS: tuple[Mapping[str, Any], ...] = (
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "Pad", "padding": 4, "fill": 0},
    {"name": "RandomCrop", "height": 32, "width": 32},
)
"""What training did to an image, and so what a mini-batch of statistics repeats."""
FLAT = 8
"""Draws after which the paper's curve is flat."""
ENOUGH = 0.8
"""Share of the whole gain by then that counts as nearly flat."""
REPLICATES = 1000
ORDERS = 200
AT_ONCE = 250  # images in one pass
PLAN = PassPlan(channels_last=True, fuse=True)


@dataclass(frozen=True, kw_only=True)
class CifarPlan:
    """draws: T, a power of two above 8; batches: each M; images: test images, as many of each class (at most 100)."""

    draws: int = 256
    batches: tuple[int, ...] = (32, 128)
    images: int = 1000


PLANS: Mapping[Budget, CifarPlan] = {"paper": CifarPlan(), "quick": CifarPlan(draws=128, batches=(32,), images=200)}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Per image, for each number of draws: log of the mean p of the true class, nats; and its mean hits.

    draws: (S); likelihood, hits: (S, N), means over orders of the bank; bank_sd: (S), of the mean likelihood between
    banks, nan for the whole bank
    """

    draws: tuple[int, ...]
    likelihood: Array
    hits: Array
    bank_sd: Array


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: CifarPlan | None = None,
) -> list[Verdict]:
    """Write the curve, its table and the page."""
    check_writable(out / "page.md")
    plan, say = plan or PLANS[budget], progress or (lambda _: None)
    network = drawn_network(data)
    train, _ = read_images(data, "train1000")
    pixels, labels = read_images(data, "test1000")
    chosen = np.arange(0, len(labels), len(labels) // plan.images)[: plan.images]  # the file is sorted by class
    images, labels = normalised(pixels[chosen]), labels[chosen]
    curves: dict[int, Curve] = {}
    passes: dict[str, Array] = {}
    for batch in plan.batches:
        say(f"cifar: {plan.draws} draws of M = {batch}")
        bank = bank_of(network, train, DrawPlan(draws=plan.draws, batch=batch, seed=seed))
        say(f"cifar: passes under M = {batch}")
        curves[batch] = curve(all_passes(mcbn(network, bank, PLAN), images), labels, seed=seed)
        passes[f"mean statistics, M = {batch}"] = all_passes(mean_statistics(network, bank, PLAN), images)
    passes["trained statistics"] = all_passes(deterministic(network, plan=PLAN), images)
    single = {name: curve(p, labels, seed=seed) for name, p in passes.items()}
    rows = _rows(curves, single, seed)
    table = write_table(out, "cifar", rows, shown=_shown(rows))
    _figure(out, curves, single, seed)
    verdicts = _verdicts(curves[plan.batches[0]], single["trained statistics"], plan.batches[0], seed)
    write_page(
        out,
        "CIFAR-10: log-likelihood against draws",
        _opening(plan, budget, seed),
        verdicts,
        {
            "Log-likelihood by number of draws": f"{table}\n![Log-likelihood against draws](cifar.png)",
        },
    )
    return verdicts


def drawn_network(data: Path) -> BatchNormNetwork:
    """The trained ResNet32 with its 31 BN layers. Error: WeightsRefused where its file is not there or is another's."""
    module = ResNet32()
    load_weights(module, data / "weights" / "resnet32_cifar10.safetensors")
    module.eval()
    return survey(module, module, torch.zeros(2, 3, 32, 32))


def read_images(data: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:  # N 32 32 3, N
    """Images and labels of `cifar10/<name>.npz`. Error: WrongUse where the file is not there or not whole."""
    path = data / "cifar10" / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["images"], archive["labels"]
    except (OSError, ValueError, KeyError) as problem:
        raise WrongUse(
            f"{str(path)!r} does not read as CIFAR-10 images ({problem}). Name the folder of data."
        ) from None


def normalised(images: NDArray[np.uint8]) -> Tensor:  # N H W 3 -> N 3 H W
    return torch.stack([prepare(image, INPUT) for image in images])


def bank_of(network: BatchNormNetwork, images: NDArray[np.uint8], plan: DrawPlan) -> Bank:
    """Draws from mini-batches that look as in training."""
    look = pipeline(TRANSFORMS)
    picks = choices(plan, len(images))
    batches = (
        normalised(np.stack([look(images[index], own) for index, own in zip(pick.images, pick.seeds, strict=True)]))
        for pick in picks
    )
    return Bank.of_draws(list(record(network, batches)))


def all_passes(method: Method, images: Tensor) -> Array:  # N 3 H W -> T N K
    """Class probabilities of every pass; kept, for they are few here and subsets of the draws are looked at."""
    parts = [
        torch.stack([probabilities(output, "softmax") for _, output in method(images[start : start + AT_ONCE])])
        for start in range(0, len(images), AT_ONCE)
    ]
    found: Array = torch.cat(parts, dim=1).double().numpy()
    return found


def curve(passes: Array, labels: NDArray[np.integer], *, seed: int) -> Curve:  # T N K, N
    """Likelihood and accuracy of the first 1, 2, 4 ... T draws, each the mean over random orders of the draws."""
    draws = len(passes)
    counts = tuple(2**power for power in range(draws.bit_length()) if 2**power <= draws)
    rng = np.random.default_rng([seed, 8])
    orders = [rng.permutation(draws) for _ in range(ORDERS if draws > 1 else 1)]
    likelihood, hits = np.zeros((len(counts), len(labels))), np.zeros((len(counts), len(labels)))
    means = np.zeros((len(orders), len(counts)))
    for number, order in enumerate(orders):
        for place, count in enumerate(counts):
            mean = passes[order[:count]].mean(axis=0)  # N K
            logs = np.log(mean[np.arange(len(labels)), labels])
            means[number, place] = logs.mean()
            likelihood[place] += logs / len(orders)
            hits[place] += (mean.argmax(axis=1) == labels) / len(orders)
    with np.errstate(divide="ignore", invalid="ignore"):
        # subsets of one bank share draws: S out of T vary by the factor (1 - S/T) less than independent banks would
        bank_sd = means.std(axis=0) / np.sqrt(1 - np.array(counts) / draws)
    return Curve(
        draws=counts, likelihood=likelihood, hits=hits, bank_sd=np.where(np.isfinite(bank_sd), bank_sd, np.nan)
    )


def interval(values: Array, *, seed: int) -> tuple[float, float]:  # N -> low, high
    """95 % interval of a mean over images, by a bootstrap over them (the same images for every call of one seed)."""
    return middle_95(_replicates(values[None], seed)[0])


def _replicates(values: Array, seed: int) -> Array:  # X N -> X R
    rng = np.random.default_rng([seed, 9])
    drawn = rng.multinomial(values.shape[1], np.full(values.shape[1], 1 / values.shape[1]), size=REPLICATES)
    found: Array = values @ drawn.T / values.shape[1]
    return found


def share_by(found: Curve, draws: int, *, seed: int) -> tuple[float, float, float]:
    """Share of the gain from one draw to the whole bank that that many draws have, and its 95 % interval."""
    place = found.draws.index(draws)
    gains = found.likelihood[[place, -1]] - found.likelihood[0]
    part, whole = gains.mean(axis=1)
    replicates = _replicates(gains, seed)
    return float(part / whole), *middle_95(replicates[0] / replicates[1])


def _rows(curves: Mapping[int, Curve], single: Mapping[str, Curve], seed: int) -> list[dict[str, Any]]:
    named = [(f"MCBN, M = {batch}", found) for batch, found in curves.items()] + list(single.items())
    rows = []
    for name, found in named:
        for place, draws in enumerate(found.draws):
            low, high = interval(found.likelihood[place], seed=seed)
            gain = found.likelihood[place] - found.likelihood[0]
            gain_low, gain_high = interval(gain, seed=seed)
            rows.append(
                {
                    "method": name,
                    "draws": draws,
                    "PLL": float(found.likelihood[place].mean()),
                    "low": low,
                    "high": high,
                    "sd between banks": float(found.bank_sd[place]),
                    "gain over one draw": float(gain.mean()),
                    "gain low": gain_low,
                    "gain high": gain_high,
                    "accuracy": float(found.hits[place].mean()),
                }
            )
    return rows


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [
        {
            "method": row["method"],
            "draws": row["draws"],
            "PLL (95 %)": f"{row['PLL']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
            "sd between banks": row["sd between banks"],
            "gain over one draw": "–"
            if row["draws"] == 1
            else f"{row['gain over one draw']:.3f} ({row['gain low']:.3f} to {row['gain high']:.3f})",
            "accuracy": row["accuracy"],
        }
        for row in rows
    ]


def _verdicts(found: Curve, trained: Curve, batch: int, seed: int) -> list[Verdict]:
    whole, last = found.draws[-1], found.likelihood[-1]
    share, low, high = share_by(found, FLAT, seed=seed)
    rest = last - found.likelihood[found.draws.index(FLAT)]
    against = last - trained.likelihood[0]
    against_low, against_high = interval(against, seed=seed)
    gain_low, gain_high = interval(last - found.likelihood[0], seed=seed)
    return [
        Verdict(
            experiment="cifar",
            claim="Averaging over draws raises the log-likelihood above that of a single draw",
            outcome=judged_by(gain_low, gain_high, least=0),
            numbers=f"M = {batch}, from 1 to {whole} draws: {(last - found.likelihood[0]).mean():+.3f} nats an image, "
            f"95 % interval {gain_low:.3f} to {gain_high:.3f}",
        ),
        Verdict(
            experiment="cifar",
            claim=f"The log-likelihood has {ENOUGH:.0%} of its gain by {FLAT} draws",
            outcome=judged_by(low, high, least=ENOUGH),
            numbers=f"{FLAT} draws have {share:.0%} ({low:.0%} to {high:.0%}) of what {whole} gain; what is "
            f"left is {rest.mean():.4f} nats an image",
        ),
        Verdict(
            experiment="cifar",
            claim="MCBN's log-likelihood is above that of one pass under the trained statistics",
            outcome=judged_by(against_low, against_high, least=0),
            numbers=f"{whole} draws of M = {batch}: {last.mean():.3f} against {trained.likelihood[0].mean():.3f}; "
            f"difference {against.mean():+.3f}, 95 % interval {against_low:.3f} to {against_high:.3f}",
        ),
        Verdict(
            experiment="cifar",
            claim="The heights of the paper's curve",
            outcome="not testable here",
            numbers="the weights at hand were trained with M = 128, not 32, and the images are lossy JPEG copies: "
            f"accuracy {trained.hits[0].mean():.3f} on them, where 0.928 was recorded on the original ones",
        ),
    ]


def _figure(out: Path, curves: Mapping[int, Curve], single: Mapping[str, Curve], seed: int) -> None:
    figure = new_figure(8.2, 3.6)
    left, right = figure.subplots(1, 2)
    colours = (COLOURS["mcbn"], COLOURS["mnf"], COLOURS["ensemble"])
    for (batch, found), colour in zip(curves.items(), colours, strict=False):
        for axes, values in ((left, found.likelihood), (right, found.likelihood - found.likelihood[0])):
            ends = np.array([interval(value, seed=seed) for value in values])
            axes.fill_between(found.draws, ends[:, 0], ends[:, 1], color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                found.draws,
                values.mean(axis=1),
                "o-",
                color=colour,
                linewidth=1.8,
                markersize=4,
                label=f"MCBN, M = {batch}",
            )
    height = float(single["trained statistics"].likelihood.mean())
    left.axhline(height, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="trained statistics, one pass")
    mean_of_bank = next(value for name, value in single.items() if name.startswith("mean"))
    left.axhline(
        float(mean_of_bank.likelihood.mean()),
        color=COLOURS["trained statistics"],
        linewidth=1.4,
        linestyle=(0, (1, 1.5)),
        label=f"the bank's mean statistics, M = {next(iter(curves))}",
    )
    right.axvline(FLAT, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    last = max(found.draws[-1] for found in curves.values())
    for axes, title in ((left, "nats an image"), (right, "nats above one draw, paired")):
        styled(axes)
        axes.set_xscale("log", base=2)
        ticks = [2**power for power in range(last.bit_length())]
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("draws")
        axes.set_title(f"Log-likelihood, {title}", loc="left", color=INK, fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK)
    write_figure(figure, out, "cifar")


def _opening(plan: CifarPlan, budget: Budget, seed: int) -> str:
    return f"""
Budget `{budget}`, seed {seed}. ResNet32 with 31 stochastic BN layers; {plan.draws} draws of M = {_listed(plan.batches)}
among 1000 training images, flipped and shifted as in training; {plan.images} test images, as many of each class. The
images are lossy JPEG copies of CIFAR-10, so that accuracy is about 84 %, not the 92.8 % of the original ones.

PLL: mean over images of the log of the mean over draws of p, nats. A number of draws below {plan.draws} stands for
{ORDERS} random subsets of the bank. Intervals: {REPLICATES} bootstrap replicates over images, the same ones
everywhere, so that gains are paired; the sd between banks is that of the mean over images.
"""


def _listed(values: Sequence[int]) -> str:
    return " and ".join(str(value) for value in values)
