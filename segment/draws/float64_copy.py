"""A network in float64, which shows what rounding in float32 costs it.

Must not know what is passed through it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn

from segment.batch_norm.layers import BatchNormNetwork


def module_in_float64(module: nn.Module) -> nn.Module | None:
    """A copy in float64; None where it cannot be copied."""
    try:
        return copy.deepcopy(module).double()
    except Exception:  # a module may hold what cannot be copied
        return None


def in_float64(network: BatchNormNetwork) -> BatchNormNetwork | None:
    """A copy in float64, its BN layers without their tensors, which are others there: known by their order.

    None where the module cannot be copied, or `forward` cannot be given another module. The copy may not run: a network
    may hold float32 constants.
    """
    module = module_in_float64(network.module)
    if module is None:
        return None
    layers = tuple(dataclasses.replace(layer, trained=None, weight=None) for layer in network.layers)
    forward: Any = network.forward
    if forward is network.module:
        return dataclasses.replace(network, module=module, forward=module, layers=layers)
    if dataclasses.is_dataclass(forward) and getattr(forward, "module", None) is network.module:
        moved = cast(Callable[[Tensor], Tensor], dataclasses.replace(cast(Any, forward), module=module))
        return dataclasses.replace(network, module=module, forward=moved, layers=layers)
    return None
