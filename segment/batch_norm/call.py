"""The arguments of a call of `torch.nn.functional.batch_norm`, by torch's own names: the only copy of its signature.

Must not know which layer made the call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from segment.tracing.sources import UNKNOWN, tensors_in
from segment.tracing.trace import Call


@dataclass(frozen=True)
class BatchNormCall:
    """The arguments in torch's order; made by `BatchNormCall(*args, **kwargs)`.

    input: (N C ...); running_mean, running_var, weight, bias: (C), or None; eps: added to the variance
    """

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: Any = 0.1
    eps: float = 1e-5

    def unchanged(self) -> Tensor:
        """The result of the call as it was made."""
        return functional.batch_norm(
            self.input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def under(self, mean: Tensor, var: Tensor) -> Tensor:
        """The call's result with the input normalised by this mean and variance (C), its own weight, bias and eps."""
        # of a part in half precision; torch wants all four in one type
        weight, bias = (given if given is None else given.to(mean.dtype) for given in (self.weight, self.bias))
        return functional.batch_norm(self.input, mean, var, weight, bias, training=False, momentum=0.0, eps=self.eps)


def batch_norm_of(call: Call) -> BatchNormCall:
    """The arguments of a traced call, whose input, which a trace does not keep, is an empty tensor."""
    assert call.arguments is not None
    positional, named = call.arguments
    if "input" in named:
        return BatchNormCall(*positional, **{**named, "input": torch.empty(0)})
    return BatchNormCall(torch.empty(0), *positional, **named)


def is_of_another_module(call: Call) -> bool:
    """Whether the running mean of a batch norm call is none of the network's tensors, as with a module in a closure."""
    assert call.arguments is not None
    mean = batch_norm_of(call).running_mean
    if mean is None or "input" in call.arguments[1]:
        return False
    read = zip(tensors_in(call.arguments), call.sources[1:], strict=False)  # the first is the input
    return any(tensor is mean and source == UNKNOWN for tensor, source in read)
