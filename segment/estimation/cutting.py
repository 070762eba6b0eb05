"""Readings of an image of any size within a room of memory: whole where they fit, else tile by tile.

Only methods whose passes see the image as it is can be cut: a mirrored or rescaled view, or a dropout mask, would be
another one in each tile. Must not know a file or a score.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from segment.errors import OutOfMemory
from segment.estimation.estimate import Estimate
from segment.estimation.memory_budget import FIXED, SCRATCH, Room, give_back_freed_pages
from segment.estimation.readings import Read, Reading, read
from segment.estimation.tiled import GENEROUS, OUTSIDE, Cut, side_within
from segment.methods.augmentation import View, Viewed
from segment.methods.method import BankMethod, Ensemble, Method, Plain
from segment.networks.load import Network

SCORING = 256
"""Bytes a pixel while an image is scored: its label, the order of its errors, and what a measure is compared with."""


class Readings(Cut):
    """Called with an image (1 C H W, not padded) and its id, gives every reading of it.

    within: what may be taken; None: nothing is planned
    """

    def __init__(self, network: Network, readings: Mapping[str, Reading], within: Room | None = None) -> None:
        super().__init__(network)
        self.readings, self.within = dict(readings), within

    def __call__(self, images: Tensor, identity: str = "") -> dict[str, Read]:
        """Errors: OutOfMemory where even the smallest tiles do not fit, with what they need."""
        side = self.side_for(*images.shape[-2:])
        head = self.network.card.head
        if side is None:
            return read(self.readings, images, head, identity)
        found: dict[str, Read] = {}
        for tile in self.lay(*images.shape[-2:], side=side, halo=self.halo or 0):
            give_back_freed_pages()
            parts = read(self.readings, images[(..., *tile.seen)].contiguous(), head, identity)
            for name, part in parts.items():
                whole = found[name] if name in found else Read(_blank(part.estimate, images.shape[-2:]), 0.0)
                for values, one in zip(_tensors(whole.estimate), _tensors(part.estimate), strict=True):
                    values[(..., *tile.kept)] = one[(..., *tile.within)]
                found[name] = Read(whole.estimate, whole.seconds + part.seconds)
        return found

    def side_for(self, height: int, width: int) -> int | None:
        """The side of the tiles of an image of that size, None where it goes whole. Errors: OutOfMemory."""
        area = height * width
        if self.within is None or area * GENEROUS * len(self.readings) <= self.within.free:
            return None
        around = area * (OUTSIDE + SCORING + 2 * self._kept) + FIXED  # one image is scored beside the next one's passes
        whole = around + area * SCRATCH * self.pixel
        if whole <= self.within.free:
            return None
        fixed = [name for name, reading in self.readings.items() if not _sees_it_as_it_is(reading.method)]
        if fixed:
            raise self.within.too_small(
                whole, f"Give more --memory, or leave out what cannot be cut: {', '.join(fixed)}."
            )
        return side_within(
            self.within, area, pixel=SCRATCH * self.pixel, whole=whole, around=around, before=around,
            geometry=lambda: self.geometry,
            advice=f"Give more --memory: {self.network.name!r} looks at the whole image and cannot be cut",
        )  # fmt: skip

    def refuse_cut(self, height: int, width: int, why: str) -> None:
        """Errors: OutOfMemory where an image of that size does not go whole."""
        if self.side_for(height, width) is not None:
            raise OutOfMemory(f"An image of {height} x {width} pixels does not go through whole, and {why}")

    @property
    def _kept(self) -> int:
        """Bytes a pixel of all estimates."""
        return sum(4 * (self.network.classes + len(one.measures)) + 8 for one in self.readings.values())

    def probe(self, images: Tensor) -> dict[str, Read]:
        return read(self.readings, images, self.network.card.head)


def _sees_it_as_it_is(method: Method) -> bool:
    if isinstance(method, Ensemble):
        return all(_sees_it_as_it_is(member) for member in method.members)
    if isinstance(method, Viewed):
        return method.views == (View(),) and all(_sees_it_as_it_is(inner) for inner in method.methods)
    return isinstance(method, BankMethod | Plain)


def _tensors(estimate: Estimate) -> list[Tensor]:
    return [estimate.prediction, estimate.probability, *estimate.maps.values()]


def _blank(part: Estimate, size: torch.Size) -> Estimate:
    def like(values: Tensor) -> Tensor:
        return torch.empty((*values.shape[:-2], *size), dtype=values.dtype)

    maps = {name: like(values) for name, values in part.maps.items()}
    return Estimate(like(part.prediction), like(part.probability), maps, part.draws, part.withheld)
