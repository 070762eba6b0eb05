"""How right a mask is by its own probabilities: expected accuracy, expected mIoU, Soft Dice Confidence.

All are of one image, over all of its pixels, for they are used where there are no labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segment.axes import Head
from segment.scores.functional.binning import Floats, mean_defined, quotient

EXPECTED = ("expected_accuracy", "expected_miou", "soft_dice")
"""How right a mask is by its own probabilities; then the Soft Dice Confidence of each class."""


def class_sums(probability: NDArray[np.float32], prediction: NDArray[np.int64]) -> Floats:  # K H W, H W -> 3 K
    """What the expected scores are computed from, by class k.

    Args:
        probability: K H W.
        prediction: H W, class indices.

    Returns:
        3 K: the pixels predicted as k, the sum of p_k over all pixels, and its sum over the pixels predicted as k.

    >>> class_sums(np.float32([[[0.75, 0.5]], [[0.25, 0.5]]]), np.array([[0, 0]])).tolist()
    [[2.0, 0.0], [1.25, 0.75], [1.25, 0.0]]

    """
    classes = len(probability)
    flat, mask = probability.reshape(classes, -1), prediction.ravel()
    predicted = np.bincount(mask, minlength=classes).astype(np.float64)
    of_mask = np.take_along_axis(flat, mask[None], axis=0)[0]
    within = np.bincount(mask, weights=of_mask, minlength=classes)
    return np.stack([predicted, flat.sum(axis=1, dtype=np.float64), within])


def expected_accuracy(sums: Floats) -> Floats:  # ... 3 K -> ...
    """Mean probability of the mask, within [0, 1]: the accuracy of a calibrated network.

    >>> float(expected_accuracy(np.array([[2.0, 0.0], [1.25, 0.75], [1.25, 0.0]])))
    0.625
    """
    return quotient(sums[..., 2, :].sum(axis=-1), sums[..., 0, :].sum(axis=-1))


def soft_dice(sums: Floats) -> Floats:  # ... 3 K -> ... K
    """Soft Dice Confidence of each class, within [0, 1]; nan for a class that no pixel is predicted as.

    2 sum_i p_k m_k / (sum_i p_k + sum_i m_k), m the mask: nearly the Dice that the probabilities expect.
    Source: Borges, Ramos, Silva & Silva 2024, arXiv:2402.10665.

    >>> soft_dice(np.array([[2.0, 0.0], [1.25, 0.75], [1.25, 0.0]])).round(4).tolist()
    [0.7692, nan]
    """
    predicted, total, within = (sums[..., i, :] for i in range(3))
    return np.where(predicted > 0, quotient(2 * within, total + predicted), np.nan)


def expected_iou(sums: Floats) -> Floats:  # ... 3 K -> ... K
    """Expected intersection over expected union of each class, within [0, 1]; nan where no pixel is predicted so.

    >>> expected_iou(np.array([[2.0, 0.0], [1.25, 0.75], [1.25, 0.0]])).tolist()
    [0.625, nan]
    """
    predicted, total, within = (sums[..., i, :] for i in range(3))
    return np.where(predicted > 0, quotient(within, total + predicted - within), np.nan)


def expected_numbers(sums: Sequence[Floats], head: Head) -> Floats:  # 3 K each -> 3 + K
    """`expected_row` of an image; of a multi-label head, which has sums for each label, the mean over labels first."""
    rows = [expected_row(each, head) for each in sums]
    whole = mean_defined(np.stack([row[:3] for row in rows], axis=-1))
    return np.concatenate([whole, *(row[3:] for row in rows)])


def expected_row(sums: Floats, head: Head) -> Floats:  # 3 K -> 3 + K
    """Expected accuracy, expected mIoU and mean Soft Dice Confidence over the classes predicted, then that of each.

    sums: of a label of a multi-label head, 3 2: its Dice and IoU are those of its presence
    """
    kept = sums[:, 1:] if head == "multilabel" else sums
    dice = soft_dice(kept)
    whole = [expected_accuracy(sums), mean_defined(expected_iou(kept)), mean_defined(dice)]
    return np.concatenate([np.array(whole, dtype=np.float64), dice])
