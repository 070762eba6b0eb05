"""K of T draws, with weights, whose moments are nearest to those of all T.

Pure: probabilities in, a choice out. Must not know a network, nor where its views come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from segment.errors import WrongUse

SWEEPS = 20
"""Most rounds of swaps; they end earlier where no swap reduces the distance."""


@dataclass(frozen=True)
class Chosen:
    """Which draws (K, ascending), their weights (K, sum 1, none negative) and the squared distance they leave."""

    draws: tuple[int, ...]
    weights: Tensor
    distance: float


class Moments:
    """The similarity of T draws in their contributions to the first two moments, summed over views.

    A draw's features are p - mean and (p - mean)^2 less its mean, both means by the weights that the draws have in the
    bank: the sums of the features by other weights are the errors of the moments.
    The first get a third of the weight of the second, each in units of its own spread over the draws. Only products of
    draws are kept, so that memory does not grow with the number of views.
    """

    def __init__(self, draws: int) -> None:
        self._first, self._second = torch.zeros(2, draws, draws, dtype=torch.float64)

    def add(self, probabilities: Tensor, weights: Tensor) -> None:  # T F, T
        """Add the probabilities (F) of a view under each draw; the weights are the bank's."""
        weights = weights.double() / weights.double().sum()
        first = probabilities.double() - weights @ probabilities.double()
        second = first**2 - weights @ first**2
        self._first += first @ first.T
        self._second += second @ second.T

    def __add__(self, other: Moments) -> Moments:
        """The moments over the views of both."""
        return Moments.of(self.state() + other.state())

    def state(self) -> Tensor:  # 2 T T
        """All of it, which `of` takes."""
        return torch.stack([self._first, self._second])

    @classmethod
    def of(cls, state: Tensor) -> Self:  # 2 T T
        made = cls(0)
        made._first, made._second = state
        return made

    def products(self) -> Tensor:  # T T
        """G, for which w' G w is the squared distance that weights w of sum 1 leave to the moments of all draws."""
        first, second = (part / part.diagonal().mean().clamp(min=1e-24) for part in (self._first, self._second))
        return first / 9 + second


def choose(products: Tensor, draws: int, generator: torch.Generator, *, starts: int = 4) -> Chosen:
    """K draws and weights w, sum 1, that make w' G w small, by greedy swaps from random starts.

    products: G (T T), of centred features of each draw, as `Moments` gives them
    """
    total = len(products)
    if not 1 <= draws <= total:
        raise WrongUse(f"{draws} draws cannot be chosen from {total}; ask 1 to {total}.")
    products = products / products.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
    orders = (torch.randperm(total, device="cpu", generator=generator) for _ in range(starts))
    candidates = [_swapped(products, order[:draws]) for order in orders]
    return min(candidates, key=lambda chosen: chosen.distance)


def _swapped(products: Tensor, chosen: Tensor) -> Chosen:
    """Replace each draw in turn by the one that reduces the distance most, until none does."""
    total = len(products)
    weights, best = simplex_weights(products[chosen][:, chosen][None])
    distance = float(best[0])
    for _ in range(SWEEPS):
        before = distance
        for place in range(len(chosen)):
            tried = chosen.expand(total, -1).clone()  # T K
            tried[:, place] = torch.arange(total)
            _, left = simplex_weights(products[tried[:, :, None], tried[:, None, :]])
            repeated = (tried[:, :, None] == tried[:, None, :]).sum(dim=(1, 2)) > len(chosen)
            left[repeated] = torch.inf
            if float(left.min()) < distance * (1 - 1e-9):
                distance, chosen = float(left.min()), tried[int(left.argmin())]
        if distance >= before:
            break
    chosen = chosen.sort().values
    weights, best = simplex_weights(products[chosen][:, chosen][None])
    return Chosen(tuple(chosen.tolist()), weights[0].float(), float(best[0]))


def simplex_weights(products: Tensor) -> tuple[Tensor, Tensor]:  # B K K -> B K, B
    """Weights w >= 0, sum 1, that minimise w' G w, and the minimum; B systems at once.

    Source: the active-set method of Lawson & Hanson 1974, chapter 23, with the sum kept at 1. Error: G gets a ridge of
    1e-9 of its diagonal's mean, so that equal draws have a solution.
    """
    size = products.shape[1]
    mean = products.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
    identity = torch.eye(size, dtype=products.dtype)
    ridged = products + 1e-9 * mean[:, None, None] * identity
    weights = torch.full_like(products[:, 0], 1.0 / size)
    kept = torch.ones_like(weights, dtype=torch.bool)
    for _ in range(8 * size):
        system = torch.where(kept[:, :, None] & kept[:, None, :], ridged, identity)
        free = torch.linalg.solve(system, kept.to(products.dtype))  # where w is optimal, G w is constant on its support
        free = free / free.sum(dim=1, keepdim=True)
        negative = kept & (free < 0)
        reach = torch.where(negative, weights / (weights - free), torch.ones_like(weights)).amin(dim=1, keepdim=True)
        weights = weights + reach * (free - weights)
        dropped = negative & (weights <= 1e-12)
        slope = torch.einsum("bij,bj->bi", ridged, weights)
        gain = torch.where(kept, 0.0, (weights * slope).sum(dim=1, keepdim=True) - slope)
        worth = (gain > 1e-8 * mean[:, None]) & (gain == gain.amax(dim=1, keepdim=True))
        added = worth & ~negative.any(dim=1, keepdim=True)
        if not bool((dropped | added).any()):
            break
        kept = (kept & ~dropped) | added
        weights = torch.where(kept, weights, 0.0)
    weights = weights.clamp(min=0) / weights.clamp(min=0).sum(dim=1, keepdim=True)
    return weights, torch.einsum("bi,bij,bj->b", weights, products, weights)
