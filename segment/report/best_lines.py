"""Which of many lines a picture shows: the best ones, and always the plain network and MCBN.

Must not know how a picture is drawn, nor what a rank is.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 8
"""Lines of a picture; more cannot be distinguished."""
KEPT = ("this run", "deterministic", "mcbn")
"""Methods whose best line is shown however many are better."""
NAMED = 6
"""Lines that are named at most, of those that are left out."""


def best_lines(names: Sequence[str], ranks: Sequence[float], most: int) -> list[int]:
    """The numbers of the lines of the lowest ranks, in order, among them the best of each method of `KEPT`.

    names: a method each, with more behind a comma

    >>> best_lines(["mcbn, M=4", "tta", "mcbn, M=8", "dropout"], [0.4, 0.1, 0.3, 0.2], 2)
    [1, 2]
    """
    order = sorted(range(len(names)), key=lambda number: ranks[number])
    methods = [name.partition(",")[0] for name in names]
    kept = [next(number for number in order if methods[number] == name) for name in KEPT if name in methods]
    return sorted([*kept, *(number for number in order if number not in kept)][:most])
