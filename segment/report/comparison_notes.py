"""What a comparison of two runs says of the number of its images or groups.

Must not know a column.
"""

from __future__ import annotations

from segment.errors import count_of
from segment.report.tables import few
from segment.significance.paired import FEW, least_images, seen_deviations


def paired_notes(counts: tuple[int, int, int], units: int, over: str, tests: int) -> tuple[str, ...]:
    """What paired tests of so few can show.

    counts: images of A, of B, of both. units: how many are compared, of `over`: "images" or "groups". tests: how many
    """
    first, second, both = counts
    notes = []
    if both < max(first, second):
        notes.append(f"{_are(both, 'images')} in both runs and compared; A has {first}, B {second}.")
    seen = seen_deviations(units, max(tests, 1))
    if units == 1:
        notes.append(f"One {over[:-1]} shows a difference of that {over[:-1]} and nothing more.")
    elif seen is None:
        least = least_images(max(tests, 1))
        more = f"{least} {over} are the least" if least else "so many tests leave none"
        notes.append(f"With {units} {over} and {count_of(tests, 'measure')} no difference can be significant: {more}.")
    elif units < FEW:
        notes.append(f"{few(units, over, 'difference', seen)}.")
    return tuple(notes)


def _are(count: int, over: str) -> str:
    return f"1 {over[:-1]} is" if count == 1 else f"{count} {over} are"


def unpaired_notes(fewest: int, over: str, *, pair: bool) -> tuple[str, ...]:
    """Why sets are compared as wholes, and whether the smaller of them, of `fewest` images or groups, is small."""
    why = "The runs share no image id, so" if pair else "As asked,"
    notes = [f"{why} the two sets of images are compared as wholes."]
    if fewest < FEW:
        notes.append(f"{_are(fewest, over)} few: only large differences can be seen.")
    return tuple(notes)
