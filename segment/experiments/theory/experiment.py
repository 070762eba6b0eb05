"""The equivalence that MCBN rests on, measured: are a mini-batch's mean and standard deviation Gaussian as the central
limit theorem says, and does weight decay act as a divergence from a prior over them.

Must not know what the networks are for.
"""  # noqa: D205 (the two questions are one sentence)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segment.draws.minibatches import DrawPlan
from segment.experiments.cifar import drawn_network, normalised, read_images
from segment.experiments.regression.methods import seeded
from segment.experiments.regression.predictive import Array
from segment.experiments.regression.stack import Architecture, Stack, standardised
from segment.experiments.regression.stack_training import Fit, Training
from segment.experiments.reporting import (
    Budget,
    Outcome,
    Progress,
    Row,
    Verdict,
    judged,
    judged_by,
    write_page,
    write_table,
)
from segment.experiments.theory.figures import draw_distances, draw_prior, draw_quantiles
from segment.experiments.theory.statistics import (
    Dense,
    Measured,
    Prior,
    closest_prior,
    dense_layers,
    distance,
    floor,
    measured,
    papers_prior,
    populations_of,
)
from segment.experiments.uci.data import read_table
from segment.files.writing import check_writable

SET, HIDDEN, BATCH = "concrete", (50, 50), 32
DEEPER = (f"{SET}, layer 2",)
"""Layers whose inputs another BN layer has already normalised by the same mini-batch."""
DIFFERENCE = 1.36 * math.sqrt(2)
"""Over sqrt(T): 95 % limit of the difference of two KS distances, each of T draws (Kolmogorov's 1.36)."""
CLOSE = 0.1
"""Largest difference of distribution functions, beyond what as many Gaussian draws show, that counts as Gaussian."""
RATIO = 0.1
"""Largest relative error of the predicted spread that counts as predicted."""
PARALLEL = 0.95
"""Least cosine of two gradients that counts as the same direction."""


@dataclass(frozen=True, kw_only=True)
class TheoryPlan:
    """draws: T for each M; batches: each M, rising, with 32 among them; epochs, l2: of the regression networks.

    networks: trained from different starts; the tables and figures show the first, the verdicts at M = 32 take all
    """

    draws: int = 4000
    batches: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    epochs: int = 600
    l2: float = 1e-3
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
    say(f"theory: training on {SET}")
    networks, x, tau = trained(data, plan, seed)
    network = networks[0]
    layers: dict[str, dict[int, Measured]] = {}
    first = pixels_first(data)
    for module, images, names in ((network, x, dense_names(network)), (first[0], first[1], ("ResNet32, bn1",))):
        populations = populations_of(module, images, names)
        for batch in plan.batches:
            say(f"theory: {plan.draws} mini-batches of M = {batch}, {names[0]}")
            found = measured(module, images, populations, DrawPlan(draws=plan.draws, batch=batch, seed=seed))
            for population, one in zip(populations, found, strict=True):
                layers.setdefault(population.name, {})[batch] = one
    at_batch = {name: [batches[BATCH]] for name, batches in layers.items()}
    for other in networks[1:]:
        populations = populations_of(other, x, dense_names(other))
        found = measured(other, x, populations, DrawPlan(draws=plan.draws, batch=BATCH, seed=seed))
        for population, one in zip(populations, found, strict=True):
            at_batch[population.name].append(one)
    dense = dense_layers(network, x, dense_names(network), pull=len(x) * tau * plan.l2)
    papers = {one.name: papers_prior(one) for one in dense}
    closest = {one.name: closest_prior(one) for one in dense}
    rows = _rows(layers)
    table = write_table(out, "theory", rows)
    regularised = write_table(out, "theory_prior", _prior_rows(dense, papers, closest))
    draw_quantiles(out, layers)
    draw_distances(out, layers, floor(plan.draws))
    draw_prior(out, {one.name: (one.pull * one.weights, closest[one.name]) for one in dense})
    verdicts = [
        *_gaussian_verdicts(at_batch, plan),
        _larger_verdict(layers, plan),
        _papers_verdict(papers),
        _closest_verdict(closest),
    ]
    title = "The theory: Gaussian statistics, and weight decay as a prior"
    write_page(
        out,
        title,
        _opening(plan, budget, seed),
        verdicts,
        {
            "Mini-batch statistics against the central limit theorem": f"{table}\n![Quantiles](theory.png)\n\n![Distances](theory_distance.png)",
            "Weight decay as a prior": f"{PRIOR}\n\n{regularised}\n![Gradients](theory_prior.png)",
        },
    )
    return verdicts


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


def trained(data: Path, plan: TheoryPlan, seed: int) -> tuple[list[nn.Sequential], Tensor, float]:
    """The paper's regression network on all rows of one set; its standardised inputs; tau, of the first's residuals."""
    table = read_table(data, SET)
    rows = torch.arange(table.rows)[None]
    problem = standardised(table.x, table.y, rows, rows)
    generator = seeded(seed, 6)
    count = plan.networks
    stack = Stack(Architecture(features=table.x.shape[1], hidden=HIDDEN), count, generator)
    fit = Fit(problem=problem, sets=torch.zeros(count, dtype=torch.long), batch=BATCH, l2=torch.full((count,), plan.l2))
    Training(stack, fit, generator).run(plan.epochs)
    networks = [stack.network(number, statistics=problem.x[0]) for number in range(count)]
    with torch.no_grad():
        residuals = networks[0](problem.x[0])[:, 0] - problem.y[0]
    return networks, problem.x[0], float(1 / residuals.square().mean())


def pixels_first(data: Path) -> tuple[nn.Sequential, Tensor]:
    """The first convolution and BN of the ResNet32, and 1000 training images."""
    module = drawn_network(data).module
    convolution, norm = module.get_submodule("conv1"), module.get_submodule("bn1")
    return nn.Sequential(convolution, norm).eval(), normalised(read_images(data, "train1000")[0])


def dense_names(network: nn.Sequential) -> tuple[str, ...]:
    count = sum(isinstance(layer, nn.BatchNorm1d) for layer in network)
    return tuple(f"{SET}, layer {number + 1}" for number in range(count))


def _rows(layers: Mapping[str, Mapping[int, Measured]]) -> list[Row]:
    return [
        {
            "layer": name,
            "M": batch,
            "draws": one.draws,
            "channels": one.mean.shape[1],
            "mean: sd, measured / predicted": _spread(one.mean),
            "mean: KS distance": distance(one.mean),
            "sd: sd, measured / predicted": _spread(one.sd),
            "sd: shift, predicted sds": float(np.median(one.sd.mean(axis=0))),
            "sd: KS distance": distance(one.sd),
            "KS distance of Gaussian draws": floor(one.draws),
            "correlation of mean and sd": one.correlation,
        }
        for name, batches in layers.items()
        for batch, one in batches.items()
    ]


def _spread(z: Array) -> float:
    return float(np.median(z.std(axis=0)))


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


def _gaussian_verdicts(at_batch: Mapping[str, Sequence[Measured]], plan: TheoryPlan) -> list[Verdict]:
    limit = CLOSE + floor(plan.draws)
    verdicts = []
    depths = {
        "the first BN layer": {name: networks for name, networks in at_batch.items() if name not in DEEPER},
        "a BN layer behind another": {name: networks for name, networks in at_batch.items() if name in DEEPER},
    }
    for part, words in (("mean", "mean"), ("sd", "standard deviation")):
        for where, group in depths.items():
            told, holds = [], []
            for name, networks in group.items():
                distances, spreads = zip(
                    *((distance(z), _spread(z)) for z in (getattr(one, part) for one in networks)), strict=True
                )
                told.append(f"{name}: {_range(distances, 3)}, spread {_range(spreads, 2)}")
                holds.append(
                    [
                        away <= limit and abs(spread - 1) <= RATIO
                        for away, spread in zip(distances, spreads, strict=True)
                    ]
                )
            verdicts.append(
                Verdict(
                    experiment="theory",
                    outcome=agreed(holds),
                    claim=f"A mini-batch's {words} at {where} is Gaussian, as the central limit theorem predicts",
                    numbers=f"at M = {BATCH}, KS distance and measured over predicted spread: {'; '.join(told)} (Gaussian: "
                    f"at most {limit:.3f}, and 1 within {RATIO:.0%}; {plan.networks} networks trained on {SET} must agree)",
                )
            )
    return verdicts


def agreed(holds: Sequence[Sequence[bool]]) -> Outcome:
    """What networks say of a claim about some layers, a list each: a layer where all deny it, or the word of all.

    >>> agreed([[True, True], [True]]), agreed([[True, True], [False]]), agreed([[True, False], [True]])
    ('reproduced', 'not reproduced', 'inconclusive')
    """
    if all(all(layer) for layer in holds):
        return "reproduced"
    return "inconclusive" if all(any(layer) for layer in holds) else "not reproduced"


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _larger_verdict(layers: Mapping[str, Mapping[int, Measured]], plan: TheoryPlan) -> Verdict:
    last = plan.batches[-1]
    falls = {
        name: (distance(batches[plan.batches[0]].sd), distance(batches[last].sd)) for name, batches in layers.items()
    }
    drops = [early - late for early, late in falls.values()]  # of every layer; the smallest one decides
    noise = DIFFERENCE / math.sqrt(plan.draws)
    return Verdict(
        experiment="theory",
        claim="The larger the mini-batch, the closer its statistics are to Gaussian",
        outcome=judged_by(min(drops) - noise, min(drops) + noise, least=0),
        numbers=f"KS distance of the standard deviation from M = {plan.batches[0]} to {last}: "
        + "; ".join(f"{name}: {early:.3f} to {late:.3f}" for name, (early, late) in falls.items())
        + f"; the difference of two is known to {noise:.3f}",
    )


def _papers_verdict(priors: Mapping[str, Prior]) -> Verdict:
    return Verdict(
        experiment="theory",
        claim="L2 acts as the divergence from the paper's prior over the means of a layer's units (section 3.3)",
        outcome=judged(holds=all(prior.cosine >= PARALLEL for prior in priors.values())),
        numbers=f"cosine of the two gradients: {_told(priors)} (the same direction: {PARALLEL} or more). The paper "
        "calls its prior approximate: exact in the limit of many rows and layers, without BN's scale and shift",
    )


def _closest_verdict(priors: Mapping[str, Prior]) -> Verdict:
    return Verdict(
        experiment="theory",
        claim="Beyond the paper: L2 acts as the divergence from some zero-mean Gaussian prior over means and sds",
        outcome=judged(holds=all(prior.cosine >= PARALLEL for prior in priors.values())),
        numbers=f"cosine of the two gradients, at the best widths: {_told(priors)} (it is 1 only where a layer's "
        "inputs are uncorrelated and alike)",
    )


def _told(priors: Mapping[str, Prior]) -> str:
    return "; ".join(
        f"{name}: " + ("none, for its inputs average 0" if math.isnan(prior.cosine) else f"{prior.cosine:.3f}")
        for name, prior in priors.items()
    )


def _opening(plan: TheoryPlan, budget: Budget, seed: int) -> str:
    return f"""
Budget `{budget}`, seed {seed}. Dense layers: the regression network of the paper, {" x ".join(map(str, HIDDEN))} units,
trained on all rows of {SET} with M = {BATCH} and l2 {plan.l2:g} for {plan.epochs} epochs; the first of {plan.networks}
such networks is shown, and all are asked for the verdicts on M = {BATCH}. Convolution: the first BN
layer of the CIFAR-10 ResNet32 on 1000 images, whose pixels share images: there an image counts as one value. For each
M {plan.draws} mini-batches, drawn and recorded as MCBN does; numbers are medians over channels. Predicted: the central
limit theorem for the mean, the delta method for the standard deviation, mini-batches drawn without replacement. The
paper says that the means and sds of a deep ReLU network are Gaussian about those of all rows; the widths predicted here
are ours. In layer 2 the prediction takes layer 1's statistics as fixed; in truth layer 1 has centred and scaled its
outputs by the same mini-batch, so that little is left for layer 2's mean to vary by.
"""
