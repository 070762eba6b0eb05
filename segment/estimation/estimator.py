"""Images to Estimates within a memory budget: whole where that fits, else in tiles. It knows no file and no score."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from segment.axes import Head
from segment.errors import FastPathDiffers, OutOfMemory, WrongUse, ran_out_of_memory
from segment.estimation.estimate import (
    Estimate,
    R,
    ReadOut,
    accumulate,
    estimates,
    from_the_first_draw,
    moments_by_temperature,
)
from segment.estimation.memory_budget import (
    BYTES_ANY_NETWORK_TAKES,
    BYTES_BESIDE_PASSES,
    BYTES_DECODED,
    BYTES_OF_WRITING,
    FIRST_PASS_BYTES,
    KERNEL_FACTOR,
    bytes_text,
    release_freed_pages,
)
from segment.estimation.plan import EstimatePlan
from segment.estimation.tiling.assembly import STANDARD_ERROR, assembled, compared
from segment.estimation.tiling.groups import GroupEstimate, TileGroup, reached
from segment.estimation.tiling.tiler import MemoryNeeds, Tiler, TilingCost, total_cost
from segment.estimation.tiling.tiles import Cut
from segment.images.formats.georeference import GDAL_CACHE
from segment.images.prepare import Normalised, in_memory, padding
from segment.images.windowed import bytes_held
from segment.networks.load import Network
from segment.networks.trial_images import uniform_noise
from segment.tracing.pass_memory import PROBED, bytes_a_pixel
from segment.uncertainty.stopping import StoppingRule, check_counts

log = logging.getLogger(__name__)


class Estimator:
    """Called with one image (1 C H W, normalised, not padded) and its id, gives an Estimate for each read-out.

    planned: whether an image was so large that it was compared with the budget
    to_redo: images before the last one whose estimates a wrong fast path may have changed; why: in words. The caller
    estimates them again and resets both.
    """

    def __init__(self, network: Network, read_outs: Mapping[str, ReadOut], plan: EstimatePlan | None = None) -> None:
        self.network, self.read_outs, self.plan = network, dict(read_outs), plan or EstimatePlan()
        self.planned = False
        self.tiler = Tiler(network)
        self.to_redo, self.why = 0, ""
        if self.plan.stop is not None and len(self.read_outs) != 1:
            raise WrongUse("--draws auto counts the draws of one read-out at a time.")

    def __call__(self, image: Tensor | Normalised, identity: str = "") -> dict[str, Estimate[Any]]:
        """The estimates of one image, without the axis N: tensors, or in tiles the arrays that `blank` made.

        Errors: OutOfMemory where even the smallest tiles do not fit, with the memory that they need; PredictionFailed.
        """
        side = self.side_for(*image.shape[-2:], in_memory=in_memory(image))
        while True:
            try:
                if side is None:
                    whole = self.whole(image[..., :, :], identity)
                    return {name: made.image(0) for name, made in whole.items()}
                return self._verified(lambda side=side: self._in_tiles(image, side, identity))  # type: ignore[misc]
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
                side = self._smaller(image, side, error)

    def whole(self, images: Tensor, identity: str = "") -> dict[str, Estimate[Tensor]]:
        """The estimates of N images (N C H W) side by side, without a memory plan."""
        return self._verified(
            lambda: estimates(self.read_outs, images, self.network.card.head, identity=identity, stop=self._watch())
        )

    def _verified(self, work: Callable[[], R]) -> R:
        """The result of `work`; where a fast path differs, the earlier images that it may have changed are counted."""
        methods = [read_out.method for read_out in self.read_outs.values()]

        def differed(error: FastPathDiffers) -> None:
            self.to_redo, self.why = max(self.to_redo, *(method.unverified for method in methods)), str(error)
            for method in methods:
                method.take_plain_passes()  # one that differs later would cost all images again

        return from_the_first_draw(methods, work, differed)

    def _watch(self) -> StoppingRule | None:
        (read_out, *_) = self.read_outs.values()
        return None if self.plan.stop is None else StoppingRule(self.network.card.head, read_out.passes, self.plan.stop)

    @property
    def pixel(self) -> float:
        return self.plan.held_passes * self._measured[0]

    @cached_property
    def _measured(self) -> tuple[float, float]:
        """Bytes a pixel of tensors alive at once in the passes, and seconds of all passes over a pixel, on noise."""
        image, head = uniform_noise(1, self.network.channels, PROBED, PROBED), self.network.card.head
        seconds, computed = list[float](), [replace(of, measures=self._computed(of)) for of in self.read_outs.values()]
        held = bytes_a_pixel(lambda x: seconds.append(_seconds_a_pixel(computed, x, head)), self.network.module, image)
        return held, seconds[-1]

    def _computed(self, read_out: ReadOut) -> tuple[str, ...]:
        """Measures of a read-out, and the one that decides when the draws stop."""
        return tuple(dict.fromkeys([*read_out.measures, *([STANDARD_ERROR] if self.plan.stop else [])]))

    @property
    def kept(self) -> int:
        """Bytes a pixel of all estimates, twice: as computed from the moments, and as returned."""
        each = (
            4 * len(read_out.measures) + 8 + 4 * self.network.classes * read_out.probability
            for read_out in self.read_outs.values()
        )
        return 2 * sum(each)

    def side_for(self, height: int, width: int, *, in_memory: bool = True) -> int | None:
        """The side of the tiles of an image of that size, None where it is not tiled. Errors: OutOfMemory, WrongUse.

        in_memory: whether its pixels are; else they are read a window at a time
        """
        height, width = self._padded(height, width)
        plan, area = self.plan, height * width
        if isinstance(plan.tile, int):
            return None if max(height, width) <= plan.tile else self.tiler.asked(plan.tile, plan.mode, self._fixed)
        if plan.budget is None or self.fits_whole(area, in_memory=in_memory):
            return None
        needs = self._needs(area, in_memory=in_memory)
        if plan.tile == "off":
            raise plan.budget.too_small(needs.untiled, "Give more --memory, or remove --tile off.")
        if self._fixed:
            ways = f"Give more --memory, or leave out the methods that cannot be tiled: {', '.join(self._fixed)}."
            raise plan.budget.too_small(needs.untiled, ways)
        return self.tiler.within(plan.budget, area, needs, plan.mode)

    def fits_whole(self, area: int, *, in_memory: bool = True) -> bool:
        """Whether whole images of so many pixels in all, their padding counted, fit in memory in one pass."""
        budget = self.plan.budget
        if budget is None or area * BYTES_ANY_NETWORK_TAKES * len(self.read_outs) <= budget.free:
            return True
        self.planned = True
        return self._needs(area, in_memory=in_memory).untiled <= budget.free

    @property
    def _fixed(self) -> list[str]:
        """The methods that cannot be tiled."""
        return [name or each.method.name for name, each in self.read_outs.items() if not each.method.tileable]

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        bottom, right = padding(height, width, self.network.card.input.stride)
        return height + bottom, width + right

    def _needs(self, area: int, *, in_memory: bool) -> MemoryNeeds:
        held = 1 + bytes_held(self.network.input)  # and whether it holds data
        beside = (
            area * (BYTES_BESIDE_PASSES + 4 * (held - BYTES_DECODED) + self.plan.beside + self.kept) + FIRST_PASS_BYTES
        )
        in_files = self.plan.blank is not None
        read = FIRST_PASS_BYTES if in_memory else FIRST_PASS_BYTES + BYTES_OF_WRITING + GDAL_CACHE + area // 8
        return MemoryNeeds(
            per_pixel=KERNEL_FACTOR * self.pixel,
            untiled=beside + area * KERNEL_FACTOR * self.pixel,
            during_tiles=area * held * in_memory + read if in_files else beside,
            before_tiles=3 * area * held * in_memory + read if in_files else beside,
        )

    def cost(self, sizes: Iterable[tuple[int, int]], in_windows: Callable[[int, int], bool]) -> TilingCost | None:
        """What the tiles of images of these sizes (H, W) take; None where none is tiled. Errors: as `side_for`.

        in_windows: whether an image of that size is read a window at a time
        """
        sides: list[tuple[tuple[int, int], int | None]] = []
        for (height, width), count in Counter(sizes).items():
            side = self.side_for(height, width, in_memory=not in_windows(height, width))
            sides += [(self._padded(height, width), side)] * count
        if all(side is None for _, side in sides):
            return None
        height, width = max((size for size, _ in sides), key=math.prod)
        budget = self.plan.budget if self.plan.tile == "auto" else None
        return total_cost(
            self.tiler,
            sides,
            mode=self.plan.mode,
            needs=None if budget is None else self._needs(height * width, in_memory=not in_windows(height, width)),
            held=0 if budget is None else budget.held,
            pixel_seconds=self._measured[1],
        )

    def _in_tiles(self, image: Tensor | Normalised, side: int, identity: str) -> dict[str, Estimate[Any]]:
        cut = self.tiler.cut(side, self.plan.mode)
        self.tiler.warn_of_sides(image.shape[-2], image.shape[-1], cut)
        everything = TileGroup.whole(cut, (image.shape[-2], image.shape[-1]))
        for draws in self.rounds():
            tiles = self._of_group(image, cut, everything, draws, identity)
            if self.enough(tiles.errors):
                break
        return self._finished(image, cut, tiles, draws, identity)

    def rounds(self) -> tuple[int | None, ...]:
        """Draws of the rounds in which an image in tiles is estimated, until one was `enough`; None: all draws."""
        stop = self.plan.stop
        return (None,) if stop is None else check_counts(next(iter(self.read_outs.values())).passes, stop.first)

    def enough(self, errors: Mapping[int, Tensor]) -> bool:
        """Whether a round with these standard errors of its tiles is the last."""
        stop = self.plan.stop
        return stop is None or reached(errors, stop) <= stop.tolerance

    def group(
        self, image: Tensor | Normalised, cut: Cut, group: TileGroup, draws: int | None, identity: str
    ) -> GroupEstimate[Any]:
        """The part that some tiles have in the estimate of an image, in a round. Errors: OutOfMemory."""
        while True:
            try:
                return self._verified(lambda: self._of_group(image, cut, group, draws, identity))
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
                if not self.fewer_draws():  # the tiles are those of other processes too
                    raise self._too_large(cut.side) from error

    def put_together(
        self, image: Tensor | Normalised, cut: Cut, tiles: GroupEstimate[Any], draws: int | None, identity: str
    ) -> dict[str, Estimate[Any]]:
        """The estimates of an image from those of all its tiles in the last round."""
        return self._verified(lambda: self._finished(image, cut, tiles, draws, identity))

    def _of_group(
        self, image: Tensor | Normalised, cut: Cut, group: TileGroup, draws: int | None, identity: str
    ) -> GroupEstimate[Any]:
        return assembled(
            image,
            cut,
            group,
            self._with(draws),
            self.network.card.head,
            classes=lambda: self.network.classes,
            measures={name: read_out.measures for name, read_out in self.read_outs.items()},
            blank=self.plan.blank,
            identity=identity,
            errors=self.plan.stop is not None,
            after=release_freed_pages if self.planned else lambda: None,
        )

    def _with(self, draws: int | None) -> dict[str, ReadOut]:
        """The read-outs in a round."""
        if draws is None:
            return self.read_outs
        return {n: replace(each, measures=self._computed(each), draws=draws) for n, each in self.read_outs.items()}

    def _finished(
        self, image: Tensor | Normalised, cut: Cut, tiles: GroupEstimate[Any], draws: int | None, identity: str
    ) -> dict[str, Estimate[Any]]:
        """The estimates of the whole image; those of blended tiles with their error."""
        stop, whole, size = self.plan.stop, tiles.summed(), (image.shape[-2], image.shape[-1])
        if self.planned:  # what is written next takes blocks of other sizes
            release_freed_pages()
        if stop is not None:
            error = reached(tiles.errors, stop)
            whole = {name: replace(made, reached_error=error) for name, made in whole.items()}
        if not cut.blended:
            return whole
        budget = self.plan.budget
        needs = None if budget is None else self._needs(math.prod(size), in_memory=in_memory(image))
        around = self.tiler.around(cut, needs, 0 if budget is None else budget.free)
        exact = self.tiler.geometry.halo is not None and around >= self.tiler.geometry.halo
        head, read_outs = self.network.card.head, self._with(draws)
        off = compared(image, whole, cut, read_outs, head, around=around, exact=exact, identity=identity)
        return {name: replace(made, blending=off[name]) for name, made in whole.items()}

    def fewer_draws(self) -> bool:
        """Half as many draws in a pass of every method from now on, after memory ran out; whether that is possible."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halved = [read_out.method.halve() for read_out in self.read_outs.values()]
        if any(halved):
            log.warning("Out of memory: half as many draws in a pass from now on.")
        return any(halved)

    def _too_large(self, side: int) -> OutOfMemory:
        return OutOfMemory(
            f"Out of memory at the smallest plan, {side} x {side} pixels at once, which takes about "
            f"{bytes_text(side**2 * KERNEL_FACTOR * self.pixel)}: free some memory, or take --device cpu."
        )

    def _smaller(self, image: Tensor | Normalised, side: int | None, error: Exception) -> int | None:
        """The side of the tiles from now on: half as many draws in a pass, or else half of the side."""
        if self.fewer_draws():
            return side
        align = self.tiler.geometry.align
        current = side or -(-max(image.shape[-2:]) // align) * align
        whole = self.plan.tile == "off" or bool(self._fixed)
        least = self.tiler.least(self.plan.mode) or align
        half = current // 2 // align * align
        fixed = whole or self.tiler.least(self.plan.mode) is None
        if fixed or current <= least:
            raise self._too_large(current if fixed else least) from error
        half = max(half, least)
        log.warning("Out of memory: tiles of %d pixels from now on.", half)
        self.plan = replace(self.plan, tile=half)
        return half


def _seconds_a_pixel(read_outs: Sequence[ReadOut], images: Tensor, head: Head) -> float:  # N C H W
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
