"""Small images to try a network on: one that nobody described may take no image of the first size.

Must not know what is tried.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from segment.errors import ModelRefused, SegmentError, one_line
from segment.networks.modules import first_tensor

SIDES = (128, 256, 512)
"""Rows and columns, before the stride rounds them up; smp's PAN takes nothing smaller."""

Result = TypeVar("Result")


def trial_sides(stride: int) -> tuple[int, ...]:
    """Rows and columns of the trial images of a network, multiples of its stride, the smallest first.

    >>> trial_sides(48), trial_sides(512)
    ((144, 288, 528), (512,))
    """
    return tuple(dict.fromkeys(-(-side // stride) * stride for side in SIDES))


def noise(*shape: int) -> Tensor:
    """Normal noise on the CPU, the same each time, whatever torch's default device and type are."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def uniform_noise(*shape: int) -> Tensor:
    """Uniform noise within 0 and 1 on the CPU, the same each time, as `noise` is."""
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu")


def trial_image(module: nn.Module, channels: int, side: int) -> Tensor:  # 1 C H W
    """Noise within 0 and 1, the same each time, with the device and the type of the module's parameters."""
    return uniform_noise(1, channels, side, side).to(first_tensor(module))


def at_smallest_side(name: str, stride: int, attempt: Callable[[int], Result], advice: str = "") -> Result:
    """What `attempt` gives at the first side of `trial_sides` at which it does not fail.

    name, advice: of the network, and what else to do, for the refusal
    Errors: ModelRefused with each side's reason where it fails at all; SegmentError of the attempt, at once.
    """
    failure: Exception | None = None
    reasons: dict[str, list[str]] = {}
    for side in trial_sides(stride):
        try:
            return attempt(side)
        except SegmentError:
            raise
        except Exception as error:  # whatever an unknown network raises, it does not take this size
            failure = error
            reasons.setdefault(f"{type(error).__name__}: {one_line(error, 160)}", []).append(f"{side}x{side}")
    why = "; ".join(f"{', '.join(sizes)}: {reason}" for reason, sizes in reasons.items())
    raise ModelRefused(f"{name!r} takes no trial image ({why}). {advice}".rstrip()) from failure
