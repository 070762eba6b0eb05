"""The device that a caller names, checked: one that is not there is refused before anything is moved.

Must not know a network.
"""

from __future__ import annotations

import torch

from segment.errors import WrongUse, one_line


def device_named(name: str) -> torch.device:
    """The device of a name as torch has it, with its number; "auto": CUDA where there is one, else the CPU.

    Errors: WrongUse for one that torch does not know, or that is not there.

    >>> device_named("cpu")
    device(type='cpu')
    """
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError:
        raise WrongUse(f"A device is auto, cpu, cuda or cuda:N, not {name!r}. 'auto' takes {auto} here.") from None
    try:
        return torch.empty(0, device=auto if name == "auto" else name).device
    except (RuntimeError, AssertionError) as error:
        why = one_line(error, 160).rstrip(".")
        raise WrongUse(f"Device {name!r} cannot be used: {why}. 'auto' takes {auto} here.") from None


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has computed what it was given: torch's calls return before that, too early for a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
