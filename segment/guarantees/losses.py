"""The counts of images as losses at each threshold: what a threshold accepts of an image, and what is wrong in that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segment.guarantees.counts import MISSED, RIGHT, WRONG, ImageCounts
from segment.guarantees.levels import thresholds, up_to
from segment.scores.functional.binning import Floats, Ints


@dataclass(frozen=True)
class Losses:
    """N images at L thresholds, from strict to loose; what lies below a threshold is accepted.

    ids: of the images; those to which the loss does not apply are left out
    thresholds: L. lost: N L, wrong pixels among what is accepted, or an image's loss. total: N, what `lost` is a share
    of. kept: N L, what is lost is a share of that over a group together: its accepted pixels; 1 where the loss of a
    group is the mean over its images. accepted: N L, share of the image's pixels
    """

    ids: tuple[str, ...]
    thresholds: Floats
    lost: Floats
    total: Floats
    kept: Floats
    accepted: Floats

    def mean_losses(self, groups: Ints) -> Floats:  # N -> G L
        """The loss of each group: the mean over its images of the share that is lost."""
        return _means(self.lost / self.total[:, None], groups)

    def mean_accepted(self, groups: Ints) -> Floats:  # N -> G L
        """What is accepted of each group: the mean over its images."""
        return _means(self.accepted, groups)

    def bad(self, limit: float, groups: Ints) -> NDArray[np.bool_]:  # N -> G L
        """Whether more than `limit` of what a group keeps is lost; no where nothing is kept."""
        return _summed(self.lost, groups) > limit * _summed(self.kept, groups) + 1e-12

    def of(self, chosen: NDArray[np.bool_] | Ints) -> Losses:
        """The losses of some of the images."""
        ids = tuple(np.array(self.ids, dtype=object)[chosen])
        parts = (self.lost[chosen], self.total[chosen], self.kept[chosen], self.accepted[chosen])
        return Losses(ids, self.thresholds, *parts)


def _means(values: Floats, groups: Ints) -> Floats:  # N L -> G L
    return _summed(values, groups) / np.bincount(groups)[:, None]


def _summed(values: Floats, groups: Ints) -> Floats:  # N L -> G L
    if len(groups) == groups.max(initial=-1) + 1:  # each its own
        return values[np.argsort(groups)]
    sums = np.zeros((int(groups.max()) + 1, values.shape[1]))
    np.add.at(sums, groups, values)
    return sums


def losses_of_pixels(counts: ImageCounts, unit: str, measure: str, protected: int | None = None) -> Losses:
    """The loss of accepting pixels, or segments, whose measure lies below a threshold.

    Wrong and accepted pixels over the labelled pixels of the image; with a protected class, its pixels that are
    accepted as another class over all of its pixels, in the images that have some.
    """
    column = WRONG if protected is None else MISSED + protected
    right, wrong, lost = up_to(counts.at_levels(unit, measure, (RIGHT, WRONG, column))).astype(np.float64)
    labelled = counts.labelled.astype(np.float64)
    total = labelled[:, 0 if protected is None else 1 + protected]
    accepted = kept = right + wrong
    share = accepted / labelled[:, :1].clip(min=1)
    if protected is not None:
        lost, kept, applies = lost / total.clip(min=1)[:, None], np.ones_like(lost), total > 0
        return _defined(Losses(tuple(counts.ids), thresholds(), lost, np.ones(len(total)), kept, share), applies)
    return _defined(Losses(tuple(counts.ids), thresholds(), lost, total, kept, share), total > 0)


def losses_of_images(
    counts: ImageCounts, values: Mapping[str, float], losses: Mapping[str, float | None], *, of_accepted: bool = True
) -> Losses:
    """The loss of accepting whole images whose value lies below a threshold: that of the image where it is accepted.

    The thresholds are the values themselves, each rounded up by the smallest step.
    of_accepted: what is lost of a group is a share of its accepted images, not of all of them
    """
    ids = tuple(i for i in counts.ids if losses.get(i) is not None)
    score = np.array([values[i] for i in ids], dtype=np.float64)
    limits = np.nextafter(np.unique(score), np.inf)
    accepted = (score[:, None] < limits).astype(np.float64)
    loss = np.array([losses[i] for i in ids], dtype=np.float64)
    kept = accepted if of_accepted else np.ones_like(accepted)
    return Losses(ids, limits, accepted * loss[:, None], np.ones(len(ids)), kept, accepted)


def image_losses(counts: ImageCounts, protected: int | None = None) -> dict[str, float | None]:
    """The share of wrong pixels of each image, or of the protected class's pixels that are missed; None without any."""
    measure = counts.plan.measures[0]
    column = WRONG if protected is None else MISSED + protected
    (lost,) = counts.at_levels("pixel", measure, (column,)).sum(axis=-1)
    total = counts.labelled[:, 0 if protected is None else 1 + protected]
    return {i: lost[n] / total[n] if total[n] else None for n, i in enumerate(counts.ids)}


def _defined(losses: Losses, applies: NDArray[np.bool_]) -> Losses:
    return losses if applies.all() else losses.of(applies)


def numbered(ids: Sequence[str], groups: Mapping[str, str] | None) -> Ints:
    """The number of each image's group, from 0, in the order of their names; without groups each its own.

    >>> numbered(["a", "b", "c"], {"a": "y", "b": "x", "c": "y"}).tolist()
    [1, 0, 1]
    """
    names = [i if groups is None else groups[i] for i in ids]
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)
