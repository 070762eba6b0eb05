"""Moments over draws → the named maps; all of them grow with uncertainty.

Must not know where a draw came from. Maps are (N ...) where the moments are (N K ...).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from segment.axes import Head
from segment.errors import WrongUse, near
from segment.uncertainty.moments import DrawMoments, entropy


def prediction(mean: Tensor, head: Head = "softmax") -> Tensor:  # N K ... -> N ... (multi-label: N K ...)
    """The class of the largest mean probability, the lowest index where two tie; multi-label: 1 where p >= .5."""
    return (mean >= 0.5).long() if head == "multilabel" else mean.max(dim=1).indices


def predictive_entropy(mean: Tensor, head: Head = "softmax") -> Tensor:  # N K ... -> N ...
    """H[mean_t p_t], in nats, within [0, ln K] (multi-label: the mean over labels, within [0, ln 2]).

    >>> predictive_entropy(torch.tensor([[0.5, 0.5]]))
    tensor([0.6931])
    """
    return entropy(mean, head)


def mutual_information(predictive: Tensor, expected: Tensor) -> Tensor:  # N ..., N ... -> N ...
    """How much the draws disagree about the class of each pixel.

    I = H[mean_t p_t] - mean_t H[p_t], in nats, within [0, ln K]; 0 where all draws are equal.
    Source: the BALD objective, Houlsby et al. 2011, arXiv:1112.5745. Error: rounding, under 1e-5 nats at K = 256.

    >>> mutual_information(torch.tensor([0.69]), torch.tensor([0.0]))
    tensor([0.6900])
    """
    return (predictive - expected).clamp(min=0)  # by Jensen's inequality only rounding is below 0


def variance(class_variance: Tensor) -> Tensor:  # N K ... -> N ...
    """Mean over the K classes of Var_T[p_k], biased by weight, as in the SegNet demonstration of Teye et al. 2018.

    Within [0, (1 - 1/min(T, K))/K] for softmax; a one-channel sigmoid has K = 2.
    """
    return class_variance.mean(dim=1)


def _of_predicted(class_variance: Tensor, mean: Tensor) -> Tensor:  # N K ..., N K ... -> N ...
    return class_variance.gather(1, mean.max(dim=1, keepdim=True).indices).squeeze(1)


def predicted_std(class_variance: Tensor, mean: Tensor, head: Head = "softmax") -> Tensor:  # N K ..., N K ... -> N ...
    """Standard deviation over draws of the predicted class's probability, biased by weight, within [0, 1/2].

    Multi-label: the mean over labels (p and 1 - p have the same).
    """
    return class_variance.sqrt().mean(dim=1) if head == "multilabel" else _of_predicted(class_variance, mean).sqrt()


def one_minus_max(mean: Tensor, head: Head = "softmax") -> Tensor:  # N K ... -> N ...
    """1 - max_k p_k, within [0, 1 - 1/K]; multi-label: the mean over labels of min(p, 1 - p), within [0, 1/2]."""
    return torch.minimum(mean, 1 - mean).mean(dim=1) if head == "multilabel" else 1 - mean.amax(dim=1)


def margin(mean: Tensor, head: Head = "softmax") -> Tensor:  # N K ... -> N ...
    """1 - (p1 - p2) of the two largest mean probabilities, within [0, 1].

    Multi-label: the mean over labels of 1 - |2p - 1|.
    """
    if head == "multilabel":
        return (1 - (2 * mean - 1).abs()).mean(dim=1)
    top = mean.topk(2, dim=1).values
    return 1 - (top[:, 0] - top[:, 1])


def variation_ratio(votes: Tensor, head: Head = "softmax") -> Tensor:  # N K ... -> N ...
    """1 - weight of the votes for the modal class, within [0, 1 - 1/K]; multi-label: the mean over labels."""
    if head == "multilabel":
        return torch.minimum(votes, 1 - votes).mean(dim=1)
    return 1 - votes.amax(dim=1)


def standard_error(class_variance: Tensor, mean: Tensor, effective: float, head: Head = "softmax") -> Tensor:
    """Monte Carlo standard error of the predicted class's mean probability: sqrt(Var_T[p] / (T_eff - 1)).

    T_eff = 1 / sum w^2 (Kish). The biased variance over T - 1 is the unbiased one over T.
    Errors: WrongUse at T_eff <= 1, where one draw has no variance.
    """
    if effective <= 1:
        raise WrongUse("One draw has no standard error; use two draws or more.")
    per_class = (class_variance / (effective - 1)).sqrt()
    return per_class.mean(dim=1) if head == "multilabel" else _of_predicted(per_class, mean)


@dataclass(frozen=True)
class Measure:
    """A measure: the sums of `DrawMoments` that it needs, and the function from moments to its map."""

    needs: tuple[str, ...]
    of: Callable[[DrawMoments], Tensor]


MEASURES: dict[str, Measure] = {
    "predictive_entropy": Measure((), lambda m: predictive_entropy(m.mean, m.head)),
    "expected_entropy": Measure(("expected_entropy",), lambda m: m.expected_entropy),
    "mutual_information": Measure(
        ("expected_entropy",), lambda m: mutual_information(predictive_entropy(m.mean, m.head), m.expected_entropy)
    ),
    "variance": Measure(("square",), lambda m: variance(m.variance)),
    "predicted_std": Measure(("square",), lambda m: predicted_std(m.variance, m.mean, m.head)),
    "one_minus_max": Measure((), lambda m: one_minus_max(m.mean, m.head)),
    "margin": Measure((), lambda m: margin(m.mean, m.head)),
    "variation_ratio": Measure(("votes",), lambda m: variation_ratio(m.votes, m.head)),
    "standard_error": Measure(("square",), lambda m: standard_error(m.variance, m.mean, m.effective_draws, m.head)),
}
"""The maps by name, as `--maps`, files and scores call them."""


def needed(names: Iterable[str]) -> frozenset[str]:
    """The sums that the named measures need. Errors: WrongUse for a name that is no measure."""
    sums: set[str] = set()
    for name in names:
        if name not in MEASURES:
            raise WrongUse(f"No measure is called {name!r}.{near(name, MEASURES)} Known: {', '.join(MEASURES)}.")
        sums.update(MEASURES[name].needs)
    return frozenset(sums)
