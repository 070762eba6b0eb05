"""A layer's mini-batch statistics beside their prediction, and priors that weight decay could imply.

Must not know which networks are measured, nor what is claimed of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from scipy.special import ndtr
from torch import Tensor, nn

from segment.batch_norm.layers import survey
from segment.draws.minibatches import DrawPlan, choices
from segment.draws.recording import record
from segment.experiments.regression.predictive import Array


@dataclass(frozen=True, kw_only=True)
class Population:
    """One BN layer over all N images: what the central limit theorem says of a mini-batch's mean and sd, by channel.

    inputs: N C P values that the layer normalises; P positions share an image, and so are not independent
    """

    name: str
    inputs: Array

    def predicted(self, batch: int) -> tuple[Array, Array, Array, Array]:  # C each
        """Mean of the mean, its sd; mean of the sd, its sd.

        With a = an image's mean and b = its mean squared deviation from mu (over positions): Var(mean) = Var(a)/M,
        Var(sd) = Var(b)/(4 sigma^2 M) by the delta method, both times (N-M)/(N-1), for a mini-batch is drawn without
        replacement. At one position these are sigma^2/M and (m4 - sigma^4)/(4 sigma^2 M).
        """
        count = len(self.inputs)
        centre = self.inputs.mean(axis=(0, 2))
        deviations = (self.inputs - centre[None, :, None]) ** 2
        sigma = np.sqrt(deviations.mean(axis=(0, 2)))
        share = (count - batch) / (count - 1) / batch
        of_mean = np.sqrt(self.inputs.mean(axis=2).var(axis=0) * share)
        of_sd = np.sqrt(deviations.mean(axis=2).var(axis=0) * share) / (2 * sigma)
        return centre, of_mean, sigma, of_sd


@dataclass(frozen=True, kw_only=True)
class BatchStatistics:
    """Mini-batch statistics of one layer at one M, in units of their prediction: (value - mean)/sd, (T, C) each."""

    batch: int
    mean: Array
    sd: Array
    correlation: float

    @property
    def draws(self) -> int:
        return len(self.mean)


@dataclass(frozen=True, kw_only=True)
class Dense:
    """One dense layer before BN: its weights (U, J), its inputs (N, J), and the strength of L2 (pull = N tau l2)."""

    name: str
    weights: Array
    inputs: Array
    pull: float


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A prior over a layer's means and sds, and the gradient of its divergence beside that of L2.

    gradient: (U, J), of that divergence by the weights, to be compared with pull * weights
    cosine: of the two gradients; nan where the prior has no width
    mean_sd, sd_sd: widths of the Gaussians over a unit's mean and sd; infinite: the prior is flat
    """

    gradient: Array
    cosine: float
    mean_sd: float
    sd_sd: float


@torch.no_grad()
def populations_of(network: nn.Sequential, x: Tensor, names: Sequence[str]) -> list[Population]:
    """What each BN layer normalises, over all images, every layer before it under its trained statistics."""
    populations: list[Population] = []
    signal = x
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            populations.append(
                Population(
                    name=names[len(populations)],
                    inputs=signal.double().flatten(2).numpy()
                    if signal.ndim > 2
                    else signal.double().numpy()[:, :, None],
                )
            )
        signal = layer(signal)
    return populations


def batch_statistics(
    network: nn.Sequential, x: Tensor, populations: Sequence[Population], plan: DrawPlan
) -> list[BatchStatistics]:
    """T mini-batches' statistics of every BN layer, as the engine records them, beside their prediction.

    Channels that do not vary over the images are left out.
    """
    drawn = survey(network, network, x[:2])
    picks = choices(plan, len(x))
    draws = list(record(drawn, (x[list(pick.images)] for pick in picks)))
    statistics = []
    for layer, population in zip(drawn.stochastic, populations, strict=True):
        means, variances = (torch.stack([draw[layer.name][part] for draw in draws]).double().numpy() for part in (0, 1))
        centre, of_mean, sigma, of_sd = population.predicted(plan.batch)
        alive = sigma > 1e-4 * sigma.max()
        sds = np.sqrt(variances[:, alive])
        pairs = [np.corrcoef(means[:, alive][:, unit], sds[:, unit])[0, 1] for unit in range(sds.shape[1])]
        statistics.append(
            BatchStatistics(
                batch=plan.batch,
                mean=(means[:, alive] - centre[alive]) / of_mean[alive],
                sd=(sds - sigma[alive]) / of_sd[alive],
                correlation=float(np.median(np.abs(pairs))),
            )
        )
    return statistics


def distance(z: Array) -> float:  # T C
    """Kolmogorov-Smirnov distance of each channel's draws from N(0, 1); the median over channels, within 0..1."""
    ordered = ndtr(np.sort(z, axis=0))
    steps = np.arange(len(z) + 1)[:, None] / len(z)
    gaps = np.maximum(steps[1:] - ordered, ordered - steps[:-1]).max(axis=0)
    return float(np.median(gaps))


def floor(draws: int) -> float:
    """What that distance is for T draws that are Gaussian: the median of Kolmogorov's distribution, 0.8276 / sqrt T."""
    return 0.8276 / math.sqrt(draws)


@torch.no_grad()
def dense_layers(network: nn.Sequential, x: Tensor, names: Sequence[str], *, pull: float) -> list[Dense]:
    """The dense layers that BN follows, with their inputs over all rows under the trained statistics."""
    layers: list[Dense] = []
    signal = x
    for layer, following in zip(network, list(network)[1:], strict=False):
        if isinstance(layer, nn.Linear) and isinstance(following, nn.BatchNorm1d):
            name = names[len(layers)]
            weights, inputs = layer.weight.double().numpy(), signal.double().numpy()
            layers.append(Dense(name=name, weights=weights, inputs=inputs, pull=pull))
        signal = layer(signal)
    return layers


def papers_prior(layer: Dense) -> Prior:
    """The prior that the paper gives for L2: N(0, J x^2 / (2 N tau lambda)) over a unit's mean, anything over its sd.

    J inputs, x their mean over all rows and all of them; 2 lambda is our l2, so 2 N tau lambda is the pull. Inputs that
    average 0 leave it no width: no gradient, and a cosine of nan. Source: Teye et al. 2018, section 3.3.
    """
    z = layer.inputs.mean(axis=0)
    average = float(z.mean())
    if abs(average) < 1e-6 * float(np.abs(layer.inputs).max()):
        return Prior(gradient=np.zeros_like(layer.weights), cosine=math.nan, mean_sd=0.0, sd_sd=math.inf)
    width = math.sqrt(len(z) * average**2 / layer.pull)
    gradient = np.outer(layer.weights @ z, z) / width**2
    return Prior(gradient=gradient, cosine=_cosine(gradient, layer.weights), mean_sd=width, sd_sd=math.inf)


def closest_prior(layer: Dense) -> Prior:
    """The zero-mean Gaussians over means and sds whose divergence has the gradient closest to pull * w.

    Not the paper's, whose prior binds the mean alone: a non-negative least squares of two columns.
    """
    z = layer.inputs.mean(axis=0)
    deviations = layer.inputs - z
    covariance = deviations.T @ deviations / len(deviations)
    by_mean, by_sd = np.outer(layer.weights @ z, z), layer.weights @ covariance
    target = layer.pull * layer.weights
    columns = np.stack([by_mean.ravel(), by_sd.ravel()], axis=1)
    sizes = np.linalg.norm(columns, axis=0)
    small = sizes <= 1e-6 * sizes.max()  # centred inputs: a unit's mean is 0 whatever its weights are
    columns[:, small] = 0
    strengths, _ = nnls(columns, target.ravel())
    gradient = (columns @ strengths).reshape(target.shape)
    mean_sd, sd_sd = (1 / math.sqrt(strength) if strength > 0 else math.inf for strength in strengths)
    return Prior(gradient=gradient, cosine=_cosine(gradient, target), mean_sd=mean_sd, sd_sd=sd_sd)


def _cosine(first: Array, second: Array) -> float:
    return float((first * second).sum() / (np.linalg.norm(first) * np.linalg.norm(second)))
