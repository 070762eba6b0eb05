"""The trace of a pass with channels innermost, where the network gives the same numbers as for contiguous images.

Must not know what a call computes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from segment.errors import one_line
from segment.networks.preserve_state import preserve_state
from segment.tracing.sources import tensors_in
from segment.tracing.trace import Trace, trace

log = logging.getLogger(__name__)

ROUNDING = 1e-3
"""A share of the largest output: what two layouts may differ by, since sums are made in another order."""


def traced_in_a_layout(
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    keep_arguments: Collection[Callable[..., Any]],
) -> tuple[Trace, bool]:
    """The trace of a pass over an image (N C H W), and whether its channels may lie innermost, which is faster.

    Not so for a network that reads memory by its layout, as `as_strided` does, or merges channels and pixels by a view.
    """
    contiguous = image.contiguous()
    if image.ndim != 4:
        return trace(module, forward, contiguous, keep_arguments=keep_arguments), True
    innermost = image.contiguous(memory_format=torch.channels_last)
    try:
        traced = trace(module, forward, innermost, keep_arguments=keep_arguments)
        random = any(call.random for call in traced.calls)  # numbers are drawn in the order of memory
        if random or _agree(*(_outputs(module, forward, each) for each in (innermost, contiguous))):
            return traced, True
    except RuntimeError as error:
        log.info("The network accepts contiguous images only: %s", one_line(error, 200))
    else:
        log.info("The network gives other numbers where channels lie innermost in memory: its images stay contiguous.")
    return trace(module, forward, contiguous, keep_arguments=keep_arguments), False


def _outputs(module: nn.Module, forward: Callable[[Tensor], Any], image: Tensor) -> list[Tensor]:
    with torch.inference_mode(mode=False), torch.no_grad(), preserve_state(module):
        return [tensor.clone() for tensor in tensors_in(forward(image.clone(memory_format=torch.preserve_format)))]


def _agree(first: list[Tensor], second: list[Tensor]) -> bool:
    if [tensor.shape for tensor in first] != [tensor.shape for tensor in second]:
        return False
    return all(
        bool((a.double() - b.double()).abs().max() <= ROUNDING * a.double().abs().max())
        for a, b in zip(first, second, strict=True)
        if a.is_floating_point() and a.numel() and bool(a.isfinite().all())
    )
