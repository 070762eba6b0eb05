"""The columns of a row that rank images, and which way each points.

Must not know where a row came from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segment.scores.functional.binning import Floats

Row = Mapping[str, Any]

GROW_WITH_QUALITY = ("expected_accuracy", "expected_miou", "soft_dice", "predicted_accuracy", "predicted_dice")
"""Columns that are large for good masks; all others that rank are large for uncertain ones."""
QUALITIES = ("accuracy", "miou", "dice", "iou")
"""Columns, or their first words, of how good a mask is by its label."""
AGGREGATIONS = ("mean", "p95", "interior", "patch")
TARGETS = ("accuracy", "dice")
"""What a mask's quality is: by pixels, and by classes."""


def predicted(target: str) -> str:
    """The column of what a fitted predictor says.

    >>> predicted("dice")
    'predicted_dice'
    """
    return f"predicted_{target}"


def ranking_columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns of the rows that rank images and need no label.

    >>> ranking_columns([{"id": "a", "dice": 0.5, "mean.variance": 0.1, "soft_dice": 0.8, "iou.road": 0.2}])
    ('soft_dice', 'mean.variance')
    """
    there = dict.fromkeys(column for row in rows for column, value in row.items() if isinstance(value, int | float))
    whole = [column for column in GROW_WITH_QUALITY if column in there]
    return (*whole, *(column for column in there if column.partition(".")[0] in AGGREGATIONS and "." in column))


def grows_with_quality(column: str) -> bool | None:
    """Whether a column is large for good masks; False where it is large for uncertain ones, None where neither holds.

    >>> grows_with_quality("soft_dice.road"), grows_with_quality("p95.variance"), grows_with_quality("pixels")
    (True, False, None)
    """
    kind = column.partition(".")[0]
    if kind in GROW_WITH_QUALITY or kind in QUALITIES:
        return True
    return False if kind in (*AGGREGATIONS, "area", "nll", "brier") else None


def lacks_interior(row: Row, column: str) -> bool:
    """Whether a row lacks an `interior` column because no region of its mask has an interior: the mask is fragmented.

    An image that was too large for memory has neither the interior nor the highest patch.

    >>> lacks_interior({"patch.variance": 0.1}, "interior.variance"), lacks_interior({}, "interior.variance")
    (True, False)
    """
    kind, _, measure = column.partition(".")
    return kind == "interior" and row.get(column) is None and row.get(f"patch.{measure}") is not None


def on_most_images(columns: Iterable[str], rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns that the most rows have.

    >>> on_most_images(("a", "b", "c"), [{"a": 1, "b": 2}, {"a": 3, "c": 4}])
    ('a',)
    """
    counts = {column: int(np.isfinite(values(rows, column)).sum()) for column in columns}
    return tuple(column for column, count in counts.items() if count == max(counts.values()))


def ranks_none(name: str, numbers: Sequence[float], draws: float = 0) -> str:
    """A sentence where a number is the same in all of several images; "" where it ranks them.

    draws: T of each image, 0 where it is not known

    >>> ranks_none("variance", [0.0, 0.0], draws=1), ranks_none("variance", [0.1, 0.2])
    ('variance is 0 in every image (one draw): it ranks none', '')
    """
    if len(numbers) < 2 or max(numbers) > min(numbers):
        return ""
    return f"{name} is {numbers[0]:.3g} in every image{' (one draw)' * (draws == 1)}: it ranks none"


def values(rows: Sequence[Row], column: str) -> Floats:  # -> N
    """A column's numbers, nan where a row has none."""
    numbers = [row.get(column) for row in rows]
    return np.array([float(n) if isinstance(n, int | float) else np.nan for n in numbers], dtype=np.float64)


def uncertainty_of(rows: Sequence[Row], column: str) -> Floats:  # -> N
    """A column's numbers with the sign that makes uncertain images large.

    >>> uncertainty_of([{"soft_dice": 0.8}, {"soft_dice": 0.5}], "soft_dice").tolist()
    [-0.8, -0.5]
    """
    return -values(rows, column) if column in GROW_WITH_QUALITY else values(rows, column)
