"""Which calls of batch norm normalise each image by itself: instance normalisation, with images as channels.

Must not know which layer made a call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from segment.errors import one_line
from segment.tracing.trace import Call, trace

log = logging.getLogger(__name__)


def normalising_each_image(
    module: nn.Module,
    forward: Callable[[Tensor], Tensor],
    image: Tensor,  # 1 C H W
    calls: Sequence[Call],
    among: Collection[int],
) -> frozenset[int]:
    """Numbers of the calls, `among` those traced, that have twice the channels in a pass over two images.

    Empty where the network does not take two images, or makes other calls then.
    """
    if not among:
        return frozenset()
    try:
        pair = trace(module, forward, torch.cat([image, image])).calls
    except Exception as error:  # whatever an unknown network raises
        log.info("The network does not take two images at once: %s", one_line(error, 200))
        return frozenset()
    one, two = ([(n, c) for n, c in enumerate(every) if c.function is functional.batch_norm] for every in (calls, pair))
    if len(one) != len(two):
        return frozenset()
    return frozenset(
        index
        for (index, alone), (_, both) in zip(one, two, strict=True)
        if index in among and alone.shape is not None and both.shape is not None and both.shape[1] == 2 * alone.shape[1]
    )
