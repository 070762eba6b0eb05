"""What a call of `torch.nn.functional.batch_norm` was given, by torch's own names.

Must not know which layer made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class BatchNormCall:
    """The arguments in torch's order; `BatchNormCall(*args, **kwargs)` of what the call was given.

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
