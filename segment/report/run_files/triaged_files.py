"""What a triage accepts of one image, as maps of any size: accepted.png and the size of each pixel's set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segment.axes import Plane
from segment.errors import WrongUse
from segment.estimation.estimate import Estimate
from segment.files.windows import Made, blocks
from segment.files.writing import write_palette_png, write_png
from segment.guarantees.segments import mean_over, segments_of
from segment.guarantees.triage import Triage
from segment.pictures.heatmaps import heatmap

ACCEPTED, REVIEW = "accepted.png", 255
"""The map's file, and its pixels that a person has to look at; 0 is accepted."""


@dataclass(frozen=True)
class TriagedImage:
    """One image under a triage.

    review: H W uint8, 255 where a person has to look, 0 where the prediction is accepted; accepted: share of pixels
    passes: whether the whole image is accepted. set_size: H W, classes in each pixel's prediction set, or None
    """

    review: Plane
    accepted: float
    passes: bool
    set_size: Plane | None

    def line(self) -> dict[str, str | float]:
        """What the manifest keeps."""
        line: dict[str, str | float] = {"decision": "accept" if self.passes else "review"}
        line["accepted"] = round(self.accepted, 6)
        return line if self.set_size is None else {**line, "set_size": round(_mean(self.set_size), 6)}


def triaged_image(estimate: Estimate[Plane], triage: Triage) -> TriagedImage:
    """The decisions on an image; for segments its mask and one map are read into memory.

    Errors: WrongUse where the estimate lacks a map.
    """
    decision, of_image = triage.decision, triage.decisions["image"]
    values = _map(estimate, decision.measure)
    passes = bool(of_image.accepts(_mean(_map(estimate, of_image.measure))))
    shape = tuple(estimate.prediction.shape[-2:])
    if decision.unit == "image":
        review: Plane = Made(shape, np.dtype(np.uint8), lambda rows: _filled(rows, shape, review=not passes))
    elif decision.unit == "segment":
        whole = np.asarray(values[:], dtype=np.float32)
        segments = segments_of(np.asarray(estimate.prediction[:], dtype=np.int64))
        review = _to_review(decision.accepts(mean_over(segments, whole)))
    else:
        review = Made(shape, np.dtype(np.uint8), lambda rows: _to_review(decision.accepts(values[rows])))
    kept = sum(int((block == 0).sum()) for block in blocks(review))
    return TriagedImage(review, kept / (shape[0] * shape[1]), passes, _set_size(estimate, triage))


def write_triaged(path: Callable[[str], Path], image: TriagedImage, triage: Triage, formats: Sequence[str]) -> None:
    """accepted.png, and with prediction sets set_size.png: the pixel is the size, its colour that of a heat map."""
    write_png(path(ACCEPTED), image.review)
    if image.set_size is not None and "png" in formats:
        classes = len(triage.source["classes"])
        colours = heatmap(np.arange(classes + 1, dtype=np.float32)[None] - 1, high=max(classes - 1, 1))[0]
        write_palette_png(path("set_size.png"), image.set_size, colours)


def _map(estimate: Estimate[Plane], measure: str) -> Plane:
    if measure not in estimate.maps:
        why = estimate.withheld.get(measure, "it was not computed")
        raise WrongUse(f"The triage needs {measure}, which has no map: {why}.")
    return estimate.maps[measure]


def _mean(values: Plane) -> float:
    total = sum(float(block.sum(dtype=np.float64)) for block in blocks(values))
    return total / (values.shape[0] * values.shape[1])


def _set_size(estimate: Estimate[Plane], triage: Triage) -> Plane | None:
    if triage.sets is None or estimate.mean is None:
        return None
    sets, probability = triage.sets, estimate.mean
    kind = np.dtype(np.uint8 if probability.shape[0] < 256 else np.uint16)
    shape = tuple(probability.shape[-2:])
    return Made(shape, kind, lambda rows: sets.sizes(np.asarray(probability[..., rows, :])).astype(kind))


def _to_review(accepted: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(accepted, 0, REVIEW).astype(np.uint8)


def _filled(rows: slice, shape: tuple[int, ...], *, review: bool) -> NDArray[np.uint8]:
    return np.full((rows.stop - rows.start, shape[1]), REVIEW if review else 0, dtype=np.uint8)
