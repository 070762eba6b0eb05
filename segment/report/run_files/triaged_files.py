"""What a triage accepts of one image, as maps of any size: accepted.png and the size of each pixel's set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane, strips
from segment.errors import WrongUse
from segment.estimation.estimate import Estimate
from segment.files.lazy_arrays import ComputedRows, blocks
from segment.files.writing import write_palette_png, write_png
from segment.guarantees.segments import mean_over, segments_of
from segment.guarantees.triage import Triage
from segment.pictures.heatmaps import heatmap

ACCEPTED, REVIEW, NO_DATA = "accepted.png", 255, 128
"""The map's file, its pixels that a person has to look at, and those that are none of the image's; 0 is accepted."""


@dataclass(frozen=True)
class TriagedImage:
    """One image under a triage.

    review: H W uint8, 255 where a person has to look, 0 where the prediction is accepted, 128 where there are no data
    accepted: share of the pixels with data. passes: whether the whole image is accepted
    set_size: H W, classes in each pixel's prediction set, 0 where there are no data; or None. sets: their mean
    means: of each measure that decides of images, over all pixels with data, those of a border too
    """

    review: Plane
    accepted: float
    passes: bool
    set_size: Plane | None
    sets: float | None = None
    means: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> dict[str, Any]:
        """What the manifest keeps."""
        line: dict[str, Any] = {"decision": "accept" if self.passes else "review"}
        line |= {
            "accepted": round(self.accepted, 6),
            "means": {name: mean for name, mean in self.means.items() if math.isfinite(mean)},
        }
        return line if self.sets is None else {**line, "set_size": round(self.sets, 6)}


def triaged_image(estimate: Estimate[Plane], triage: Triage, valid: Plane | None = None) -> TriagedImage:
    """The decisions on an image; for segments its mask and one map are read into memory.

    valid: H W, where the image holds data within its region mask; None: everywhere. Nothing else counts
    Errors: WrongUse where the estimate lacks a map.
    """
    decision, of_image = triage.decision, triage.decisions["image"]
    values = _map(estimate, decision.measure)
    means = {name: _mean(_map(estimate, name), valid) for name in {of_image.measure, triage.reference.measure}}
    passes = bool(of_image.accepts(means[of_image.measure]))
    shape = tuple(estimate.prediction.shape[-2:])
    if decision.unit == "image":
        review: Plane = ComputedRows(shape, np.dtype(np.uint8), lambda rows: _filled(rows, shape, review=not passes))
    elif decision.unit == "segment":
        whole = np.asarray(values[:], dtype=np.float32)
        counted = None if valid is None else valid[:]
        segments = segments_of(np.asarray(estimate.prediction[:], dtype=np.int64), counted)
        review = _to_review(decision.accepts(mean_over(segments, whole)))
    else:
        review = ComputedRows(shape, np.dtype(np.uint8), lambda rows: _to_review(decision.accepts(values[rows])))
    review = _within(review, valid, NO_DATA)
    kept = sum(int((block == 0).sum()) for block in blocks(review))
    none = sum(int((block == NO_DATA).sum()) for block in blocks(review))
    sizes = _set_size(estimate, triage)
    mean = None if sizes is None else _mean(sizes, valid)
    shown = None if sizes is None else _within(sizes, valid, 0)
    return TriagedImage(review, kept / max(1, shape[0] * shape[1] - none), passes, shown, mean, means)


def write_triaged(path: Callable[[str], Path], image: TriagedImage, triage: Triage, formats: Sequence[str]) -> None:
    """accepted.png, and with prediction sets set_size.png.

    The pixel is the size of its set, its colour that of a heat map; grey where the size is 0, without data.
    """
    write_png(path(ACCEPTED), image.review)
    if image.set_size is not None and "png" in formats:
        classes = len(triage.source["classes"])
        sizes = np.array([[np.nan, *range(classes)]], np.float32)  # above the one class that every set has
        colours = heatmap(sizes, high=max(classes - 1, 1))[0]
        write_palette_png(path("set_size.png"), image.set_size, colours)


def _map(estimate: Estimate[Plane], measure: str) -> Plane:
    if measure not in estimate.maps:
        why = estimate.withheld.get(measure, "it was not computed")
        raise WrongUse(f"The triage needs {measure}, which has no map: {why}.")
    return estimate.maps[measure]


def _mean(values: Plane, valid: Plane | None) -> float:
    """Over the pixels with data; NaN without any."""
    total, count = 0.0, 0
    for rows in strips(values.shape):
        block = values[rows] if valid is None else values[rows][valid[rows]]
        total, count = total + float(block.sum(dtype=np.float64)), count + block.size
    return total / count if count else math.nan


def _within(values: Plane, valid: Plane | None, elsewhere: int) -> Plane:
    if valid is None:
        return values
    kind = values.dtype
    return ComputedRows(
        tuple(values.shape), kind, lambda rows: np.where(valid[rows], values[rows], kind.type(elsewhere))
    )


def _set_size(estimate: Estimate[Plane], triage: Triage) -> Plane | None:
    if triage.sets is None or estimate.mean is None:
        return None
    sets, probability = triage.sets, estimate.mean
    kind = np.dtype(np.uint8 if probability.shape[0] < 256 else np.uint16)
    shape = tuple(probability.shape[-2:])
    return ComputedRows(shape, kind, lambda rows: sets.sizes(np.asarray(probability[..., rows, :])).astype(kind))


def _to_review(accepted: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(accepted, 0, REVIEW).astype(np.uint8)


def _filled(rows: slice, shape: tuple[int, ...], *, review: bool) -> NDArray[np.uint8]:
    return np.full((rows.stop - rows.start, shape[1]), REVIEW if review else 0, dtype=np.uint8)
