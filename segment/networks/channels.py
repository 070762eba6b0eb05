"""How many input channels a network takes, by trying it on small images.

Must not know a card, an image, nor a bank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segment.networks.preserve_state import preserve_state
from segment.networks.trial_images import trial_image, trial_sides

TRIED = (1, 3, 4, 2, *range(5, 17))
"""Numbers of channels to try, in order, where no convolution or BN states how many it expects."""

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


def takes(module: nn.Module, channels: int, stride: int) -> bool:
    """Whether a pass over an image of `channels` channels succeeds at any of the trial sizes."""
    return any(_accepts(module, channels, side) for side in trial_sides(stride))


def channels_of(module: nn.Module, stated: int, stride: int) -> int:
    """C of the images N C H W that a network takes.

    stated: the number in the card; it is returned where a pass with it succeeds, and where no number succeeds.
    Otherwise: the number that the last convolution (or BN) before the failure expects, else the first of TRIED that
    succeeds.
    """
    sides = trial_sides(stride)
    for side in sides:
        channels, tried = stated, set[int]()
        while channels not in tried:
            tried.add(channels)
            wanted = _LastChannels()
            if _accepts(module, channels, side, wanted):
                return channels
            channels = max(channels + wanted.missing, 1)
    return next((count for count in TRIED if _accepts(module, count, sides[0])), stated)  # larger ones take seconds


class _LastChannels(TorchFunctionMode):
    """Records for the last convolution or BN call the channels that its weights expect, minus those of its input."""

    missing = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in _CONVOLUTIONS and len(args) > 1 and isinstance(args[1], Tensor):
            groups = named.get("groups", args[6] if len(args) > 6 else 1)
            self.missing = args[1].shape[1] * groups - args[0].shape[1]
        elif func is functional.batch_norm:
            statistics = next((value for value in (*args[1:], *named.values()) if isinstance(value, Tensor)), None)
            self.missing = 0 if statistics is None else statistics.numel() - args[0].shape[1]
        return func(*args, **named)


def _accepts(module: nn.Module, channels: int, side: int, within: TorchFunctionMode | None = None) -> bool:
    image = trial_image(module, channels, side)
    try:
        with torch.no_grad(), preserve_state(module), within or _LastChannels():
            module(image)
    except Exception:  # whatever an unknown network raises, it does not take this image
        return False
    return True
