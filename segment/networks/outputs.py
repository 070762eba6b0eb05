"""The output of a network → its logits, whichever way its library wraps them.

Must not know a card.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segment.axes import size_text
from segment.errors import ModelRefused, warn_once

log = logging.getLogger(__name__)

MAP_KEYS = ("out", "logits", "masks")
"""Keys or attributes of the logits in the outputs of torchvision, transformers and others."""


def logits_in(output: Any, name: str) -> Tensor | None:
    """The logits in the output of the network of that name: a tensor, or an item of a dictionary, a tuple or an object.

    Of a tuple or a list it is the first; a warning says so where others may be the prediction just as well.
    """
    if isinstance(output, Mapping):
        candidate = next((output[key] for key in MAP_KEYS if key in output), None)
    elif isinstance(output, (tuple, list)):
        candidate = output[0] if output else None  # smp with aux_params: mask, then label
        channels = [item.shape[1] for item in output if isinstance(item, Tensor) and item.ndim == 4]
        if len(channels) > 1 and len(set(channels)) == 1:
            warn_once(
                log,
                "%s gives %d maps of %d channels, and the first is taken. Where another is the prediction (some "
                "networks give an auxiliary map first), give a module, or a py: factory of one, whose forward returns "
                "that map alone.",
                name,
                len(channels),
                channels[0],
            )
    elif isinstance(output, Tensor):
        candidate = output
    else:
        candidate = next((getattr(output, key) for key in MAP_KEYS if hasattr(output, key)), None)
    return candidate if isinstance(candidate, Tensor) else None


def logits_of(output: Any, name: str) -> Tensor:  # N K H W
    """The logits in the output of the network of that name. Errors: ModelRefused where there are none."""
    logits = logits_in(output, name)
    if logits is None or logits.ndim != 4:
        given = size_text(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ModelRefused(
            f"{name!r} gave {given}, not logits N x K x H x W (nor these under {', '.join(MAP_KEYS)}, or first in a "
            "tuple); let a py: factory wrap it."
        )
    return logits
