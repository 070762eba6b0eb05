"""The accuracy of images without labels, estimated from confidences: ATC and DoC, and how wrong they were before.

Must not know where a confidence came from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segment.scores.functional.binning import Ints


@dataclass(frozen=True)
class Estimates:
    """Accuracy of unlabelled images by two methods, within 0..1; the truth where it is known.

    atc: average thresholded confidence, of all pixels. doc: difference of confidences, the mean over images; None where
    the confidences are not at hand
    truth: what `atc` estimates; mean_truth: what `doc` does. They differ where images have other numbers of pixels
    """

    atc: float | None
    doc: float | None
    truth: float | None = None
    mean_truth: float | None = None

    def error(self, name: str) -> float | None:
        """Absolute error of a method; None where its estimate or the truth is not known."""
        value, truth = (self.atc, self.truth) if name == "atc" else (self.doc, self.mean_truth)
        return None if value is None or truth is None else abs(value - truth)


def threshold_bin(labelled: Ints) -> int:  # B 2
    """The bin of 1 - max p up to which as many pixels lie as are right, as nearly as the bins allow.

    Args:
        labelled: Right and wrong pixels by the bin of 1 - max p, the most confident first.

    >>> threshold_bin(np.array([[6, 0], [2, 1], [0, 1]]))
    1

    """
    right, pixels = labelled[:, 0].sum(), labelled.sum(axis=1).cumsum()
    return int(np.abs(pixels - right).argmin())


def atc(labelled: Ints, unlabelled: Ints) -> float | None:  # B 2, B
    """Average thresholded confidence: the share of unlabelled pixels whose confidence is above the labelled set's.

    The threshold is such that the share of labelled pixels above it is their accuracy.
    Source: Garg et al. 2022, arXiv:2201.04234, with the maximum probability as the score.

    Args:
        labelled: Right and wrong pixels by the bin of 1 - max p.
        unlabelled: Pixels by the same bins.

    Returns:
        The estimate, within 0..1; None where either set has no pixel.

    >>> atc(np.array([[6, 0], [2, 1], [0, 1]]), np.array([2, 1, 1]))
    0.75

    """
    if not labelled.sum() or not unlabelled.sum():
        return None
    return float(unlabelled[: threshold_bin(labelled) + 1].sum() / unlabelled.sum())


def doc(accuracy: float, confidence: float, unlabelled_confidence: float) -> float:
    """Difference of confidences: the labelled accuracy less the fall of the mean max p, within 0..1.

    All three are means of one kind: over pixels, or over images.
    Source: Guillory et al. 2021, arXiv:2107.03315.

    >>> round(doc(0.9, 0.85, 0.75), 3)
    0.8
    """
    return float(np.clip(accuracy + unlabelled_confidence - confidence, 0, 1))


def mean_error(known: list[Estimates], name: str) -> float | None:
    """Mean absolute error of a method ("atc", "doc") on sets whose accuracy is known; None without such sets.

    >>> mean_error([Estimates(0.8, 0.7, 0.75), Estimates(0.6, 0.5, 0.5)], "atc")
    0.075
    """
    errors = [error for each in known if (error := each.error(name)) is not None]
    return round(sum(errors) / len(errors), 12) if errors else None
