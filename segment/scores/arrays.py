"""The arrays of one image, checked before anything is counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segment.errors import ImageUnreadable, PredictionFailed, WrongUse
from segment.scores.plan import OUTSIDE, ScorePlan
from segment.scores.tally import CheckedImage

ArrayLike = NDArray[Any] | torch.Tensor
TOLERANCE = 1e-2  # of the sum of probabilities: half precision keeps it, logits do not


def checked(
    identity: str,
    plan: ScorePlan,
    probability: ArrayLike,  # K H W
    maps: Mapping[str, ArrayLike],  # H W; multilabel: H W or K H W
    label: ArrayLike,  # H W; multilabel: K H W
    prediction: ArrayLike | None,
) -> list[CheckedImage]:
    """The checked image: one K-class task, or for multilabel a two-class task a label.

    Errors: PredictionFailed or ImageUnreadable for arrays that do not fit the plan, WrongUse for a missing map.
    """
    p = _probability(identity, plan, probability)
    ids = _label(identity, plan, label, p.shape)
    masks = _prediction(identity, plan, prediction, p, ids.shape)
    measured = {name: _map(identity, plan, name, maps, p.shape) for name in plan.measures}
    known, unseen = _known_and_unseen(identity, plan, ids)
    if plan.head != "multilabel":
        return [CheckedImage(probability=p, label=ids, prediction=masks, maps=measured, known=known, unseen=unseen)]
    return [
        CheckedImage(
            probability=np.stack([1 - p[k], p[k]]),
            label=ids[k],
            prediction=masks[k],
            maps={name: values if values.ndim == 2 else values[k] for name, values in measured.items()},
            known=known[k],
            unseen=unseen[k],
        )
        for k in range(len(p))
    ]


def _numpy(values: ArrayLike) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        tensor = values.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy has no bfloat16
    return np.asarray(values)


def _probability(identity: str, plan: ScorePlan, given: ArrayLike) -> NDArray[np.float32]:
    p = np.ascontiguousarray(_numpy(given), dtype=np.float32)
    if p.ndim != 3 or len(p) != len(plan.classes) or p.size == 0:
        raise PredictionFailed(
            f"The probabilities of {identity!r} have the shape {p.shape}; "
            f"{len(plan.classes)} classes (K H W) were promised."
        )
    if not p.min() >= 0 or not p.max() <= 1 + TOLERANCE:  # a nan fails both
        raise PredictionFailed(f"The probabilities of {identity!r} are not all within 0..1: {_out_of_range(p)}.")
    if plan.head != "multilabel" and np.abs(p.sum(axis=0) - 1).max() > TOLERANCE:
        raise PredictionFailed(
            f"The probabilities of {identity!r} do not sum to 1 over the classes; apply the softmax."
        )
    return p


def _out_of_range(values: NDArray[np.float32]) -> str:
    broken = int((~np.isfinite(values)).sum())
    return f"{broken} values are not finite" if broken else f"they reach from {values.min():.6g} to {values.max():.6g}"


def _label(identity: str, plan: ScorePlan, given: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.int64]:
    label = _numpy(given)
    wanted = shape if plan.head == "multilabel" else shape[1:]
    if label.shape != wanted:
        raise ImageUnreadable(
            f"The label of {identity!r} has the shape {label.shape}, its prediction {wanted}. "
            "Labels are compared pixel by pixel: give the label at the image's size."
        )
    if label.dtype.kind not in "iub":
        raise ImageUnreadable(f"The label of {identity!r} holds {label.dtype} values; class ids are integers.")
    return label.astype(np.int64)


def _prediction(
    identity: str, plan: ScorePlan, given: ArrayLike | None, p: NDArray[np.float32], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    if given is None:
        return (p >= 0.5).astype(np.int64) if plan.head == "multilabel" else p.argmax(axis=0)
    masks = _numpy(given)
    highest = 1 if plan.head == "multilabel" else len(p) - 1
    if masks.shape != shape or masks.dtype.kind not in "iub" or masks.min() < 0 or masks.max() > highest:
        raise PredictionFailed(
            f"The mask of {identity!r} must have the shape {shape} and ids within 0..{highest}; "
            f"it is {masks.dtype} {masks.shape}."
        )
    return masks.astype(np.int64)


def _map(
    identity: str, plan: ScorePlan, name: str, maps: Mapping[str, ArrayLike], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    if name not in maps:
        raise WrongUse(
            f"The plan scores {name!r}, but {identity!r} came without it; given: {', '.join(maps) or 'none'}."
        )
    values = np.ascontiguousarray(_numpy(maps[name]), dtype=np.float32)
    if values.shape != shape[1:] and not (plan.head == "multilabel" and values.shape == shape):
        raise PredictionFailed(f"Map {name!r} of {identity!r} has the shape {values.shape}, the image {shape[1:]}.")
    if not values.min() >= 0 or not values.max() < np.inf:  # a nan fails both
        raise PredictionFailed(
            f"Map {name!r} of {identity!r} must be finite and not negative: {_out_of_range(values)}."
        )
    return values


def counted(label: ArrayLike) -> NDArray[np.bool_] | None:  # H W
    """Where a label is not OUTSIDE; None: everywhere."""
    outside = _numpy(label) == OUTSIDE
    outside = outside.all(axis=0) if outside.ndim == 3 else outside
    return ~outside if outside.any() else None


def known_pixels(plan: ScorePlan, label: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:  # H W; multilabel: K H W
    """The pixels that count: those whose label is one of the classes, and neither void nor unseen."""
    known = (label >= 0) & (label < _ids(plan)) & ~_unseen(plan, label)
    return known if plan.void is None else known & (label != plan.void)


def checked_known(identity: str, plan: ScorePlan, label: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`known_pixels` of a label (H W; multi-label K H W) that scores would take.

    Args:
        identity: The image's id, for the message.
        plan: Which labels are known.
        label: Ids.

    Raises:
        ImageUnreadable: It holds ids of no known meaning.

    """
    return _known_and_unseen(identity, plan, label)[0]


def _ids(plan: ScorePlan) -> int:
    return 2 if plan.head == "multilabel" else len(plan.classes)


def _unseen(plan: ScorePlan, label: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    return np.isin(label, plan.unseen) if plan.unseen else np.zeros(label.shape, dtype=bool)


def _known_and_unseen(
    identity: str, plan: ScorePlan, label: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The pixels that count, and pixels labelled as unseen. Errors: ImageUnreadable for a label of no known meaning."""
    classes, known, unseen = _ids(plan), known_pixels(plan, label), _unseen(plan, label)
    void = label == OUTSIDE if plan.void is None else (label == OUTSIDE) | (label == plan.void)
    unknown = np.unique(label[~(known | void | unseen)])
    if unknown.size:
        id = classes - 1 if classes == 2 else "ID"
        raise ImageUnreadable(
            f"The label of {identity!r} holds {', '.join(map(str, unknown[:5]))}; known are 0..{classes - 1}, "
            f"void {'none' if plan.void is None else plan.void}, unseen {', '.join(map(str, plan.unseen)) or 'none'}. "
            "Name the others as void or unseen, or say in the card what they stand for: "
            f"`labels: {{{unknown[0]}: {id}}}`."
        )
    return known, unseen
