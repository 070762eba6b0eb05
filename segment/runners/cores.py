"""How the cores of some machines are shared out among processes. Must not know what starts these."""

from __future__ import annotations

import math
from collections.abc import Sequence


def shares(cores: Sequence[int], threads: int, actors: int | None) -> tuple[int, float]:
    """Actors, and the cores of each: as many as it has threads, fewer where not all would find a place.

    cores: of each machine. actors: as asked; None: as many as have their threads

    >>> shares([16, 16], 4, None), shares([16, 4], 8, None), shares([2], 2, 2), shares([3, 2], 1, 6)
    ((8, 4.0), (2, 8.0), (2, 1.0), (6, 0.5))
    """
    each = min(threads, max(cores))
    while actors is not None and each > 1 and sum(count // each for count in cores) < actors:
        each -= 1
    places = sum(count // each for count in cores)
    wanted = actors or places
    return wanted, float(each) if wanted <= places else 1 / math.ceil(wanted / places)


def most_together(cores: Sequence[int], actors: int, each: float) -> int:
    """Actors on the machine that has most of them, where they are spread as evenly as they find a place.

    cores: of each machine. each: cores of an actor

    >>> most_together([16, 16], 5, 4.0), most_together([16, 4], 2, 8.0), most_together([2], 3, 0.5)
    (3, 2, 3)
    """
    places = [int(count / each + 1e-6) for count in cores]
    together = 1
    while together < max(places) and sum(min(together, here) for here in places) < actors:
        together += 1
    return together
