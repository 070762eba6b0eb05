"""Successive halving: many arms on a few images and draws, the better ones on more, one on all.

Must not know what an arm is.
"""

from __future__ import annotations

from dataclasses import dataclass

BUDGET = 30
"""Passes over every validation image that a choice for 16 passes may cost, all arms together."""
FOR = 16
LEAST = 4
"""Images of a rung at least: fewer say nothing about an arm."""


@dataclass(frozen=True)
class Rung:
    """A number of arms, each on a number of images with a number of draws."""

    arms: int
    images: int
    draws: int

    @property
    def cost(self) -> int:
        """Passes, of all arms over all images of the rung."""
        return self.arms * self.images * self.draws


def rungs(arms: int, images: int, passes: int, reserved: int, fewest: int = 1) -> tuple[Rung, ...]:
    """The rungs of a search whose last one has one arm on all images with all passes.

    Args:
        arms: How many there are, 1 or more.
        images: N, validation images.
        passes: T, the most passes that a chosen setting may take.
        reserved: Passes over every image that are needed besides (a deterministic pass, and its views).
        fewest: Draws of a rung at least: as many as views, where an arm has a pass for each.

    Returns:
        One to three rungs that cost less than BUDGET / FOR * passes passes over every image, with `reserved`, where
        that is possible at all with LEAST images and the fewest draws in a rung.

    >>> [(rung.arms, rung.images, rung.draws) for rung in rungs(8, 101, 16, 3)]
    [(8, 13, 4), (3, 28, 8), (1, 101, 16)]

    """
    last = Rung(1, images, passes)
    if arms == 1:
        return (last,)
    left = images * (BUDGET * passes / FOR - reserved) - last.cost
    kept = max(1, -(-arms // 3))
    if kept == 1:
        return _rung(arms, images, passes // 4, left, fewest), last
    first = _rung(arms, images, passes // 4, 0.4 * left, fewest)
    return first, _rung(kept, images, passes // 2, left - first.cost, fewest), last


def _rung(arms: int, images: int, draws: int, passes: float, fewest: int) -> Rung:
    """A rung of at most `passes` passes: fewer images first, then fewer draws."""
    least = min(LEAST, images)
    draws = max(fewest, min(draws, int(passes / (arms * least))))
    return Rung(arms, min(images, max(least, int(passes / (arms * draws)))), draws)
