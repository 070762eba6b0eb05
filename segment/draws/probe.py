"""A network's output on a few seeded inputs, and the comparison of two such outputs.

Must not know how a network is run, nor where a bank is stored.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from segment.errors import BankRefused

LEAST_TOLERANCE = 1e-5
"""The smallest tolerance, of a probability: used where the rounding error of float32 is below a quarter of it."""

LARGEST_SIDE = 4096
"""Most rows and columns of an input that a file may ask for."""


@dataclass(frozen=True)
class Probe:
    """Probabilities of a few classes at a few pixels of each input, V numbers in all.

    side: rows and columns of the inputs after padding; seed: of their pixels
    shape: of the outputs, I K' H W, for I inputs
    places: (V) int64, positions in the outputs, flat
    trained: (V) float32, in eval mode; drawn: (V) float32, under the bank's first draw, None where that is unknown
    noise: largest difference between float32 and float64 on this network, in probability
    """

    side: int
    seed: int
    shape: tuple[int, int, int, int]
    places: Tensor
    trained: Tensor
    drawn: Tensor | None
    noise: float

    def __post_init__(self) -> None:
        values = self.trained if self.drawn is None else self.drawn
        sizes = {tuple(tensor.shape) for tensor in (self.places, self.trained, values)}
        if sizes != {(self.places.numel(),)} or not self.places.numel():
            raise BankRefused("The probe of a bank holds one number for each of its places; this one does not.")
        if (self.places.dtype, self.trained.dtype, values.dtype) != (torch.int64, torch.float32, torch.float32):
            raise BankRefused("The probe of a bank holds float32 numbers at int64 places; this one does not.")
        if not (1 <= self.side <= LARGEST_SIDE and 0 <= self.seed < 2**32 and min(self.shape) > 0):
            raise BankRefused(
                f"The probe of a bank has inputs of 1 to {LARGEST_SIDE} rows and outputs of at least one value, not "
                f"side {self.side}, seed {self.seed}, outputs {self.shape}."
            )
        if self.places.min() < 0 or int(self.places.max()) >= math.prod(self.shape):
            raise BankRefused("The probe of a bank names places outside the outputs.")
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise BankRefused(
                f"The probe of a bank has a rounding error of {self.noise}, which must be finite and at least 0."
            )

    @property
    def tolerance(self) -> float:
        """Largest difference in probability that two ways of computing the same network may have."""
        return max(LEAST_TOLERANCE, 4 * self.noise)

    @property
    def digest(self) -> str:
        """SHA-256 over its numbers: what has a network's numbers and no tolerance is of one digest."""
        drawn = b"" if self.drawn is None else self.drawn.numpy().tobytes()
        return hashlib.sha256(self.trained.numpy().tobytes() + drawn).hexdigest()

    def of_trained(self) -> Probe:
        """The probe under the trained statistics alone, for a bank with other draws."""
        return replace(self, drawn=None)


def largest_difference(first: Tensor, second: Tensor) -> float:
    """The largest absolute difference; infinite where their entries that are not finite differ.

    >>> largest_difference(torch.tensor([0.5, float("nan")]), torch.tensor([0.25, float("nan")]))
    0.25
    >>> largest_difference(torch.tensor([float("inf")]), torch.tensor([1.0]))
    inf
    """
    finite = first.isfinite() & second.isfinite()
    # probabilities are at most 1, so 2, 3 and 4 stand for NaN and the infinities alone
    if not torch.equal(first[~finite].nan_to_num(2, 3, 4), second[~finite].nan_to_num(2, 3, 4)):
        return math.inf
    return float((first - second)[finite].abs().max()) if finite.any() else 0.0
