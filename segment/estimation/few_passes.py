"""A few passes over some pixels, by which the memory and the seconds of an image are estimated."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from segment.axes import Head
from segment.estimation.estimate import ReadOut, accumulate, moments_by_temperature


def seconds_a_pixel(read_outs: Sequence[ReadOut], images: Tensor, head: Head) -> float:  # N C H W
    """Seconds a pixel of all passes of all methods, of which a few are made; moments are kept until all are done."""
    kept, seconds = [], 0.0
    for method in {id(read_out.method): read_out.method for read_out in read_outs}.values():
        of_method = [read_out for read_out in read_outs if read_out.method is method]
        kept.append(moments_by_temperature(of_method, head))
        few = method.few_passes()
        for _ in accumulate(few, images, kept[-1]):
            continue
        begun = time.perf_counter()  # the first image is traced, and compared with plain passes
        count = sum(1 for _ in accumulate(few, images, kept[-1]))
        seconds += (time.perf_counter() - begun) / count * max(read_out.passes for read_out in of_method)
    return seconds / images.shape[-2:].numel()
