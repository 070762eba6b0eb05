"""Where an image may be cut, and how far from a cut a network's outputs change: the alignment and halo of its tiles.

Measured, not derived: parts of a strip of noise are passed alone and within the strip, in eval mode. The outputs give
the strides of the network and its effective receptive field, and show whatever depends on a pixel's position.
Must not know a tile, nor a draw.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from segment.errors import one_line
from segment.networks.modules import first_tensor, parameters_and_buffers
from segment.networks.preserve_state import preserve_state
from segment.networks.trial_images import noise

log = logging.getLogger(__name__)

CUT, LONGEST = 512, 576
"""Pixels cut off at each end of the strip, and the longest halo with which tiles are made."""

MARGIN = 32
"""Pixels added to the measured halo, for images that are not noise and draws with other statistics."""

TOLERANCE = 5e-6
"""Largest difference of an output, relative to 1 + the largest output of its channel, that counts as none."""
ROUNDING = 1e-3
"""Up to this difference float32 may be the cause, as in an interpolation by a third: float64 decides."""

STRIPS = (64, 96, 128, 192, 256)
"""Widths of the strip: the smallest that the network accepts. Each alignment divides one of them, or 768."""

USUAL, PERIOD = 32, 768
"""The alignment that is tried first, and the multiple of all others that are tried (256 times 3)."""


@dataclass(frozen=True)
class TileGeometry:
    """How images may be cut for one network.

    align: pixels that every cut lies at a multiple of, a multiple of the card's stride
    halo: pixels, a multiple of `align`, that a tile needs around its kept part; None: the whole image
    stride: the sides of an image must be multiples of it, else tiles differ from the whole image beyond any halo
    reason: why the halo is None
    """

    align: int
    halo: int | None
    stride: int
    reason: str = ""


def measure_tiling(
    forward: Callable[[Tensor], Tensor], module: nn.Module, *, channels: int, card_stride: int = 1
) -> TileGeometry:
    """The smallest alignment (32 where that will do), its halo, and the stride that the image's sides must have.

    forward: images N C H W -> outputs N K H W, which runs `module`; card_stride: what images are padded to already
    Error: a change below TOLERANCE on noise is not seen; MARGIN allows for it.
    """
    reason = ""
    for width in STRIPS:
        strips = _Strips(forward, module, channels, width)
        with torch.no_grad(), preserve_state(module):
            try:
                geometry = _measured(strips, card_stride)
                if geometry is None and strips.rounding:
                    with _parameters_in_float64(module):
                        geometry = _measured(strips, card_stride)
            except Exception as error:  # whatever an unknown network raises, it does not accept so narrow an image
                reason = f"it accepts no strip of {STRIPS[0]} to {STRIPS[-1]} pixels ({one_line(error, 120)})"
                continue
        if geometry is not None:
            return geometry
        reason = "its outputs depend on all pixels, on their position or on the image's size"
        break
    return TileGeometry(math.lcm(card_stride, USUAL), None, card_stride, reason)


def sides_change_outputs(
    forward: Callable[[Tensor], Tensor],
    module: nn.Module,
    *,
    channels: int,
    geometry: TileGeometry,
    side: int,
    length: int,
) -> bool:
    """Whether a part as long as a tile has other outputs than within a strip as long as the image.

    So has a network that takes another way for long images. The strip has no more pixels than a tile, so a longer image
    is not passed in full; where no strip is accepted, nothing is known.

    side: of the tiles; length: of the image's longer side
    """
    assert geometry.halo is not None
    for width in STRIPS:
        strips = _Strips(forward, module, channels, width)
        with torch.no_grad(), preserve_state(module):
            try:
                longest = min(length, side * side // width) // geometry.align * geometry.align
                return any(strips.differs(geometry, side, longest, upright=upright) for upright in (False, True))
            except Exception as error:  # as in `measure_tiling`
                log.debug("No strip of %d pixels: %s", width, error)
    return False


def _measured(strips: _Strips, card_stride: int) -> TileGeometry | None:
    align = _align(strips, card_stride)
    distances = [None if align is None else strips.distance(align, upright=upright) for upright in (False, True)]
    if align is None or distances[0] is None or distances[1] is None:
        return None
    halo = -(-(max(distances[0], distances[1]) + MARGIN) // align) * align
    stride = _stride(strips, align, halo, card_stride)
    return None if stride is None else TileGeometry(align, halo, stride)


def _align(strips: _Strips, card_stride: int) -> int | None:
    """The alignment; None where no cut keeps the outputs. Errors: those of a network that accepts no strip."""
    usual = math.lcm(card_stride, USUAL)
    if strips.accepts(usual):
        return usual
    period = math.lcm(usual, PERIOD)
    if period > 2 * PERIOD or not strips.repeats(period):
        return None
    larger = [align for align in _divisors(period) if align > usual and align % usual == 0]
    align = next((align for align in larger if strips.accepts(align)), None)
    if align is None:
        return None
    smaller = [part for part in _divisors(align) if part % card_stride == 0 and usual % part]
    return next(part for part in smaller if part == align or strips.accepts(part))


def _stride(strips: _Strips, align: int, halo: int, card_stride: int) -> int | None:
    """The smallest multiple of the card's stride so that images whose sides are multiples of it can be cut.

    None where no image can be, as where the network pads one side with pixels of the other.
    """
    for stride in _divisors(align):
        rests = {stride, align - stride} - {0}
        if stride % card_stride == 0 and all(
            strips.ends(align, halo, rest, upright=upright) for rest in rests for upright in (False, True)
        ):
            return stride
    return None


class _Strips:
    """Outputs of parts of a strip of noise, alone and within it."""

    def __init__(self, forward: Callable[[Tensor], Tensor], module: nn.Module, channels: int, width: int) -> None:
        self._forward = forward
        self._module = module
        self._channels, self._width = channels, width
        self.rounding = False  # whether the difference that `repeats` saw may be rounding

    def accepts(self, align: int) -> bool:
        """Whether cuts at multiples of `align` change outputs within LONGEST pixels only."""
        try:
            return self.distance(align, upright=False) is not None
        except Exception as error:  # an unknown network may raise anything for a side that is no multiple of its stride
            log.debug("Not cut at multiples of %d: %s", align, error)
            return False

    def distance(self, align: int, *, upright: bool) -> int | None:
        """Pixels from a cut to the last output that it changes; None where that is further than LONGEST.

        Cut and lengths are multiples of `align`, but of none of its double or triple.
        """
        first, middle = _odd_multiple(CUT, align), _odd_multiple(2 * LONGEST, align)
        strip = self._noise(_odd_multiple(first + middle + CUT, align), align, upright=upright)
        axis = 2 if upright else 3
        for start, stop in ((0, first), (first + middle, strip.shape[axis])):
            _brighten(strip.narrow(axis, start, stop - start))
        whole = self._forward(strip.clone()).narrow(axis, first, middle)
        part = self._forward(strip.narrow(axis, first, middle).contiguous())
        far = _differs(whole, part, axis)
        from_cut = torch.arange(middle).minimum(torch.arange(middle).flip(0))
        distance = int(from_cut[far].max()) + 1 if bool(far.any()) else 0
        return distance if distance + MARGIN <= LONGEST else None

    def differs(self, geometry: TileGeometry, side: int, length: int, *, upright: bool) -> bool:
        """Whether the inner part of `side` pixels has other outputs alone than in a strip of `length` pixels."""
        halo, axis = geometry.halo or 0, 2 if upright else 3
        kept, start = side - 2 * halo, (length - side) // 2 // geometry.align * geometry.align
        if kept <= 0 or start <= 0:
            return False
        strip = self._noise(length, geometry.align, upright=upright)
        whole = self._forward(strip.clone()).narrow(axis, start + halo, kept)
        part = self._forward(strip.narrow(axis, start, side).contiguous()).narrow(axis, halo, kept)
        return bool(_differs(whole, part, axis, ROUNDING).any())

    def repeats(self, period: int) -> bool:
        """Whether outputs move with the image when it moves by `period`: so with every stride that divides it."""
        length = 3 * period
        strip = self._noise(length + period, 1, upright=False)
        _brighten(strip[..., length:])
        first, second = (self._forward(strip.narrow(3, start, length).contiguous()) for start in (0, period))
        kept = length - period - 2 * LONGEST
        first, second = first.narrow(3, period + LONGEST, kept), second.narrow(3, LONGEST, kept)
        self.rounding = not bool(_differs(first, second, 3, ROUNDING).any())
        return not bool(_differs(first, second, 3).any())

    def ends(self, align: int, halo: int, rest: int, *, upright: bool) -> bool:
        """Whether an image whose length is a multiple of `align` and `rest` can be cut."""
        stop = _odd_multiple(2 * halo + align, align)
        strip = self._noise(stop + align + rest, align, upright=upright)
        axis = 2 if upright else 3
        length = strip.shape[axis]
        first, last = stop - halo, length - align - halo
        try:
            whole = self._forward(strip.clone())
            begin = self._forward(strip.narrow(axis, 0, stop).contiguous())
            end = self._forward(strip.narrow(axis, align, length - align).contiguous())
            pairs = (
                (whole.narrow(axis, 0, first), begin.narrow(axis, 0, first)),
                (whole.narrow(axis, align + halo, last), end.narrow(axis, halo, last)),
            )
            return not any(bool(_differs(part, other, axis).any()) for part, other in pairs)
        except Exception as error:  # as in `accepts`
            log.debug("No side of %d pixels: %s", length, error)
            return False

    def _noise(self, length: int, align: int, *, upright: bool) -> Tensor:
        width = -(-self._width // align) * align
        made = noise(1, self._channels, width, length)
        return (made.transpose(2, 3).contiguous() if upright else made).to(first_tensor(self._module))


def _brighten(strip: Tensor) -> None:
    """Give what lies beyond a cut another mean and deviation, so that a global pool gives another value."""
    strip.mul_(2).add_(1)


@contextmanager
def _parameters_in_float64(module: nn.Module) -> Iterator[None]:
    """Parameters and buffers in float64 within a block: differences are not rounding then."""
    tensors = [tensor for tensor in parameters_and_buffers(module) if tensor.is_floating_point()]
    values = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        yield
    finally:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.data = value


def _differs(
    whole: Tensor, part: Tensor, axis: int, tolerance: float = TOLERANCE
) -> Tensor:  # N K H W, twice -> H or W
    """Where along an axis two outputs differ, relative to each channel's own scale: a network may mask one by -1e4."""
    if whole.shape != part.shape:
        raise ValueError(f"outputs of {tuple(whole.shape)} and {tuple(part.shape)} pixels for the same part")
    whole, part = (outputs.double().movedim(axis, -1).flatten(2, -2).cpu() for outputs in (whole, part))  # N K V L
    finite = whole.isfinite() & part.isfinite()
    scale = 1 + torch.where(finite, whole, 0.0).abs().amax(dim=(0, 2, 3), keepdim=True)
    far = torch.where(finite, (whole - part).abs() > tolerance * scale, _bits(whole) != _bits(part))
    return far.flatten(0, 2).any(dim=0)


def _bits(values: Tensor) -> Tensor:
    """Values that can be compared where they are not finite: NaN equals NaN."""
    return values.nan_to_num(nan=3.0, posinf=2.0, neginf=1.0)


def _odd_multiple(length: int, align: int) -> int:
    """The smallest multiple of `align`, from `length` up, that is none of twice or three times `align`."""
    counts = itertools.count(-(-length // align))
    return next(count * align for count in counts if math.gcd(count, 6) == 1)


def _divisors(number: int) -> list[int]:
    return [part for part in range(1, number + 1) if number % part == 0]
