"""Integer counts of an image in fixed memory, from which every score of a data set is computed.

Counts belong to one K-class task; a multi-label head has K two-class tasks. Must not know files, networks or methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional import calibration, patches
from segment.scores.functional.binning import BINS, HIGHEST, LOWEST, Ints, Span, bin_of, coarser, coarser_bin
from segment.scores.functional.confusion import class_counts, confusion_matrix

CLASS_OCTAVE = 6  # bins an octave, as a power of two, of the histogram with classes: 64
ROUGH_OCTAVE = 4  # the replicates' histograms: 16 bins an octave without classes,
ROUGH_CLASS_OCTAVE = 1  # 2 with them, 1 where K is above 32: 200 replicates of 3 K columns are the largest thing kept

Tally = dict[str, Ints]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One K-class task: what is counted, and the values that its scores need besides the counts.

    classes: K
    measures: names of the maps
    unseen: whether some label ids mark objects of no trained class
    thresholds: per measure the values above which patches of each size are uncertain, chosen on validation images;
        for a measure without them, the counts from which they are chosen are kept
    validation_accuracy: of the mask on validation images, within [0, 1]; None where there were none
    """

    classes: int
    measures: tuple[str, ...]
    unseen: bool
    thresholds: Mapping[str, tuple[float, ...]]
    validation_accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class CheckedImage:
    """One image's arrays, checked: H W each, probability K H W. Unseen and void pixels have any label."""

    probability: NDArray[np.float32]
    label: NDArray[np.int64]
    prediction: NDArray[np.int64]
    maps: Mapping[str, NDArray[np.float32]]
    known: NDArray[np.bool_]
    unseen: NDArray[np.bool_]


def shapes(task: Task) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything that is counted; int64 each, whatever the number of images.

    confusion: K K. sums: NLL and Brier in 2^-20. confidence: 1 - max p by right, wrong. reliability and
    class_reliability: bins by pixels, right, sum of p in 2^-20. ranking/MEASURE: by right, wrong (, unseen).
    classes/MEASURE: by class K times right, wrong by label, wrong by prediction. patches/MEASURE: sizes by 4, or
    without thresholds patch_means/MEASURE: sizes by accurate, inaccurate.
    """
    k, kinds = task.classes, 3 if task.unseen else 2
    rough_bins = (HIGHEST - LOWEST) * 2**CLASS_OCTAVE + 1
    shape_of: dict[str, tuple[int, ...]] = {"confusion": (k, k), "sums": (2,), "confidence": (BINS, 2)}
    shape_of |= {"reliability": (calibration.RELIABILITY_BINS, 3)}
    shape_of |= {"class_reliability": (k, calibration.RELIABILITY_BINS, 3)}
    for name in task.measures:
        shape_of |= {f"ranking/{name}": (BINS, kinds), f"classes/{name}": (rough_bins, 3 * k)}
        if name in task.thresholds:
            shape_of[f"patches/{name}"] = (len(patches.SIZES), 4)
        else:
            shape_of[f"patch_means/{name}"] = (len(patches.SIZES), patches.THRESHOLD_BINS, 2)
    return shape_of


@dataclass(frozen=True)
class CountedImage:
    """The counts of one image in the shapes above: whole arrays by name, and of the finest bins those that it spans."""

    whole: Tally
    fine: dict[str, Span]

    def rough(self) -> Tally:
        """The counts in the replicates' coarser bins, without those that no interval needs."""
        return rough(self.whole) | {name: span.coarser(ROUGH_OCTAVE) for name, span in self.fine.items()}


def count(image: CheckedImage, task: Task) -> CountedImage:
    """The counts of one image."""
    known = np.flatnonzero(image.known)
    label, prediction = image.label.ravel()[known], image.prediction.ravel()[known]
    p = image.probability.reshape(task.classes, -1)
    p = p if known.size == image.known.size else np.take(p, known, axis=1)
    right, confidence = label == prediction, p.max(axis=0)
    uncertainty = bin_of((1 - confidence).clip(min=0))  # p may round to above 1
    whole = {
        "confusion": confusion_matrix(label, prediction, task.classes),
        "sums": calibration.proper_sums(p, label),
        "reliability": calibration.reliability_counts(confidence, right),
        "class_reliability": calibration.class_reliability_counts(p, label),
    }
    measured = _measured(image, task)
    fine = {"confidence": Span.of(uncertainty, (~right).astype(np.int32), 2)} | measured.fine
    return CountedImage(whole | measured.whole, fine)


def _measured(image: CheckedImage, task: Task) -> CountedImage:
    k = task.classes
    right = image.known & (image.label == image.prediction)
    wrong = image.known & ~right
    columns, rows = (3 if task.unseen else 2), (HIGHEST - LOWEST) * 2**CLASS_OCTAVE + 1
    kind = np.where(image.known, wrong, np.where(image.unseen, 2, columns)).ravel().astype(np.int32)  # columns: void
    kinds = max(columns, int(kind.max()) + 1)
    of_class = np.where(right, image.label, np.where(wrong, k + image.label, 2 * k)).ravel()
    at_wrong = np.flatnonzero(wrong)
    mistaken = image.prediction.ravel()[at_wrong]
    cut = patches.Patches(image.known, right)
    whole, fine = Tally(), dict[str, Span]()
    for name in task.measures:
        bins = bin_of(image.maps[name]).ravel()
        fine[f"ranking/{name}"] = Span.of(bins, kind, kinds).first(columns)
        bins = coarser_bin(bins, CLASS_OCTAVE)
        by_label = np.bincount(bins * np.int64(2 * k + 1) + of_class, minlength=rows * (2 * k + 1))
        by_mistake = np.bincount(bins[at_wrong] * np.int64(k) + mistaken, minlength=rows * k)
        parts = [by_label.reshape(rows, -1)[:, : 2 * k], by_mistake.reshape(rows, k)]
        whole[f"classes/{name}"] = np.concatenate(parts, axis=1)
        if name in task.thresholds:
            whole[f"patches/{name}"] = cut.counts(image.maps[name], task.thresholds[name])
        else:
            pixels = parts[0].reshape(rows, 2, k).sum(axis=2)  # patches of one pixel
            whole[f"patch_means/{name}"] = np.stack([pixels, *cut.histograms(image.maps[name])])
    return CountedImage(whole, fine)


def rough(tally: Tally) -> Tally:
    """The counts in the replicates' coarser bins, without those that no interval needs."""
    coarse: Tally = {"counts": class_counts(tally["confusion"])}
    for name, counts in tally.items():
        kind = name.split("/")[0]
        if kind in ("confidence", "ranking"):
            coarse[name] = coarser(counts, ROUGH_OCTAVE)
        elif kind == "classes":
            coarse[name] = coarser(counts, ROUGH_CLASS_OCTAVE if len(tally["confusion"]) <= 32 else 0)
        elif kind in ("sums", "reliability", "patches"):
            coarse[name] = counts
    return coarse


def exact(tally: Tally) -> Tally:
    """The counts in the finest bins, in the form that `summary.scores` reads."""
    return {"counts": class_counts(tally["confusion"])} | tally
