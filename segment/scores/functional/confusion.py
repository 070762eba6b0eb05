"""The confusion matrix, and the mask scores computed from it: accuracy, IoU, Dice.

The caller leaves out void and unseen pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segment.scores.functional.binning import Floats, Ints, mean_defined, quotient


def confusion_matrix(label: NDArray[np.int64], prediction: NDArray[np.int64], classes: int) -> Ints:  # P, P -> K K
    """Pixels by label (rows) and prediction (columns), exact counts.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    return np.bincount(label * classes + prediction, minlength=classes * classes).reshape(classes, classes)


def class_counts(confusion: Ints) -> Ints:  # K K -> 3 K
    """Per class: pixels where label and prediction agree, pixels labelled so, pixels predicted so.

    >>> class_counts(np.array([[1, 0], [1, 1]])).tolist()
    [[1, 1], [1, 2], [2, 1]]
    """
    return np.stack([np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)])


def accuracy(counts: Floats | Ints) -> Floats:  # ... 3 K -> ...
    """Share of the pixels whose prediction is the label, within [0, 1]; nan without pixels.

    >>> float(accuracy(np.array([[1, 1], [1, 2], [2, 1]])))
    0.6666666666666666
    """
    return quotient(counts[..., 0, :].sum(axis=-1), counts[..., 1, :].sum(axis=-1))


def iou(counts: Floats | Ints) -> Floats:  # ... 3 K -> ... K
    """Intersection over union of each class, within [0, 1]; nan for a class in neither label nor prediction.

    >>> iou(np.array([[1, 1, 0], [1, 2, 0], [2, 1, 0]])).tolist()
    [0.5, 0.5, nan]
    """
    right, labelled, predicted = counts[..., 0, :], counts[..., 1, :], counts[..., 2, :]
    return quotient(right, labelled + predicted - right)


def dice(counts: Floats | Ints) -> Floats:  # ... 3 K -> ... K
    """Dice coefficient (F1) of each class, within [0, 1]; nan for a class in neither label nor prediction.

    >>> dice(np.array([[1, 1, 0], [1, 2, 0], [2, 1, 0]])).tolist()
    [0.6666666666666666, 0.6666666666666666, nan]
    """
    return quotient(2 * counts[..., 0, :], counts[..., 1, :] + counts[..., 2, :])


def mean_iou(counts: Floats | Ints) -> Floats:  # ... 3 K -> ...
    """Mean IoU over the classes present in label or prediction; nan where none is.

    >>> float(mean_iou(np.array([[1, 1, 0], [1, 2, 0], [2, 1, 0]])))
    0.5
    """
    return mean_defined(iou(counts))


def mean_dice(counts: Floats | Ints) -> Floats:  # ... 3 K -> ...
    """Mean Dice over the classes present in label or prediction; nan where none is.

    >>> float(mean_dice(np.array([[1, 0], [1, 0], [1, 0]])))
    1.0
    """
    return mean_defined(dice(counts))
