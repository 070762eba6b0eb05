"""The equivalence that MCBN rests on, measured: Gaussian mini-batch statistics, and weight decay as a prior over them.

Must not know what the networks are for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segment.draws.minibatches import DrawPlan
from segment.errors import WrongUse
from segment.experiments.reporting import (
    Budget,
    Progress,
    Row,
    Verdict,
    write_page,
    write_table,
)
from segment.experiments.theory.figures import draw_distances, draw_prior, draw_quantiles
from segment.experiments.theory.networks import BATCH, HIDDEN, L2, SET, dense_names, pixels_first, trained
from segment.experiments.theory.statistics import (
    BatchStatistics,
    Dense,
    Prior,
    batch_statistics,
    closest_prior,
    dense_layers,
    distance,
    floor,
    papers_prior,
    populations_of,
)
from segment.experiments.theory.verdicts import (
    closest_verdict,
    gaussian_verdicts,
    larger_verdict,
    papers_verdict,
    spread_of,
)
from segment.experiments.uci.data import read_table
from segment.files.writing import check_writable


@dataclass(frozen=True, kw_only=True)
class TheoryPlan:
    """draws: T for each M; batches: each M, rising, with 32 among them; epochs: of the regression networks.

    networks: trained from different starts; the tables and figures show the first, the verdicts at M = 32 take all
    """

    draws: int = 4000
    batches: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    epochs: int = 600
    networks: int = 5


PLANS: Mapping[Budget, TheoryPlan] = {
    "paper": TheoryPlan(),
    "quick": TheoryPlan(draws=500, batches=(4, 16, 32, 64, 256), epochs=200, networks=2),
}


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: TheoryPlan | None = None,
) -> list[Verdict]:
    """Write quantile plots, distances, the priors, their tables and the page."""
    check_writable(out / "page.md")
    plan, say = plan or PLANS[budget], progress or (lambda _: None)
    first = pixels_first(data)  # its files are missed before the training
    _check_rows({SET: read_table(data, SET).rows, "cifar10/train1000.npz": len(first[1])}, most=max(plan.batches))
    say(f"theory: training on {SET}")
    networks, x, tau = trained(data, count=plan.networks, epochs=plan.epochs, seed=seed)
    network = networks[0]
    layers: dict[str, dict[int, BatchStatistics]] = {}
    for module, images, names in ((network, x, dense_names(network)), (first[0], first[1], ("ResNet32, bn1",))):
        populations = populations_of(module, images, names)
        for batch in plan.batches:
            say(f"theory: {plan.draws} mini-batches of M = {batch}, {names[0]}")
            measured = batch_statistics(module, images, populations, DrawPlan(draws=plan.draws, batch=batch, seed=seed))
            for population, statistics in zip(populations, measured, strict=True):
                layers.setdefault(population.name, {})[batch] = statistics
    at_batch = {name: [batches[BATCH]] for name, batches in layers.items()}
    for other in networks[1:]:
        populations = populations_of(other, x, dense_names(other))
        measured = batch_statistics(other, x, populations, DrawPlan(draws=plan.draws, batch=BATCH, seed=seed))
        for population, statistics in zip(populations, measured, strict=True):
            at_batch[population.name].append(statistics)
    dense = dense_layers(network, x, dense_names(network), pull=len(x) * tau * L2)
    papers = {layer.name: papers_prior(layer) for layer in dense}
    closest = {layer.name: closest_prior(layer) for layer in dense}
    rows = _rows(layers)
    table = write_table(out, "theory", rows)
    regularised = write_table(out, "theory_prior", _prior_rows(dense, papers, closest))
    draw_quantiles(out, layers)
    draw_distances(out, layers, floor(plan.draws))
    draw_prior(out, {layer.name: (layer.pull * layer.weights, closest[layer.name]) for layer in dense})
    verdicts = [
        *gaussian_verdicts(at_batch, draws=plan.draws, trained=plan.networks),
        larger_verdict(layers),
        papers_verdict(papers),
        closest_verdict(closest),
    ]
    title = "The theory: Gaussian statistics, and weight decay as a prior"
    write_page(
        out,
        title,
        _opening(plan, budget, seed),
        verdicts,
        {
            "Mini-batch statistics against the central limit theorem": f"{table}\n{PLOTS}",
            "Weight decay as a prior": f"{PRIOR}\n\n{regularised}\n![Gradients](theory_prior.png)",
        },
    )
    return verdicts


def _check_rows(counts: Mapping[str, int], *, most: int) -> None:
    for name, count in counts.items():
        if count <= most:  # a mini-batch of all rows does not vary
            raise WrongUse(f"{name} has {count} rows or images; mini-batches of {most} take more of them.")


PLOTS = "![Quantiles](theory.png)\n\n![Distances](theory_distance.png)"
PRIOR = """
*The paper's.* Training with BN minimises the variational objective if the gradient of KL(q || p) by the weights is that
of N tau L2. With lambda |W|^2 as L2 (lambda is half our l2), section 3.3 gives, under the approximations of an appendix
that was not at hand here, a prior N(0, J x^2 / (2 N tau lambda)) over a unit's mean, where J counts the layer's inputs
and x is their average over all rows and inputs; the prior over the sd has "no relevance". To hold it against weight
decay is ours: its divergence grows with the weights by (w . z)^2 / (2 s^2) a unit, z the mean inputs and s the width,
and the cosine says how close that gradient is to L2's. In layer 1 of a network whose inputs are standardised x is 0:
the prior has no width, and no gradient.

*Ours, not the paper's.* The widths s and t of zero-mean Gaussians over means and sds that bring the gradient of
(w . z)^2 / (2 s^2) + w' S w / (2 t^2), S the covariance of the inputs, closest to L2's (non-negative least squares).
The cosine is 1 for centred inputs with S = 1. In both the entropy of q, whose gradient does not grow with the weights,
is left out.
""".strip()


def _rows(layers: Mapping[str, Mapping[int, BatchStatistics]]) -> list[Row]:
    return [
        {
            "layer": name,
            "M": batch,
            "draws": statistics.draws,
            "channels": statistics.mean.shape[1],
            "mean: sd, measured / predicted": spread_of(statistics.mean),
            "mean: KS distance": distance(statistics.mean),
            "sd: sd, measured / predicted": spread_of(statistics.sd),
            "sd: shift, predicted sds": float(np.median(statistics.sd.mean(axis=0))),
            "sd: KS distance": distance(statistics.sd),
            "KS distance of Gaussian draws": floor(statistics.draws),
            "correlation of mean and sd": statistics.correlation,
        }
        for name, batches in layers.items()
        for batch, statistics in batches.items()
    ]


def _prior_rows(dense: Sequence[Dense], papers: Mapping[str, Prior], closest: Mapping[str, Prior]) -> list[Row]:
    rows: list[Row] = []
    for layer in dense:
        for whose, prior in (("the paper's", papers[layer.name]), ("the closest", closest[layer.name])):
            rows.append(
                {
                    "layer": layer.name,
                    "N tau l2": layer.pull,
                    "prior": whose,
                    "width for the mean": _width(prior.mean_sd),
                    "width for the sd": _width(prior.sd_sd),
                    "cosine of the gradients": prior.cosine,
                }
            )
    return rows


def _width(width: float) -> str:
    return "any" if math.isinf(width) else f"{width:.3g}"


def _opening(plan: TheoryPlan, budget: Budget, seed: int) -> str:
    return f"""
Budget `{budget}`, seed {seed}. Dense layers: the regression network of the paper, {" x ".join(map(str, HIDDEN))} units,
trained on all rows of {SET} with M = {BATCH} and l2 {L2:g} for {plan.epochs} epochs; the first of {plan.networks}
such networks is shown, and all are asked for the verdicts on M = {BATCH}. Convolution: the first BN
layer of the CIFAR-10 ResNet32 on 1000 images, whose pixels share images: there an image counts as one value. For each
M {plan.draws} mini-batches, drawn and recorded as MCBN does; numbers are medians over channels. Predicted: the central
limit theorem for the mean, the delta method for the standard deviation, mini-batches drawn without replacement. The
paper says that the means and sds of a deep ReLU network are Gaussian about those of all rows; the widths predicted here
are ours. In layer 2 the prediction takes layer 1's statistics as fixed; in truth layer 1 has centred and scaled its
outputs by the same mini-batch, so that little is left for layer 2's mean to vary by.
"""
