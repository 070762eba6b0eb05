"""How far from a cut a network's outputs feel that the image was cut: the halo that its tiles need.

Measured, not derived: the middle of a long strip of noise is passed alone and within the strip, in eval mode, along
both axes. That finds the receptive field as far as it counts, and all that depends on a pixel's place in the image.
Must not know a tile, nor a draw.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from segment.networks.preserve_state import preserve_state

CUT, LONGEST = 512, 576
"""Pixels cut off at each end of the strip, and the longest halo that is still worth a tile."""

TOLERANCE = 5e-6
"""Largest difference of an output, relative to 1 + the largest output, that counts as none."""

STRIPS = (64, 128, 256)
"""Widths of the strip: the smallest that the network takes."""


def halo_of(forward: Callable[[Tensor], Tensor], module: nn.Module, *, channels: int, align: int) -> int | None:
    """Pixels, a multiple of `align`; None where an output depends on the whole image, as with global pooling.

    forward: images N C H W -> outputs N K H W, which runs `module`
    Error: what was felt less than TOLERANCE on noise; one more `align` is added for images that are not noise.
    """
    like = next(module.parameters(), torch.zeros(()))
    problem: Exception | None = None
    for width in STRIPS:
        size = -(-width // align) * align
        try:
            with torch.no_grad(), preserve_state(module):
                found = [_felt(forward, size, channels, align, like, upright=upright) for upright in (False, True)]
            return None if None in found else max(pixels for pixels in found if pixels is not None)
        except (RuntimeError, ValueError, IndexError) as error:  # the network does not take so narrow an image
            problem = error
    assert problem is not None
    raise problem


def _felt(
    forward: Callable[[Tensor], Tensor], width: int, channels: int, align: int, like: Tensor, *, upright: bool
) -> int | None:
    cut, middle = (-(-length // align) * align for length in (CUT, 2 * LONGEST + 2 * align))
    noise = torch.randn((1, channels, width, middle + 2 * cut), generator=torch.Generator().manual_seed(0)).to(like)
    strip = noise.transpose(2, 3).contiguous() if upright else noise
    alone = strip.narrow(2 if upright else 3, cut, middle).contiguous()
    whole, part = forward(strip), forward(alone)
    axis = 2 if upright else 3
    whole = whole.narrow(axis, cut, middle).float()
    difference = (whole - part.float()).abs().movedim(axis, -1).flatten(0, -2).amax(dim=0)  # along the strip
    far = difference > TOLERANCE * (1 + float(whole.abs().amax()))
    distance = torch.arange(middle).minimum(torch.arange(middle).flip(0)).to(far.device)
    felt = int(distance[far].max()) + 1 if bool(far.any()) else 0
    halo = -(-felt // align) * align + align
    return halo if halo <= LONGEST else None
