"""Segments of a mask: connected regions of one predicted class, and a measure's mean over each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segment.regions.components import NONE, regions_of
from segment.scores.functional.binning import Ints


def segments_of(prediction: Ints, counted: NDArray[np.bool_] | None = None) -> Ints:  # H W, or K H W (multi-label)
    """The segment that each pixel lies in, numbered from 0: the regions of one class, or of one set of labels.

    counted: H W, where the image holds data within its region mask; elsewhere -1. None: everywhere

    >>> segments_of(np.array([[0, 0, 1], [1, 0, 1]])).tolist()
    [[0, 0, 1], [2, 0, 1]]
    """
    if prediction.ndim == 3:
        flat = prediction.reshape(len(prediction), -1)
        prediction = np.unique(flat, axis=1, return_inverse=True)[1].reshape(prediction.shape[1:])
    shown = prediction if counted is None else np.where(counted, prediction, NONE)
    return np.asarray(regions_of(shown).numbers, np.int64)


def mean_over(segments: Ints, values: NDArray[np.float32]) -> NDArray[np.float32]:  # H W, H W -> H W
    """Each pixel's value replaced by the mean over its segment, void pixels included; one of no segment keeps its own.

    >>> mean_over(np.array([[0, 0, 1]]), np.float32([[1, 3, 5]])).tolist()
    [[2.0, 2.0, 5.0]]
    """
    inside = segments != NONE
    places = segments[inside]
    sums = np.bincount(places, weights=values[inside])
    means = values.astype(np.float32)
    means[inside] = (sums / np.bincount(places)).astype(np.float32)[places]
    return means
