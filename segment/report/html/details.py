"""One image of a run → what its page in the report needs: pictures, masks, values on a grid, exact counts.

Values are rounded to the digits that are shown, so what a reader sees equals maps.npz to those digits; the run's scale
has enough of them for a smooth picture. Must not know HTML.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segment.errors import SegmentError, error_message
from segment.files.exports.image import UNCLAIMED
from segment.images.read import read_label
from segment.pictures.heatmaps import scale_of
from segment.pictures.overlays import uncertainty_overlay
from segment.pictures.palettes import Picture
from segment.report.html.streams import ImageStreams
from segment.report.run_files.saved_maps import PREDICTION, PROBABILITY
from segment.report.run_files.saved_run import SavedImage, SavedRun
from segment.report.run_files.triaged_files import ACCEPTED
from segment.scores.functional import binning
from segment.scores.functional.binning import Ints, Span, bin_of
from segment.uncertainty.class_indices import likeliest_label, no_class
from segment.uncertainty.measures import MEASURES

DIGITS = {"predictive_entropy": 2, "expected_entropy": 2, "mutual_information": 3, "variance": 4, "standard_error": 4}
"""Decimals that are shown at least; 3 for the other measures."""
MOST_DIGITS = 8
"""Decimals at most: a variance below is that of draws that differ by rounding, whose noise would fill the page."""
STEPS = 100
"""Steps between 0 and the end of a run's scale, at least: more would not be seen, and doubled a page of entropies."""
LARGEST = 1024
"""Pixels of a picture's longer side at most; a larger one is shown smaller."""
LONGEST = 2048
"""Rows or columns of a mask at most; of a larger one each second, third, ... is kept."""
THUMBNAIL = (96, 144)
"""Height and width of a card's picture at most."""
SET_ASIDE = 0.1
"""Share of all pixels above the threshold that a report begins with, at most."""
TOP = 3
PERCENT = 100
BINS = 15
HIDDEN = 2**16 - 1
"""Level of a pixel without a value: no data, outside a region mask, or in a border."""


@dataclass(frozen=True, kw_only=True)
class DetailShape:
    """What is kept of every image.

    stride: values are kept of each stride-th row and column. quality: of the WebP picture
    measures: maps that are shown, the first one at first
    """

    measures: tuple[str, ...]
    stride: int
    quality: int = 70


@dataclass
class Sums:
    """What is summed over the images: pixels by each measure, and with labels by confidence too.

    ranked: measure -> (binning.BINS, 2), labelled right and wrong pixels, in bins as fine as those of `scores.json`
    pixels: measure -> (levels, 3), pixels by the value that is shown: all, labelled right ones, labelled wrong ones
    confidence: (BINS, 3), labelled pixels, right ones, sum of max p
    """

    ranked: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    pixels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    confidence: NDArray[np.float64] = field(default_factory=lambda: np.zeros((BINS, 3)))
    images: int = 0

    def add_levels(self, name: str, counts: NDArray[np.int64]) -> None:  # levels 3
        known = self.pixels.get(name, np.zeros((0, 3), np.int64))
        total = np.zeros((max(len(known), len(counts)), 3), np.int64)
        total[: len(known)] += known
        total[: len(counts)] += counts
        self.pixels[name] = total

    def add_ranked(self, name: str, values: NDArray[np.floating], wrong: NDArray[np.bool_]) -> None:  # P, P
        bins = bin_of(np.maximum(values, 0).astype(np.float32))
        counts = self.ranked.setdefault(name, np.zeros((binning.BINS, 2), np.int64))
        Span.of(bins, wrong.astype(np.int32), 2).add_to(counts)

    def merge(self, other: Sums) -> None:
        """Add what is summed over other images."""
        for name, levels in other.pixels.items():
            self.add_levels(name, levels)
        for name, counts in other.ranked.items():
            self.ranked[name] = self.ranked.get(name, 0) + counts
        self.confidence += other.confidence
        self.images += other.images

    def start(self, name: str) -> tuple[int, float]:
        """The level of the threshold that a report begins with, and the share of all pixels above it."""
        counts = self.pixels.get(name, np.ones((1, 3), np.int64))[:, 0]
        level = int(np.searchsorted(np.cumsum(counts), (1 - SET_ASIDE) * counts.sum()))
        return level, float(counts[level + 1 :].sum() / max(1, counts.sum()))


def upper_edges() -> NDArray[np.float64]:
    """The threshold that each bin of `Sums.ranked` lies below; 0 for the pixels of exactly 0."""
    return np.append(0.0, binning.edges(binning.BINS)[2:])


def decimals_of(measure: str, high: float) -> int:
    """The decimals that are shown of a measure whose scale ends at `high`.

    >>> decimals_of("variance", 0.02), decimals_of("variance", 3e-5)
    (4, 7)
    """
    return max(DIGITS.get(measure, 3), min(MOST_DIGITS, math.ceil(math.log10(STEPS / high))))


def measures_of(run: SavedRun, image: SavedImage) -> tuple[str, ...]:
    """The maps that an image has, the run's heat measure first."""
    there = [name for name in image.maps if name in MEASURES]
    heat = str(run.settings.get("heat", ""))
    return tuple(sorted(there, key=lambda name: (name != heat, list(MEASURES).index(name))))


def detail(
    run: SavedRun,
    image: SavedImage,
    picture: Picture,
    shape: DetailShape,
    label: Ints | None,
    void: int | None,
    sums: Sums,
) -> tuple[ImageStreams, dict[str, Any]]:
    """The streams of one image, and its row of numbers: means, class shares, and with a label its accuracy.

    picture: of the image
    """
    block, maps = ImageStreams(), image.maps
    mask = _mask(run, maps)
    factor = -(-max(mask.shape) // LONGEST)
    coarse = (slice(None, None, factor), slice(None, None, factor))
    block.data("picture", _webp(_at_most(picture, LARGEST), shape.quality))
    block.plane("mask", mask[coarse])
    height, width = mask[coarse].shape
    row: dict[str, Any] = {
        "h": height,
        "w": width,
        "factor": factor,
        "shares": _shares(run, maps, mask),
    }
    known = None
    if label is not None and label.shape == mask.shape:
        known = (label != void) & (label >= 0) & (label < len(run.classes)) & ~_without_data(run, maps)
        block.plane("label", np.where(known, label, len(run.classes) + 1)[coarse])
        row["labelled"] = int(known.sum())
        row["right"] = int(((mask == label) & known).sum())
        sums.images += bool(known.any())
    right = None if known is None or label is None else mask == label
    every = (slice(None, None, shape.stride * factor), slice(None, None, shape.stride * factor))
    for name in shape.measures:
        if name in maps:
            values = maps[name].astype(np.float64) * 10 ** measure_entry(run, name)["decimals"]
            levels = np.where(np.isnan(values), HIDDEN, np.rint(values).clip(0, HIDDEN - 1)).astype(np.int64)
            block.plane(f"measure {name}", levels[every])
            counts = _counts(levels, known, right)
            block.data(f"counts {name}", zlib.compress(counts.astype("<u4").tobytes(), 9), len(counts))
            sums.add_levels(name, counts)
            if known is not None and right is not None:
                counted = known & (levels != HIDDEN)
                sums.add_ranked(name, maps[name][counted], ~right[counted])
    if PROBABILITY in maps:
        p = maps[PROBABILITY]
        _top_classes(block, np.nan_to_num(p[(slice(None), *every)], nan=0.0))
        if known is not None and right is not None and run.head != "multilabel":
            _add_confidence(sums, p, known, right)
    accepted = [image.run.folder / file for file in image.entry["files"] if Path(file).name == ACCEPTED]
    if accepted:
        block.plane("accepted", read_label(accepted[0])[coarse])
    if "triage" in image.entry:
        row["triage"] = {key: image.entry["triage"][key] for key in ("decision", "accepted")}
    row |= {"means": {name: numbers["mean"] for name, numbers in image.measures.items()}}
    row |= {"p95": {name: numbers["p95"] for name, numbers in image.measures.items()}}
    return block, row


def _shares(run: SavedRun, maps: Mapping[str, NDArray[Any]], mask: NDArray[np.int64]) -> dict[str, float]:
    """The share of the pixels of each class that is there, K for those of none; labels of one pixel count each."""
    prediction = np.asarray(maps[PREDICTION])
    shares = np.bincount(mask.ravel(), minlength=len(run.classes) + 1) / mask.size
    if prediction.ndim == 3:
        shares[:-1] = (prediction == 1).mean(axis=(1, 2))
    return {str(k): float(f"{share:.4g}") for k, share in enumerate(shares) if share > 0}


def _mask(run: SavedRun, maps: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:  # H W
    """The predicted class, K where there are no data; of a multi-label head the likeliest label that is set, or K."""
    prediction = np.asarray(maps[PREDICTION]).astype(np.int64)
    if prediction.ndim == 2:
        return np.where(_without_data(run, maps), len(run.classes), prediction)
    return likeliest_label(prediction == 1, maps.get(PROBABILITY))


def _without_data(run: SavedRun, maps: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:  # H W
    """Where the image holds no data, or is outside its region mask."""
    prediction = np.asarray(maps[PREDICTION])
    return (prediction[0] == UNCLAIMED) if prediction.ndim == 3 else prediction == no_class(len(run.classes))


def _counts(
    levels: NDArray[np.int64], known: NDArray[np.bool_] | None, right: NDArray[np.bool_] | None
) -> NDArray[np.int64]:  # -> levels 3
    """Counts for each level: all pixels that have one, labelled right ones, labelled wrong ones."""
    shown = levels != HIDDEN
    size = int(levels[shown].max(initial=0)) + 1
    counts = np.zeros((size, 3), np.int64)
    counts[:, 0] = np.bincount(levels[shown], minlength=size)
    if known is not None and right is not None:
        counts[:, 1] = np.bincount(levels[known & right & shown], minlength=size)
        counts[:, 2] = np.bincount(levels[known & ~right & shown], minlength=size)
    return counts


def _top_classes(block: ImageStreams, p: NDArray[np.floating]) -> None:  # K h w
    """The three likeliest classes and their probabilities in per cent; a class of 0 % is written as 0."""
    order = np.argsort(-p, axis=0, kind="stable")[:TOP]
    percent = np.rint(np.take_along_axis(p, order, axis=0) * PERCENT).astype(np.int64)
    for place, (classes, shares) in enumerate(zip(order, percent, strict=True)):
        block.plane(f"class {place}", np.where(shares > 0, classes, 0))
        block.plane(f"percent {place}", shares)


def _add_confidence(sums: Sums, p: NDArray[np.floating], known: NDArray[np.bool_], right: NDArray[np.bool_]) -> None:
    confidence = p.max(axis=0)[known].astype(np.float64)
    cell = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    hit = right[known]
    sums.confidence[:, 0] += np.bincount(cell, minlength=BINS)
    sums.confidence[:, 1] += np.bincount(cell[hit], minlength=BINS)
    sums.confidence[:, 2] += np.bincount(cell, weights=confidence, minlength=BINS)


def thumbnail(run: SavedRun, image: SavedImage, picture: Picture, shape: DetailShape) -> bytes:
    """A small WebP of the image's picture, in greys under the colours of the first measure where it has that."""
    small = _thumbnail(picture)
    for name in shape.measures[:1]:
        if name in image.maps:
            values = _thumbnail(np.asarray(image.maps[name], np.float32))
            small = uncertainty_overlay(small, values, high=measure_entry(run, name)["high"])
    return _webp(small, 60)


def picture_or_grey(image: SavedImage) -> tuple[Picture, str]:
    """The source image; grey, and why, where it cannot be read or has changed: the page has everything else."""
    try:
        return image.image, ""
    except (SegmentError, OSError) as error:
        height, width = np.asarray(image.prediction).shape[-2:]
        return np.full((height, width, 3), 200, np.uint8), error_message(error)


def _at_most(picture: Picture, longest: int) -> Picture:
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA).astype(np.uint8)


def _thumbnail(picture: NDArray[Any]) -> NDArray[Any]:  # H W ... -> h w ...
    """All of it, within the picture of a card in the gallery."""
    height, width = picture.shape[:2]
    scale = min(THUMBNAIL[0] / height, THUMBNAIL[1] / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def _webp(picture: Picture, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "webp", quality=quality, method=4)
    return stream.getvalue()


def measure_entry(run: SavedRun, name: str) -> dict[str, Any]:
    """Title, unit, decimals, and the value of the last colour, which is the same for all images."""
    scale = scale_of(name, len(run.classes), run.head, run.highs.get(name))
    return {
        "name": name,
        "title": scale.title,
        "unit": scale.unit,
        "decimals": decimals_of(name, scale.high),
        "digits": DIGITS.get(name, 3),
        "high": scale.high,
        "bound": scale.bound,
    }
