"""Log-likelihood and accuracy by the number of draws, with intervals over images and banks.

Must not know a network: it takes class probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segment.experiments.regression.predictive import Array
from segment.scores.intervals import middle_95

REPLICATES = 1000


ORDERS = 200


@dataclass(frozen=True, kw_only=True)
class Curve:
    """For each of B banks, number of draws and image: log of the mean p of the true class, nats; and the mean hits.

    draws: (S); likelihood, hits: (B, S, N), means over orders of a bank's draws; bank_sd: (S), of the mean likelihood
    between banks, nan for the whole of a single bank
    """

    draws: tuple[int, ...]
    likelihood: Array
    hits: Array
    bank_sd: Array


def curve_of(passes: Array, labels: NDArray[np.integer], *, seed: int) -> Curve:  # T N K, N
    """Likelihood and accuracy of the first 1, 2, 4 ... T draws of a bank, each the mean over orders of the draws."""
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
    bank_sd[~np.isfinite(bank_sd)] = np.nan
    return Curve(draws=counts, likelihood=likelihood[None], hits=hits[None], bank_sd=bank_sd)


def joined(curves: Sequence[Curve]) -> Curve:
    """One curve of all banks, which have the same number of draws; they give the spread of the whole bank."""
    likelihood = np.concatenate([curve.likelihood for curve in curves])
    bank_sd = np.sqrt(np.mean([curve.bank_sd**2 for curve in curves], axis=0))
    if len(likelihood) > 1:
        bank_sd[-1] = likelihood[:, -1].mean(axis=1).std(ddof=1)
    hits = np.concatenate([curve.hits for curve in curves])
    return Curve(draws=curves[0].draws, likelihood=likelihood, hits=hits, bank_sd=bank_sd)


def interval(values: Array, *, seed: int) -> tuple[float, float]:  # B N -> low, high
    """95 % interval of a mean by a bootstrap over images and banks (the same ones for every call of one seed)."""
    return middle_95(_replicates(values, seed))


def _replicates(values: Array, seed: int) -> Array:  # B N -> R
    rng = np.random.default_rng([seed, 9])
    banks, images = values.shape
    of_images = rng.multinomial(images, np.full(images, 1 / images), size=REPLICATES) / images
    of_banks = rng.multinomial(banks, np.full(banks, 1 / banks), size=REPLICATES) / banks
    means: Array = ((of_images @ values.T) * of_banks).sum(axis=1)
    return means


def share_by(curve: Curve, draws: int, *, seed: int) -> tuple[float, float, float]:
    """Share of the gain from one draw to a whole bank that that many draws have, and its 95 % interval."""
    part, whole = (curve.likelihood[:, place] - curve.likelihood[:, 0] for place in (curve.draws.index(draws), -1))
    shares = _replicates(part, seed) / _replicates(whole, seed)
    return float(part.mean() / whole.mean()), *middle_95(shares)
