"""Images to Estimates within a memory budget: whole where that fits, else in tiles. It knows no file and no score."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from segment.errors import FastPathDiffers, OutOfMemory, WrongUse
from segment.estimation.assembly import Blank, added, empty_whole, with_own_sums, write_tile
from segment.estimation.estimate import (
    Estimate,
    ReadOut,
    accumulate,
    estimates,
    from_the_first_draw,
    sums_of,
)
from segment.estimation.memory_budget import FIXED, SCRATCH, MemoryBudget, in_words, release_freed_pages
from segment.estimation.tiles import Tile, side_within, tiles
from segment.images.prepare import Normalised, padding
from segment.networks.load import Network
from segment.tracing.pass_memory import PROBED, bytes_a_pixel, ran_out_of_memory
from segment.tracing.receptive_field import TileGeometry, measure_tiling
from segment.uncertainty.stopping import StoppingRule, StopPlan, check_counts, error_quantile, on_grid

log = logging.getLogger(__name__)

STANDARD_ERROR = "standard_error"

Tiling = int | Literal["auto", "off"]

GENEROUS = 4096
"""Bytes a pixel and read-out above what any network takes: where they are free, an image is not tiled nor measured."""

OUTSIDE = 48
"""Bytes a pixel beside the passes: this image and the next as read and as floats, and its pictures."""

DECODING, DECODED = 12, 4
"""The same where maps go into files and images are read one after the other: before the tiles, and beside them."""


@dataclass(frozen=True, kw_only=True)
class EstimatePlan:
    """How images are estimated.

    tile: "auto": tiles where an image does not fit whole; "off": never; N: tiles of N x N wherever an image is larger
    budget: memory that may be taken; None: tiles are used only after a device has run out of memory
    beside: bytes a pixel that the caller takes for an estimate during the next image's passes
    blank: makes the arrays that the tiles of an image are written into; None: in memory
    stop: when an image has enough draws; None: it gets all. In tiles the whole image is passed under 8, 16, 32, ...
    draws until it has enough, which takes up to twice the passes
    """

    tile: Tiling = "auto"
    budget: MemoryBudget | None = None
    beside: int = 0
    blank: Blank | None = None
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
        self._warned = False
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

    @cached_property
    def geometry(self) -> TileGeometry:
        """Where the network's images may be cut, and the halo that a tile needs."""
        stride = self.network.card.input.stride
        return measure_tiling(self.network, self.network.module, channels=self.network.channels, card_stride=stride)

    def _tiles_of(self, height: int, width: int, side: int) -> tuple[Tile, ...]:
        """The tiles of an image of that size; warns once where their maps differ from those of the whole image."""
        stride = self.geometry.stride
        bottom, right = padding(height, width, self.network.card.input.stride)
        if ((height + bottom) % stride or (width + right) % stride) and not self._warned:
            self._warned = True
            log.warning(
                "%s has a stride of %d pixels, and %d x %d pixels are no multiple of it: maps in tiles differ from "
                "those of the whole image. Say `input: {stride: %d}` in its card.",
                self.network.name,
                stride,
                height,
                width,
                stride,
            )
        return tiles(height, width, side=side, halo=self.halo_within(side), align=self.geometry.align)

    @cached_property
    def pixel(self) -> float:
        """Bytes a pixel of tensors alive at once in the passes, measured on a small image of noise."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand((1, self.network.channels, PROBED, PROBED), generator=generator)
        return bytes_a_pixel(self._probe, self.network.module, noise)

    def _probe(self, images: Tensor) -> object:
        kept = []
        for method in {id(read_out.method): read_out.method for read_out in self.read_outs.values()}.values():
            computed = [
                replace(read_out, measures=self._computed(read_out))
                for read_out in self.read_outs.values()
                if read_out.method is method
            ]
            kept.append(sums_of(computed, self.network.card.head))
            for _ in accumulate(method.probe(), images, kept[-1]):
                continue
        return kept

    def _computed(self, read_out: ReadOut) -> tuple[str, ...]:
        """Its measures, and the one that decides when the draws stop."""
        return tuple(dict.fromkeys([*read_out.measures, *([STANDARD_ERROR] if self.plan.stop else [])]))

    @property
    def _kept(self) -> int:
        """Bytes a pixel of all estimates, twice: as computed from the moments, and as returned."""
        each = (
            4 * len(read_out.measures) + 8 + 4 * self.network.classes * read_out.probability
            for read_out in self.read_outs.values()
        )
        return 2 * sum(each)

    @property
    def bytes_in_flight(self) -> int:
        """Bytes a pixel of an image that waits for the network, or whose estimates wait to be written."""
        return OUTSIDE + self._kept

    def side_for(self, height: int, width: int, *, in_memory: bool = True) -> int | None:
        """The side of the tiles of an image of that size, None where it is not tiled. Errors: OutOfMemory, WrongUse.

        in_memory: whether its pixels are; else they are read a window at a time
        """
        bottom, right = padding(height, width, self.network.card.input.stride)
        height, width, budget = height + bottom, width + right, self.plan.budget
        if isinstance(self.plan.tile, int):
            return None if max(height, width) <= self.plan.tile else self._checked(self.plan.tile)
        area = height * width
        if budget is None or area * GENEROUS * len(self.read_outs) <= budget.free:
            return None
        self.planned = True
        beside = area * (OUTSIDE + self.plan.beside + self._kept) + FIXED
        whole = beside + area * SCRATCH * self.pixel
        if whole <= budget.free:
            return None
        if self.plan.tile == "off":
            raise budget.too_small(whole, "Give more --memory, or remove --tile off.")
        if fixed := [name for name, read_out in self.read_outs.items() if not read_out.method.tileable]:
            raise budget.too_small(
                whole, f"Give more --memory, or leave out the methods that cannot be tiled: {', '.join(fixed)}."
            )
        in_files = self.plan.blank is not None
        return side_within(
            budget,
            area,
            pixel=SCRATCH * self.pixel,
            whole=whole,
            geometry=lambda: self.geometry,
            around=area * DECODED * in_memory + FIXED if in_files else beside,
            before=area * DECODING * in_memory + FIXED if in_files else beside,
            advice=f"Give more --memory, or --tile N: {self.network.name!r} depends on the whole image, so its maps "
            "change where it is cut",
        )

    def _checked(self, tile: int) -> int:
        halo, align = self.geometry.halo, self.geometry.align
        side = tile // align * align
        if halo is None:
            if side < 3 * align:
                raise WrongUse(f"--tile {tile} is too small for this network; take {3 * align} or more.")
            log.warning(
                "%s depends on the whole image: cut into tiles of %d, its maps change, most of all along the cuts. %s.",
                self.network.name,
                side,
                self.geometry.reason.capitalize(),
            )
        elif side < 2 * halo + align:
            raise WrongUse(
                f"--tile {tile} is too small: a cut changes this network's outputs up to {halo} pixels away, so its "
                f"tiles need {2 * halo + align} or more."
            )
        return side

    def halo_within(self, side: int) -> int:
        """The measured halo, or a quarter of a tile where none is large enough."""
        halo, align = self.geometry.halo, self.geometry.align
        return halo if halo is not None else max(align, side // 4 // align * align)

    def _in_tiles(self, image: Tensor | Normalised, side: int, identity: str) -> dict[str, Estimate[Any]]:
        cut = self._tiles_of(image.shape[-2], image.shape[-1], side)
        stop = self.plan.stop
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
        self, image: Tensor | Normalised, cut: Sequence[Tile], read_outs: Mapping[str, ReadOut], identity: str
    ) -> dict[str, Estimate[Any]]:
        """The estimates of the whole image, put together from those of its tiles."""
        whole: dict[str, Estimate[Any]] = {}
        errors: list[Tensor] = []
        size = (image.shape[-2], image.shape[-1])
        for tile in cut:
            if self.planned:
                release_freed_pages()
            seen = image[(..., *tile.seen)].contiguous()
            asked = {name: replace(each, probability=each.probability or each.sums) for name, each in read_outs.items()}
            for name, part in estimates(asked, seen, self.network.card.head, identity=identity).items():
                part = with_own_sums(part.image(0), read_outs[name], tile, self.network.card.head)
                if self.plan.stop is not None:
                    kept = part.maps[STANDARD_ERROR][tile.within]
                    errors.append(on_grid(kept, (tile.kept[0].start, tile.kept[1].start), size).flatten())
                maps = {key: part.maps[key] for key in self.read_outs[name].measures if key in part.maps}
                part = replace(part, maps=maps)
                made = whole.get(name) or empty_whole(part, size, self.plan.blank, self.network.classes)
                write_tile(part, made, tile)
                whole[name] = added(made, part) if name in whole else made
        if self.plan.stop is None:
            return whole
        error = error_quantile(torch.cat(errors), self.plan.stop.quiet)
        return {name: replace(made, reached_error=error) for name, made in whole.items()}

    def _smaller(self, image: Tensor | Normalised, side: int | None, error: Exception) -> int | None:
        """The side of the tiles from now on: half as many draws in a pass, or else half of the side."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        halved = [read_out.method.halve() for read_out in self.read_outs.values()]
        if any(halved):
            log.warning("Out of memory: half as many draws in a pass from now on.")
            return side
        halo, align = self.geometry.halo, self.geometry.align
        current = side or -(-max(image.shape[-2:]) // align) * align
        whole = self.plan.tile == "off" or not all(read_out.method.tileable for read_out in self.read_outs.values())
        least = 2 * (halo or 0) + align
        half = current // 2 // align * align
        if whole or halo is None or current <= least:
            smallest = current if whole or halo is None else least
            raise OutOfMemory(
                f"Out of memory at the smallest plan, {smallest} x {smallest} pixels at once, which takes about "
                f"{in_words(smallest**2 * SCRATCH * self.pixel)}: free some memory, or take --device cpu."
            ) from error
        half = max(half, least)
        log.warning("Out of memory: tiles of %d pixels from now on.", half)
        self.plan = replace(self.plan, tile=half)
        return half
