"""Images to Estimates within a memory budget: whole where that fits, else in tiles. It knows no file and no score."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from segment.errors import FastPathDiffers, OutOfMemory, WrongUse
from segment.estimation.estimate import Estimate, ReadOut, accumulate, estimates, from_the_first_draw, sums_of
from segment.estimation.memory_budget import FIXED, SCRATCH, MemoryBudget, in_words, release_freed_pages
from segment.estimation.tiling.assembly import Blank, assembled, compared
from segment.estimation.tiling.tiler import Needs, TileMode, Tiler, Tiling, TilingCost, total_cost
from segment.estimation.tiling.tiles import Cut, Tile
from segment.images.formats.georeference import GDAL_CACHE
from segment.images.prepare import Normalised, padding
from segment.images.windowed import bytes_held
from segment.networks.load import Network
from segment.tracing.pass_memory import PROBED, bytes_a_pixel, ran_out_of_memory
from segment.uncertainty.stopping import StoppingRule, StopPlan, check_counts, error_quantile, on_grid

log = logging.getLogger(__name__)

STANDARD_ERROR = "standard_error"

GENEROUS = 4096
"""Bytes a pixel and read-out above what any network takes: where they are free, an image is not tiled nor measured."""

OUTSIDE = 48
"""Bytes a pixel beside the passes: this image and the next as read and as floats, and its pictures."""

DECODED = 4
"""Those of them that an image of three 8-bit channels takes, and where it holds data: before the tiles three times."""

WRITING = 192 * 2**20
"""Bytes beside the passes that the pictures and the cloud-optimised copy of an image in windows take."""


@dataclass(frozen=True, kw_only=True)
class EstimatePlan:
    """How images are estimated.

    tile: "auto": tiles where an image does not fit whole; "off": never; N: tiles of N x N wherever an image is larger
    mode: "exact": tiles have the maps of the whole image; "blended": they overlap less, and are mixed there
    budget: memory that may be taken; None: tiles are used only after a device has run out of memory
    beside: bytes a pixel that the caller takes for an estimate during the next image's passes
    blank: makes the arrays that the tiles of an image are written into; None: in memory, as are the overlaps of
    blended tiles then, which the budget does not count
    held_passes: how many passes' tensors the engine holds at once
    stop: when an image has enough draws; None: it gets all. In tiles the whole image is passed under 8, 16, 32, ...
    draws until it has enough, which takes up to twice the passes
    """

    tile: Tiling = "auto"
    mode: TileMode = "exact"
    budget: MemoryBudget | None = None
    beside: int = 0
    blank: Blank | None = None
    held_passes: int = 1
    stop: StopPlan | None = None


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
        side = self.side_for(*image.shape[-2:], in_memory=getattr(image, "in_memory", True))
        while True:
            try:
                if side is None:
                    whole = self.whole(image[..., :, :], identity)
                    return {name: made.image(0) for name, made in whole.items()}
                return self._verified(lambda side=side: self._in_tiles(image, side, identity))  # type: ignore[misc]
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not ran_out_of_memory(error):
                    raise
                side = self._smaller(image, side, error)

    def whole(self, images: Tensor, identity: str = "") -> dict[str, Estimate[Tensor]]:
        """The estimates of N images (N C H W) side by side, without a memory plan."""
        return self._verified(
            lambda: estimates(self.read_outs, images, self.network.card.head, identity=identity, stop=self._watch())
        )

    def _verified(self, work: Callable[[], dict[str, Estimate[Any]]]) -> dict[str, Estimate[Any]]:
        """The result of `work`; where a fast path differs, the earlier images that it may have changed are counted."""
        methods = [read_out.method for read_out in self.read_outs.values()]

        def differed(error: FastPathDiffers) -> None:
            self.to_redo = max(self.to_redo, *(method.unverified for method in methods))
            self.why = str(error)

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
        noise = torch.rand((1, self.network.channels, PROBED, PROBED), generator=torch.Generator().manual_seed(0))
        seconds: list[float] = []
        return bytes_a_pixel(lambda part: seconds.append(self._probe(part)), self.network.module, noise), seconds[-1]

    def _probe(self, images: Tensor) -> float:
        """A few passes of each method, their moments kept until all are done; seconds a pixel of all."""
        kept, seconds = [], 0.0
        for method in {id(read_out.method): read_out.method for read_out in self.read_outs.values()}.values():
            of_method = [read_out for read_out in self.read_outs.values() if read_out.method is method]
            computed = [replace(read_out, measures=self._computed(read_out)) for read_out in of_method]
            kept.append(sums_of(computed, self.network.card.head))
            probe = method.probe()
            for _ in accumulate(probe, images, kept[-1]):
                continue
            begun = time.perf_counter()  # the first image is traced, and compared with plain passes
            count = sum(1 for _ in accumulate(probe, images, kept[-1]))
            seconds += (time.perf_counter() - begun) / count * max(read_out.passes for read_out in of_method)
        return seconds / images.shape[-2:].numel()

    def _computed(self, read_out: ReadOut) -> tuple[str, ...]:
        """Its measures, and the one that decides when the draws stop."""
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
            return None if max(height, width) <= plan.tile else self.tiler.asked(plan.tile, plan.mode)
        if plan.budget is None or area * GENEROUS * len(self.read_outs) <= plan.budget.free:
            return None
        self.planned = True
        needs = self._needs(area, in_memory=in_memory)
        if needs.whole <= plan.budget.free:
            return None
        if plan.tile == "off":
            raise plan.budget.too_small(needs.whole, "Give more --memory, or remove --tile off.")
        if fixed := [name for name, read_out in self.read_outs.items() if not read_out.method.tileable]:
            raise plan.budget.too_small(
                needs.whole, f"Give more --memory, or leave out the methods that cannot be tiled: {', '.join(fixed)}."
            )
        return self.tiler.within(plan.budget, area, needs, plan.mode)

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        bottom, right = padding(height, width, self.network.card.input.stride)
        return height + bottom, width + right

    def _needs(self, area: int, *, in_memory: bool) -> Needs:
        held = 1 + bytes_held(self.network.input)  # and whether it holds data
        beside = area * (OUTSIDE + 4 * (held - DECODED) + self.plan.beside + self.kept) + FIXED
        in_files = self.plan.blank is not None
        read = FIXED if in_memory else FIXED + WRITING + GDAL_CACHE + area // 8
        return Needs(
            pixel=SCRATCH * self.pixel,
            whole=beside + area * SCRATCH * self.pixel,
            around=area * held * in_memory + read if in_files else beside,
            before=3 * area * held * in_memory + read if in_files else beside,
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
        cut, stop = self.tiler.cut(side, self.plan.mode), self.plan.stop
        self.tiler.warn_of_sides(image.shape[-2], image.shape[-1])
        if stop is None:
            return self._assembled(image, cut, self.read_outs, identity)
        ((name, read_out),) = self.read_outs.items()
        for draws in check_counts(read_out.passes, stop.first):
            first_draws = replace(read_out, measures=self._computed(read_out), draws=draws)
            made = self._assembled(image, cut, {name: first_draws}, identity)
            error = made[name].reached_error
            if error is not None and error <= stop.tolerance:
                break
        return made

    def _assembled(
        self, image: Tensor | Normalised, cut: Cut, read_outs: Mapping[str, ReadOut], identity: str
    ) -> dict[str, Estimate[Any]]:
        """The estimates of the whole image, put together from those of its tiles; blended ones with their error."""
        errors: list[Tensor] = []
        head, stop, size = self.network.card.head, self.plan.stop, (image.shape[-2], image.shape[-1])

        def after(tile: Tile, parts: Mapping[str, Estimate[Tensor]]) -> None:
            if self.planned:
                release_freed_pages()
            for part in parts.values() if stop is not None else ():
                corner = tile.inner_rows[0], tile.inner_columns[0]
                errors.append(on_grid(part.maps[STANDARD_ERROR], corner, size).flatten())

        whole = assembled(
            image,
            cut,
            read_outs,
            head,
            classes=lambda: self.network.classes,
            measures={name: read_out.measures for name, read_out in self.read_outs.items()},
            blank=self.plan.blank,
            identity=identity,
            after=after,
        )
        if self.planned:  # what is written next takes blocks of other sizes
            release_freed_pages()
        if stop is not None:
            error = error_quantile(torch.cat(errors), stop.quiet)
            whole = {name: replace(made, reached_error=error) for name, made in whole.items()}
        if not cut.blended:
            return whole
        budget, in_memory = self.plan.budget, getattr(image, "in_memory", True)
        needs = None if budget is None else self._needs(math.prod(size), in_memory=in_memory)
        around = self.tiler.around(cut, needs, 0 if budget is None else budget.free)
        exact = self.tiler.geometry.halo is not None and around >= self.tiler.geometry.halo
        off = compared(image, whole, cut, read_outs, head, around=around, exact=exact, identity=identity)
        return {name: replace(made, blending=off[name]) for name, made in whole.items()}

    def _smaller(self, image: Tensor | Normalised, side: int | None, error: Exception) -> int | None:
        """The side of the tiles from now on: half as many draws in a pass, or else half of the side."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halved = [read_out.method.halve() for read_out in self.read_outs.values()]
        if any(halved):
            log.warning("Out of memory: half as many draws in a pass from now on.")
            return side
        align = self.tiler.geometry.align
        current = side or -(-max(image.shape[-2:]) // align) * align
        whole = self.plan.tile == "off" or not all(read_out.method.tileable for read_out in self.read_outs.values())
        least = self.tiler.least(self.plan.mode) or align
        half = current // 2 // align * align
        fixed = whole or self.tiler.least(self.plan.mode) is None
        if fixed or current <= least:
            smallest = current if fixed else least
            raise OutOfMemory(
                f"Out of memory at the smallest plan, {smallest} x {smallest} pixels at once, which takes about "
                f"{in_words(smallest**2 * SCRATCH * self.pixel)}: free some memory, or take --device cpu."
            ) from error
        half = max(half, least)
        log.warning("Out of memory: tiles of %d pixels from now on.", half)
        self.plan = replace(self.plan, tile=half)
        return half
