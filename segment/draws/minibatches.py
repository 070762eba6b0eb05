"""A plan and a number of images to T seeded mini-batches of M of them.

Must not know what an image is, nor a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segment.errors import WrongUse, integer


@dataclass(frozen=True, kw_only=True)
class DrawPlan:
    """How many draws, and from how many images each.

    draws: T, a count from 1 up (one draw has no variance: its maps are 0)
    batch: M, images per draw; the training batch size, for a smaller M widens the spread
    seed: an integer from 0 up; the same seed picks the same mini-batches everywhere
    """

    draws: int = 128
    batch: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("draws", 1), ("batch", 1), ("seed", 0)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least=least))  # no JSON takes NumPy's


@dataclass(frozen=True)
class MiniBatch:
    """One mini-batch: its images, and the seed of the training transform of each."""

    images: tuple[int, ...]
    seeds: tuple[int, ...]


def check_enough(batch: int, images: int) -> None:
    """Errors: WrongUse where a mini-batch is of more images than there are, or there are none."""
    if images < 1:
        raise WrongUse("There are no statistics images: give some training images.")
    if batch > images:
        raise WrongUse(
            f"A mini-batch of {batch} images was asked of {images}; no image is used twice in a mini-batch. "
            f"Give at least {batch} images, or ask for mini-batches of {images} or fewer: --batch {images} (`batch=` "
            "in Python; --batches of a sweep). Where nobody names it, M is the card's `training: batch`, else 32."
        )


def choices(plan: DrawPlan, images: int) -> tuple[MiniBatch, ...]:
    """T mini-batches of M among N images, without replacement within one; draw t does not depend on T.

    Errors: WrongUse where M is larger than N, or N is 0.

    >>> [choice.images for choice in choices(DrawPlan(draws=2, batch=3, seed=0), 5)]
    [(2, 4, 3), (1, 4, 3)]
    """
    check_enough(plan.batch, images)
    minibatches = []
    for draw in range(plan.draws):
        rng = np.random.default_rng([plan.seed, draw])
        picked = rng.permutation(images)[: plan.batch]
        seeds = rng.integers(2**31, size=plan.batch)
        minibatches.append(MiniBatch(tuple(int(index) for index in picked), tuple(int(seed) for seed in seeds)))
    return tuple(minibatches)
