"""The output of a network → its logits, whichever way its library wraps them.

Must not know a card.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from segment.axes import size_text
from segment.errors import ModelRefused, warn_once

log = logging.getLogger(__name__)

MAP_KEYS = ("out", "logits", "masks")
"""Keys or attributes of the logits in the outputs of torchvision, transformers and others."""


def logits_in(output: Any, name: str, outputs: int | None = None) -> Tensor | None:
    """The logits in the output of the network of that name: a tensor, or an item of a dictionary, a tuple or an object.

    outputs: how many channels they have; None: not known
    Of a tuple or a list it is the only map of so many channels, else the first item; a warning says so where another
    may be the prediction just as well.
    """
    if isinstance(output, Mapping):
        candidate = next((output[key] for key in MAP_KEYS if key in output), None)
    elif isinstance(output, (tuple, list)):
        candidate = _item_of(output, name, outputs)
    elif isinstance(output, Tensor):
        candidate = output
    else:
        candidate = next((getattr(output, key) for key in MAP_KEYS if hasattr(output, key)), None)
    return candidate if isinstance(candidate, Tensor) else None


def _item_of(output: Sequence[Any], name: str, outputs: int | None) -> Any:
    maps = [item for item in output if isinstance(item, Tensor) and item.ndim == 4]
    fitting = [item for item in maps if item.shape[1] == outputs]
    if len(fitting) == 1:
        return fitting[0]
    first = output[0] if output else None  # smp with aux_params: mask, then label
    alike = [item for item in maps[1:] if item.shape[1] == maps[0].shape[1] or item.shape[-2:] == maps[0].shape[-2:]]
    if alike:
        warn_once(
            log,
            "%s gives maps of %s channels, and the first is taken. Where another is the prediction (some networks give "
            "an auxiliary map or features first), name the classes in its card, which takes the only map of so many "
            "channels; or give a module, or a py: factory of one, whose forward returns that map alone.",
            name,
            ", ".join(str(int(item.shape[1])) for item in maps),  # in a trace, sizes are tensors
        )
    return first


def logits_of(output: Any, name: str, outputs: int | None = None) -> Tensor:  # N K H W
    """The logits in a network's output, as `logits_in` finds them. Errors: ModelRefused where there are none."""
    logits = logits_in(output, name, outputs)
    if logits is None or logits.ndim != 4:
        given = size_text(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        raise ModelRefused(
            f"{name!r} gave {given}, not logits N x K x H x W (nor these under {', '.join(MAP_KEYS)}, or first in a "
            "tuple); let a py: factory wrap it."
        )
    return logits
