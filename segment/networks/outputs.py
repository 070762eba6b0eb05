"""The output of a network → its logits, whichever way its library wraps them.

Must not know a card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segment.axes import size_text
from segment.errors import ModelRefused

MAP_KEYS = ("out", "logits", "masks")
"""Keys or attributes of the logits in the outputs of torchvision, transformers and others."""


def logits_in(output: Any) -> Tensor | None:
    """The logits in the output of a network: a tensor, or an item of a dictionary, a tuple or an object."""
    if isinstance(output, Mapping):
        found = next((output[key] for key in MAP_KEYS if key in output), None)
    elif isinstance(output, (tuple, list)):
        found = output[0] if output else None  # smp with aux_params: mask, then label
    elif isinstance(output, Tensor):
        found = output
    else:
        found = next((getattr(output, key) for key in MAP_KEYS if hasattr(output, key)), None)
    return found if isinstance(found, Tensor) else None


def logits_of(output: Any, name: str) -> Tensor:  # N K H W
    """The logits in the output of the network of that name. Errors: ModelRefused where there are none."""
    logits = logits_in(output)
    if logits is None or logits.ndim != 4:
        given = size_text(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ModelRefused(
            f"{name!r} gave {given}, not logits N x K x H x W (nor these under {', '.join(MAP_KEYS)}, or first in a "
            "tuple); let a py: factory wrap it."
        )
    return logits
