"""What the measured statistics and priors say of the paper's claims.

Must not know how a statistic is measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from segment.experiments.regression.predictive import Array
from segment.experiments.reporting import (
    Outcome,
    Verdict,
    judged,
    judged_by,
)
from segment.experiments.theory.networks import BATCH, SET
from segment.experiments.theory.statistics import (
    BatchStatistics,
    Prior,
    distance,
    floor,
)

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


def spread_of(z: Array) -> float:
    return float(np.median(z.std(axis=0)))


def gaussian_verdicts(at_batch: Mapping[str, Sequence[BatchStatistics]], *, draws: int, trained: int) -> list[Verdict]:
    limit = CLOSE + floor(draws)
    verdicts = []
    depths = {
        "the first BN layer": {name: networks for name, networks in at_batch.items() if name not in DEEPER},
        "a BN layer behind another": {name: networks for name, networks in at_batch.items() if name in DEEPER},
    }
    for part, words in (("mean", "mean"), ("sd", "standard deviation")):
        for where, group in depths.items():
            measured, holds = [], []
            for name, networks in group.items():
                distances, spreads = zip(
                    *((distance(z), spread_of(z)) for z in (getattr(statistics, part) for statistics in networks)),
                    strict=True,
                )
                measured.append(f"{name}: {_range(distances, 3)}, spread {_range(spreads, 2)}")
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
                    numbers=f"at M = {BATCH}, KS distance and measured over predicted spread: {'; '.join(measured)} "
                    f"(Gaussian: at most {limit:.3f}, and 1 within {RATIO:.0%}; "
                    f"{trained} networks trained on {SET} must agree)",
                )
            )
    return verdicts


def agreed(holds: Sequence[Sequence[bool]]) -> Outcome:
    """The outcome of a claim about layers, a list of its networks' results each: refuted where one layer fails in all.

    >>> agreed([[True, True], [True]]), agreed([[True, True], [False]]), agreed([[True, False], [True]])
    ('reproduced', 'not reproduced', 'inconclusive')
    """
    if all(all(layer) for layer in holds):
        return "reproduced"
    return "inconclusive" if all(any(layer) for layer in holds) else "not reproduced"


def _range(values: Sequence[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def larger_verdict(layers: Mapping[str, Mapping[int, BatchStatistics]]) -> Verdict:
    smallest, largest = min(next(iter(layers.values()))), max(next(iter(layers.values())))
    falls = {name: (distance(batches[smallest].sd), distance(batches[largest].sd)) for name, batches in layers.items()}
    drops = [early - late for early, late in falls.values()]  # of every layer; the smallest one decides
    noise = DIFFERENCE / math.sqrt(next(iter(layers.values()))[largest].draws)
    return Verdict(
        experiment="theory",
        claim="The larger the mini-batch, the closer its statistics are to Gaussian",
        outcome=judged_by(min(drops) - noise, min(drops) + noise, least=0),
        numbers=f"KS distance of the standard deviation from M = {smallest} to {largest}: "
        + "; ".join(f"{name}: {early:.3f} to {late:.3f}" for name, (early, late) in falls.items())
        + f"; the difference of two is known to {noise:.3f}",
    )


def papers_verdict(priors: Mapping[str, Prior]) -> Verdict:
    return Verdict(
        experiment="theory",
        claim="L2 acts as the divergence from the paper's prior over the means of a layer's units (section 3.3)",
        outcome=judged(holds=all(prior.cosine >= PARALLEL for prior in priors.values())),
        numbers=f"cosine of the two gradients: {_cosines(priors)} (the same direction: {PARALLEL} or more). The paper "
        "calls its prior approximate: exact in the limit of many rows and layers, without BN's scale and shift",
    )


def closest_verdict(priors: Mapping[str, Prior]) -> Verdict:
    return Verdict(
        experiment="theory",
        claim="Beyond the paper: L2 acts as the divergence from some zero-mean Gaussian prior over means and sds",
        outcome=judged(holds=all(prior.cosine >= PARALLEL for prior in priors.values())),
        numbers=f"cosine of the two gradients, at the best widths: {_cosines(priors)} (it is 1 only where a layer's "
        "inputs are uncorrelated and alike)",
    )


def _cosines(priors: Mapping[str, Prior]) -> str:
    return "; ".join(
        f"{name}: " + ("none, for its inputs average 0" if math.isnan(prior.cosine) else f"{prior.cosine:.3f}")
        for name, prior in priors.items()
    )
