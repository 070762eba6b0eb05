"""Calibration of logits: one temperature, or a factor and an offset for each channel (vector scaling).

Must not know how either is fitted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segment.errors import WrongUse


@dataclass(frozen=True)
class VectorScaling:
    """z_c -> factor_c z_c + offset_c for every channel c of the logits (Guo et al. 2017, arXiv:1706.04599, 4.2)."""

    factors: tuple[float, ...]
    offsets: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.offsets) or not self.factors:
            raise WrongUse(f"{len(self.factors)} factors and {len(self.offsets)} offsets: one of each a channel.")
        if not all(map(math.isfinite, (*self.factors, *self.offsets))):
            raise WrongUse("A scaling has a factor or an offset that is not finite.")


Calibration = float | VectorScaling
"""What the logits go through before the head: a temperature that divides them (1 changes nothing), or a scaling."""


def calibrated(logits: Tensor, calibration: Calibration) -> Tensor:  # N C ... -> N C ..., float32 unless unchanged
    """The logits of one pass after calibration.

    Args:
        logits: N C ..., C the channels of the head.
        calibration: A temperature above 0, or a scaling of C channels.

    Raises:
        WrongUse: The scaling is of another number of channels.

    >>> calibrated(torch.tensor([[2.0, 4.0]]), VectorScaling((0.5, 1.0), (0.0, -1.0))).tolist()
    [[1.0, 3.0]]

    """
    if isinstance(calibration, VectorScaling):
        channels = logits.shape[1]
        if len(calibration.factors) != channels:
            raise WrongUse(f"A scaling of {len(calibration.factors)} channels does not fit {channels} logits.")
        shape = (1, channels, *[1] * (logits.ndim - 2))
        factors, offsets = (
            torch.tensor(values, dtype=torch.float32, device=logits.device).reshape(shape)
            for values in (calibration.factors, calibration.offsets)
        )
        return logits.float() * factors + offsets
    return logits if calibration == 1.0 else logits.float() / calibration


def as_json(calibration: Calibration) -> float | dict[str, list[float]]:
    """A calibration as JSON values; `of_json` reads it back.

    >>> as_json(VectorScaling((1.0,), (0.5,)))
    {'factors': [1.0], 'offsets': [0.5]}
    """
    if isinstance(calibration, VectorScaling):
        return {"factors": list(calibration.factors), "offsets": list(calibration.offsets)}
    return calibration


def of_json(value: float | Mapping[str, Sequence[float]]) -> Calibration:
    """The calibration that `as_json` wrote.

    Args:
        value: A temperature, or factors and offsets.

    Raises:
        WrongUse: A number is not finite, or the temperature not above 0.

    >>> of_json({"factors": [1.0], "offsets": [0.5]}), of_json(1.25)
    (VectorScaling(factors=(1.0,), offsets=(0.5,)), 1.25)

    """
    if isinstance(value, Mapping):
        return VectorScaling(tuple(map(float, value["factors"])), tuple(map(float, value["offsets"])))
    temperature = float(value)
    if not (math.isfinite(temperature) and temperature > 0):
        raise WrongUse(f"A temperature is a finite number above 0, not {temperature:g}.")
    return temperature


def calibration_text(calibration: Calibration) -> str:
    """A calibration as a page shows it.

    >>> calibration_text(1.2345), calibration_text(VectorScaling((0.5, 1.0), (0.0, -1.0)))
    ('1.234', 'factors 0.50 to 1.00, offsets -1.00 to 0.00')
    """
    if isinstance(calibration, VectorScaling):
        ends = [(min(values), max(values)) for values in (calibration.factors, calibration.offsets)]
        return f"factors {ends[0][0]:.2f} to {ends[0][1]:.2f}, offsets {ends[1][0]:.2f} to {ends[1][1]:.2f}"
    return f"{calibration:.3f}"
