"""Log-likelihood against the number of draws: how many passes MCBN needs, on CIFAR-10 with a ResNet32.

Must not know how a pass is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.draws.minibatches import DrawPlan
from segment.errors import WrongUse
from segment.experiments.cifar.curve import ORDERS, REPLICATES, Curve, curve_of, interval, joined, share_by
from segment.experiments.cifar.figures import draw_curves
from segment.experiments.cifar.kept import kept_curves
from segment.experiments.cifar.network import (
    WEIGHTS,
    all_passes,
    bank_of,
    drawn_network,
    normalised,
    read_images,
)
from segment.experiments.reporting import (
    Budget,
    Progress,
    Row,
    Verdict,
    judged_by,
    write_page,
    write_table,
)
from segment.experiments.weights import weights_in
from segment.files.reading import file_bytes
from segment.files.writing import check_writable
from segment.methods.deterministic import deterministic
from segment.methods.mcbn import mcbn, mean_statistics
from segment.passes.passes import FAST

FLAT = 8
"""Draws after which the paper's curve is flat."""


ENOUGH = 0.8
"""Share of the whole gain by then that counts as nearly flat."""


RECORDED = 0.928
"""Accuracy of the trained statistics that was recorded on the original test images."""


@dataclass(frozen=True, kw_only=True)
class CifarPlan:
    """draws: T of each bank, a power of two above 8; banks: how many of each M, of a seed of their own.

    images: test images, as many of each class (at most 100)
    """

    draws: int = 256
    banks: Mapping[int, int] = field(default_factory=lambda: {32: 10, 128: 1})
    images: int = 1000

    @property
    def judged(self) -> int:
        """The M that the claims are of, as the paper's curve is of one: the first."""
        return next(iter(self.banks))


PLANS: Mapping[Budget, CifarPlan] = {
    "paper": CifarPlan(),
    "quick": CifarPlan(draws=128, banks={32: 1}, images=200),
}


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: CifarPlan | None = None,
) -> list[Verdict]:
    """Write the curve, its table and the page; the curves of each bank are kept in `out/kept`, to go on from."""
    check_writable(out / "page.md")
    plan, say = plan or PLANS[budget], progress or (lambda _: None)
    network = drawn_network(data)
    train, _ = read_images(data, "train1000")
    pixels, labels = read_images(data, "test1000")
    for name, count, least in (
        ("train1000", len(train), max(plan.banks)),
        ("test1000", len(labels), plan.images),
    ):
        if count < least:
            path = data / "cifar10" / f"{name}.npz"
            raise WrongUse(f"{str(path)!r} holds {count} images, and the experiment takes {least} or more.")
    chosen = np.arange(0, len(labels), len(labels) // plan.images)[: plan.images]  # the file is sorted by class
    images, labels = normalised(pixels[chosen]), labels[chosen]
    inputs = hashlib.sha256(file_bytes(weights_in(data, WEIGHTS)))
    for array in (train, pixels, chosen, labels):
        inputs.update(np.ascontiguousarray(array).tobytes())
    curves: dict[int, Curve] = {}
    single: dict[str, Curve] = {}
    for batch, banks in plan.banks.items():
        by_bank: list[Curve] = []
        by_mean: list[Curve] = []
        for number in range(banks):
            say_it = partial(say, f"cifar: {plan.draws} draws of M = {batch}, bank {number + 1} of {banks}")
            drawing = DrawPlan(draws=plan.draws, batch=batch, seed=seed + number)
            kept = kept_curves(
                out / "kept" / f"M{batch}-{number + 1}.npz",
                {**asdict(drawing), "order": seed, "orders": ORDERS, "inputs": inputs.hexdigest()},
                partial(_bank_curves, network, train, drawing, images, labels, seed, say_it),
            )
            by_bank.append(kept["mcbn"])
            by_mean.append(kept["mean statistics"])
        curves[batch] = joined(by_bank)
        single[f"mean statistics, M = {batch}"] = joined(by_mean)
    single["trained statistics"] = curve_of(all_passes(deterministic(network, plan=FAST), images), labels, seed=seed)
    rows = _rows(curves, single, seed)
    table = write_table(out, "cifar", rows, shown=_shown(rows))
    draw_curves(out, curves, single, flat=FLAT, seed=seed)
    verdicts = _verdicts(curves[plan.judged], single["trained statistics"], plan.judged, seed)
    write_page(
        out,
        "CIFAR-10: log-likelihood against draws",
        _opening(plan, budget, seed, float(single["trained statistics"].hits.mean())),
        verdicts,
        {
            "Log-likelihood by number of draws": f"{table}\n![Log-likelihood against draws](cifar.png)",
        },
    )
    return verdicts


def _bank_curves(
    network: BatchNormNetwork,
    train: NDArray[np.uint8],
    drawing: DrawPlan,
    images: Tensor,
    labels: NDArray[np.uint8],
    seed: int,
    say: Callable[[], None],
) -> dict[str, Curve]:
    """The curves of one bank: of its draws, and of one pass with their mean."""
    say()
    bank = bank_of(network, train, drawing)
    methods = {"mcbn": mcbn(network, bank, FAST), "mean statistics": mean_statistics(network, bank, FAST)}
    return {name: curve_of(all_passes(method, images), labels, seed=seed) for name, method in methods.items()}


def _rows(curves: Mapping[int, Curve], single: Mapping[str, Curve], seed: int) -> list[dict[str, Any]]:
    named = [(f"MCBN, M = {batch}", curve) for batch, curve in curves.items()] + list(single.items())
    rows = []
    for name, curve in named:
        for place, draws in enumerate(curve.draws):
            likelihood = curve.likelihood[:, place]
            low, high = interval(likelihood, seed=seed)
            gain = likelihood - curve.likelihood[:, 0]
            gain_low, gain_high = interval(gain, seed=seed)
            rows.append(
                {
                    "method": name,
                    "draws": draws,
                    "PLL": float(likelihood.mean()),
                    "low": low,
                    "high": high,
                    "sd between banks": float(curve.bank_sd[place]),
                    "gain over one draw": float(gain.mean()),
                    "gain low": gain_low,
                    "gain high": gain_high,
                    "accuracy": float(curve.hits[:, place].mean()),
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


def _verdicts(curve: Curve, trained: Curve, batch: int, seed: int) -> list[Verdict]:
    whole, last, first = curve.draws[-1], curve.likelihood[:, -1], curve.likelihood[:, 0]
    share, low, high = share_by(curve, FLAT, seed=seed)
    rest = last - curve.likelihood[:, curve.draws.index(FLAT)]
    against = last - trained.likelihood[:, 0]
    against_low, against_high = interval(against, seed=seed)
    gain_low, gain_high = interval(last - first, seed=seed)
    return [
        Verdict(
            experiment="cifar",
            claim="Averaging over draws raises the log-likelihood above that of a single draw",
            outcome=judged_by(gain_low, gain_high, least=0),
            numbers=f"M = {batch}, from 1 to {whole} draws: {(last - first).mean():+.3f} nats an image, "
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
            numbers=f"{whole} draws of M = {batch}: {last.mean():.3f} against {trained.likelihood.mean():.3f}; "
            f"difference {against.mean():+.3f}, 95 % interval {against_low:.3f} to {against_high:.3f}",
        ),
        Verdict(
            experiment="cifar",
            claim="The heights of the paper's curve",
            outcome="not testable here",
            numbers="the weights at hand were trained with M = 128, not 32; accuracy "
            f"{trained.hits.mean():.3f} on these images, where {RECORDED} was recorded on CIFAR-10's test set",
        ),
    ]


def _opening(plan: CifarPlan, budget: Budget, seed: int, accuracy: float) -> str:
    banks = " and ".join(
        f"{count} bank{'s' if count > 1 else ''} of M = {batch}" for batch, count in plan.banks.items()
    )
    over = "images and banks" if max(plan.banks.values()) > 1 else "images"
    return f"""
Budget `{budget}`, seed {seed}. ResNet32 with 31 stochastic BN layers; {banks}, each of a seed of its own and of
{plan.draws} draws among 1000 training images, flipped and shifted as in training; {plan.images} test images, as many
of each class. The trained statistics are right on {accuracy:.1%} of them, where {RECORDED:.1%} was recorded on
CIFAR-10's test set; lossy JPEG copies of it, as the project's own results are of, give about 84 %.

PLL: mean over images of the log of the mean over draws of p, nats. A number of draws below {plan.draws} stands for
{ORDERS} random subsets of each bank. Intervals: {REPLICATES} bootstrap replicates over {over}, the same ones
everywhere, so that gains are paired; the sd between banks is that of the mean over images.
"""
