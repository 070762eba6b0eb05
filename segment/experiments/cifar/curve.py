"""Log-likelihood and accuracy by the number of draws, with intervals over images.

Must not know a network: it takes class probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segment.experiments.regression.predictive import Array
from segment.scores.intervals import middle_95

REPLICATES = 1000


ORDERS = 200


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


def curve_of(passes: Array, labels: NDArray[np.integer], *, seed: int) -> Curve:  # T N K, N
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
    means: Array = values @ drawn.T / values.shape[1]
    return means


def share_by(curve: Curve, draws: int, *, seed: int) -> tuple[float, float, float]:
    """Share of the gain from one draw to the whole bank that that many draws have, and its 95 % interval."""
    place = curve.draws.index(draws)
    gains = curve.likelihood[[place, -1]] - curve.likelihood[0]
    part, whole = gains.mean(axis=1)
    replicates = _replicates(gains, seed)
    return float(part / whole), *middle_95(replicates[0] / replicates[1])
