"""A method over an image of any size: whole where that fits, else tile by tile, every draw of a tile before the next.

Must not know a file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segment.axes import Head, Plane
from segment.errors import OutOfMemory, WrongUse
from segment.estimation.estimate import Planes, estimate
from segment.estimation.memory_budget import FIXED, SCRATCH, Room, give_back_freed_pages, in_words
from segment.estimation.tiles import Tile, tiles
from segment.images.prepare import Prepared, pad
from segment.methods.method import BankMethod
from segment.networks.load import Network
from segment.passes.passes import Passes
from segment.tracing.pass_memory import PROBED, bytes_a_pixel
from segment.tracing.receptive_field import TileGeometry, measure_tiling
from segment.uncertainty.heads import probabilities
from segment.uncertainty.measures import needed
from segment.uncertainty.moments import DrawMoments
from segment.uncertainty.stopping import Stop, StopPlan, Watch, after, looks, on_grid, reached

log = logging.getLogger(__name__)

PREDICTION, PROBABILITY, STANDARD_ERROR = "prediction", "probability", "standard_error"

Tiling = int | Literal["auto", "off"]

GENEROUS = 4096
"""Bytes a pixel that no network takes: an image that has so much room goes whole, and nothing is measured."""

PROBED_DRAWS = 3
"""Passes that are measured: what is kept for all draws is there after the second."""

OUTSIDE = 48
"""Bytes a pixel around the passes: the image as read, this one and the next, as floats, and its pictures."""

SMALL = 2 * 64 * 2304
"""Pixels of an image that is not cut where half of them do not fit: so much is passed to measure what a cut changes."""

DECODING, DECODED = 12, 4
"""The same where maps go into files and an image is read when the one before is done: before its tiles, and beside."""


class Store(Plane, Protocol):
    """A plane that is written a window at a time, as NumPy's arrays are."""

    def __setitem__(self, window: Any, values: Any, /) -> None: ...


Blank = Callable[[tuple[int, ...], Any], Store]
"""Shape and type of numbers -> an array to write into."""


class Cut:
    """What cutting asks of a network, each measured once."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._warned = False

    @cached_property
    def geometry(self) -> TileGeometry:
        """Where the network's images may be cut, and how much further a tile looks than it is asked for."""
        stride = self.network.card.input.stride
        return measure_tiling(self.network, self.network.module, channels=self.network.channels, card_stride=stride)

    @property
    def align(self) -> int:
        return self.geometry.align

    @property
    def halo(self) -> int | None:
        return self.geometry.halo

    def lay(self, height: int, width: int, *, side: int, halo: int) -> tuple[Tile, ...]:
        """The tiles of an image of that size, with a warning, once, where their maps are not those of the whole."""
        stride = self.geometry.stride
        if (height % stride or width % stride) and not self._warned:
            self._warned = True
            log.warning(
                "%s has a stride of %d pixels, and %d x %d pixels are no multiple of it: maps in tiles differ from "
                "those of the whole image. Say `input: {stride: %d}` in its card.",
                self.network.name, stride, height, width, stride,
            )  # fmt: skip
        return tiles(height, width, side=side, halo=halo, align=self.align)

    @cached_property
    def pixel(self) -> float:
        """Bytes a pixel of tensors alive at once in `probe`, measured on a small image of noise."""
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand((1, self.network.channels, PROBED, PROBED), generator=generator)
        return bytes_a_pixel(self.probe, self.network.module, pad(noise, self.network.card.input))

    def probe(self, images: Tensor) -> object:
        """What takes the most memory in the work on an image (1 C H W)."""
        raise NotImplementedError


class InTiles(Cut):
    """Estimates of images (1 C H W, prepared) within a room of memory.

    tile: "auto": tiles where an image does not fit whole; "off": never; N: tiles of N x N wherever an image is larger
    within: what may be taken; None: nothing is planned, and only a device that runs out makes tiles
    keep: whether the mean probability is wanted of an image in tiles
    blank: where the maps of an image in tiles go, a tile at a time; numpy.empty: into memory
    stop: when an image has had draws enough; None: it has all. Tiles are passed under 8, 16, 32, ... draws until the
    whole image has, which takes twice the passes
    planned: whether an image was so large that the room had a say
    """

    def __init__(
        self, method: BankMethod, network: Network, *, measures: Sequence[str], tile: Tiling = "auto",
        within: Room | None = None, keep: bool = False, blank: Blank = np.empty, stop: StopPlan | None = None,
    ) -> None:  # fmt: skip
        super().__init__(network)
        self.method, self.tile, self.within = method, tile, within
        self.blank, self.stop = blank, stop
        self.measures, self.keep = tuple(measures), keep or network.card.head == "multilabel"
        self._computed = self.measures if stop is None else (*self.measures, STANDARD_ERROR)
        self.planned = False

    @property
    def fold(self) -> int:
        return self.method.passes.plan.fold

    @property
    def head(self) -> Head:
        return self.network.card.head

    def __call__(self, images: Tensor | Prepared, size: tuple[int, int]) -> Planes:
        """The estimate of one image (1 C H W), cropped to `size` (H, W).

        Errors: OutOfMemory where even the smallest tiles do not fit, with what they need.
        """
        side = self.side_for(*images.shape[-2:])
        while True:
            try:
                return self._estimate(images, size, side)
            except (torch.OutOfMemoryError, RuntimeError) as problem:
                if not _out_of_memory(problem):
                    raise
                side = self._smaller(images, side, problem)

    def side_for(self, height: int, width: int) -> int | None:
        """The side of the tiles of an image of that size, None where it goes whole. Errors: OutOfMemory, WrongUse."""
        if isinstance(self.tile, int):
            return None if max(height, width) <= self.tile else self._checked(self.tile)
        if self.within is None or height * width * GENEROUS <= self.within.free:
            return None
        self.planned = True
        area = height * width
        whole = area * (SCRATCH * self.pixel + OUTSIDE + self._of_maps) + FIXED
        if whole <= self.within.free:
            return None
        if self.tile == "off":
            raise self.within.too_small(whole, "Give more --memory, or leave --tile off out.")
        around = area * (DECODED if self.blank is not np.empty else OUTSIDE + self._of_maps) + FIXED
        return side_within(
            self.within, area, pixel=SCRATCH * self.pixel, whole=whole, around=around, before=area * DECODING + FIXED,
            geometry=lambda: self.geometry,
            advice=f"Give more --memory, or --tile N: {self.network.name!r} looks at the whole image, so its maps "
            "change where it is cut",
        )  # fmt: skip

    @property
    def _of_maps(self) -> int:  # bytes a pixel
        return 4 * len(self.measures) + 8 + (8 * self.network.classes if self.keep else 0)

    def probe(self, images: Tensor) -> DrawMoments:
        passes = self.method.passes
        plain = Passes(passes.network, passes.bank, replace(passes.plan, fuse=False))  # fused calls hide a tensor
        moments = DrawMoments(self.head, needed(self._computed))
        for logits in islice(plain(images), PROBED_DRAWS):
            moments.update(probabilities(logits, self.head))
        return moments

    def _checked(self, asked: int) -> int:
        side = asked // self.align * self.align
        halo = self.halo
        if halo is None:
            if side < 3 * self.align:
                raise WrongUse(f"--tile {asked} is too small for this network; take {3 * self.align} or more.")
            log.warning(
                "%s looks at the whole image: cut into tiles of %d, its maps change, most of all along the cuts. %s.",
                self.network.name, side, self.geometry.reason.capitalize(),
            )  # fmt: skip
        elif side < 2 * halo + self.align:
            raise WrongUse(
                f"--tile {asked} is too small: this network feels a cut {halo} pixels away, so its tiles need "
                f"{2 * halo + self.align} or more."
            )
        return side

    def halo_within(self, side: int) -> int:
        """The measured halo, or a quarter of a tile where the whole image would be needed."""
        return self.halo if self.halo is not None else max(self.align, side // 4 // self.align * self.align)

    def _estimate(self, images: Tensor | Prepared, size: tuple[int, int], side: int | None) -> Planes:
        draws, stop = self.method.draws, self.stop
        if side is None:
            whole = images[..., :, :]
            return self._planes(whole, self.measures, size, None if stop is None else Watch(self.head, draws, stop))
        made: dict[str, Store] = {}
        laid = self.lay(*images.shape[-2:], side=side, halo=self.halo_within(side))
        for count in (draws,) if stop is None else looks(draws, stop.first):
            found = self._tiled(images, size, laid, count, made)
            if stop is not None and found.reached_error is not None and found.reached_error <= stop.tolerance:
                break
        return found

    def _tiled(
        self, images: Tensor | Prepared, size: tuple[int, int], laid: Sequence[Tile], draws: int, made: dict[str, Store]
    ) -> Planes:
        """Every tile under the first draws, into what is made already or will be."""
        errors = []
        for tile in laid:
            if self.planned:
                give_back_freed_pages()
            seen = images[(..., *tile.seen)].contiguous()
            part = self._planes(seen, self._computed, stop=after(draws))
            if self.stop is not None:
                corner = tile.kept[0].start, tile.kept[1].start
                kept = torch.from_numpy(part.maps[STANDARD_ERROR][tile.within])
                errors.append(on_grid(kept, corner, size).flatten())
            for name, values in _arrays(part).items():
                if name not in (PREDICTION, PROBABILITY, *self.measures):
                    continue
                if name not in made:
                    made[name] = self.blank((*values.shape[:-2], *size), values.dtype)
                _put(values, made[name], tile.within, tile.kept)
        error = None if self.stop is None else reached(torch.cat(errors), self.stop.quiet)
        maps = {name: values for name, values in made.items() if name not in (PREDICTION, PROBABILITY)}
        return replace(
            part, prediction=made[PREDICTION], probability=made.get(PROBABILITY), maps=maps, reached_error=error
        )

    def _planes(
        self, images: Tensor, measures: Sequence[str], size: tuple[int, int] | None = None, stop: Stop | None = None
    ) -> Planes:
        found = estimate(self.method, images, head=self.head, measures=measures, size=size, stop=stop).image(0)
        classes = self.network.classes
        kind = np.uint8 if classes <= 2**8 else np.uint16 if classes <= 2**16 else np.int64
        maps = {name: values.float().cpu().numpy() for name, values in found.maps.items()}
        probability = found.probability.float().cpu().numpy() if self.keep else None
        return Planes(
            found.prediction.cpu().numpy().astype(kind), probability, maps, found.draws, found.withheld,
            found.reached_error,
        )  # fmt: skip

    def _smaller(self, images: Tensor | Prepared, side: int | None, problem: Exception) -> int | None:
        """Half of the draws in a pass, or half of the tile's side, for this image and all that follow."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        passes = self.method.passes
        if passes.plan.fold > 1:
            passes.plan = replace(passes.plan, fold=passes.plan.fold // 2)
            log.warning("Out of memory: %d draws in a pass from now on.", passes.plan.fold)
            return side
        now = side or -(-max(images.shape[-2:]) // self.align) * self.align
        least = 2 * (self.halo or 0) + self.align
        half = now // 2 // self.align * self.align
        if self.tile == "off" or self.halo is None or now <= least:
            smallest = now if self.tile == "off" or self.halo is None else least
            raise OutOfMemory(
                f"Out of memory at the smallest plan, {smallest} x {smallest} pixels at once, which takes about "
                f"{in_words(smallest**2 * SCRATCH * self.pixel)}: free some memory, or take --device cpu."
            ) from problem
        half = max(half, least)
        log.warning("Out of memory: tiles of %d pixels from now on.", half)
        self.tile = half
        return half


def side_within(
    within: Room, area: int, *, pixel: float, whole: float, around: float, before: float,
    geometry: Callable[[], TileGeometry], advice: str,
) -> int:  # fmt: skip
    """The largest tiles that an image of so many pixels, which does not fit whole, may have.

    pixel, whole: bytes of a pass a pixel, and of the image in one piece; around, before: bytes beside the passes over
    its tiles, and before they begin; geometry: measured when it is asked for; advice: where there is no halo
    Errors: OutOfMemory where the smallest tiles do not fit, or the network looks at the whole image.
    """
    if area <= SMALL and SMALL / 2 * pixel + FIXED > within.free:
        raise within.too_small(whole, "Give more --memory.")
    cut = geometry()
    if cut.halo is None:
        raise within.too_small(whole, f"{advice}: {cut.reason}.")
    least = 2 * cut.halo + cut.align
    needed = min(whole, max(before, around + least**2 * pixel))
    if needed > within.free:
        raise within.too_small(needed, "Give more --memory.")
    return max(least, math.isqrt(int((within.free - around) / pixel)) // cut.align * cut.align)


def _out_of_memory(problem: Exception) -> bool:
    return isinstance(problem, torch.OutOfMemoryError) or "can't allocate memory" in str(problem)


def _arrays(part: Planes) -> dict[str, NDArray[Any]]:
    found = {PREDICTION: part.prediction, **part.maps} | (
        {} if part.probability is None else {PROBABILITY: part.probability}
    )
    return {name: np.asarray(values) for name, values in found.items()}


def _put(part: NDArray[Any], whole: Store, within: tuple[slice, slice], kept: tuple[slice, slice]) -> None:
    """The kept part of a tile into its place, as far as it lies in the image without its padding."""
    height, width = whole.shape[-2:]
    rows, columns = (slice(one.start, min(one.stop, end)) for one, end in zip(kept, (height, width), strict=True))
    if rows.start < rows.stop and columns.start < columns.stop:
        inner = part[(..., *within)]
        whole[..., rows, columns] = inner[..., : rows.stop - rows.start, : columns.stop - columns.start]
