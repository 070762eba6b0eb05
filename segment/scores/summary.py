"""The counts of one task → its named scores and curves, of all images or of every bootstrap replicate.

A score that is not defined is nan here; `why` gives the reason, and files hold None.
"""

from __future__ import annotations

import math

import numpy as np

from segment.scores.functional import calibration, confusion, detection, normalised, rejection
from segment.scores.functional.binning import SCALE, Floats, Ints, extremes, quotient
from segment.scores.functional.patches import SIZES, pavpu
from segment.scores.tally import Tally, Task

RETAINED = (80, 90, 95)  # percent of the pixels, the most confident ones
CURVE = np.linspace(0.01, 1, 100)  # coverages of the risk-coverage curve


def scores(tally: Tally, task: Task) -> dict[str, Floats]:  # R ... -> R each
    """Every score by its name; R replicates side by side (R = 1 for the score of all images)."""
    counts = tally["counts"]
    accuracy = confusion.accuracy(counts)
    proper = quotient(tally["sums"] / SCALE, counts[:, 1].sum(axis=-1)[:, None])
    named = {
        "miou": confusion.mean_iou(counts),
        "accuracy": accuracy,
        "dice": confusion.mean_dice(counts),
        "nll": proper[:, 0],
        "brier": proper[:, 1],
        "ece": calibration.calibration_error(tally["reliability"]),
        "ece_adaptive": calibration.adaptive_calibration_error(tally["confidence"]),
    }
    named |= _normalised(accuracy, proper, task)
    for name in task.measures:
        ranked = _ranked(tally[f"ranking/{name}"], tally[f"classes/{name}"])
        agreed = pavpu(tally[f"patches/{name}"]) if name in task.thresholds else np.full((len(counts), 3), np.nan)
        ranked |= {f"pavpu_{size}": agreed[:, i] for i, size in enumerate(SIZES)}
        named |= {f"{score}.{name}": value for score, value in ranked.items()}
    return named


def _normalised(accuracy: Floats, proper: Floats, task: Task) -> dict[str, Floats]:
    k, valid = task.classes, task.validation_accuracy
    if valid is None or k < 2:
        return {name: np.full_like(accuracy, np.nan) for name in ("normalised_pll", "normalised_brier")}
    c = normalised.constant_probability(valid, k)
    pll = normalised.constant_pll(accuracy, c, k), normalised.optimal_pll(accuracy)
    brier = normalised.constant_brier(accuracy, c, k), normalised.optimal_brier(accuracy)
    return {
        "normalised_pll": normalised.normalised(-proper[:, 0], *pll),
        "normalised_brier": normalised.normalised(proper[:, 1], *brier),
    }


def _ranked(histogram: Ints, classes: Ints) -> dict[str, Floats]:  # R B 2 or 3, R b 3K
    errors, novel = _both(histogram)
    area, oracle = rejection.aurc(errors), rejection.oracle_aurc(errors)
    unranked = quotient(errors[..., 1].sum(axis=-1), errors.sum(axis=(-2, -1)))
    named = {
        "error_auroc": detection.auroc(errors),
        "error_ap": detection.average_precision(errors),
        "ause": rejection.ause(errors),
        "aurc": area,
        "normalised_aurc": np.where(
            (unranked > 0) & (unranked < 1), normalised.normalised(area, unranked, oracle), np.nan
        ),
    }
    coverage = np.array(RETAINED) / 100
    risk, miou = rejection.risk_at(errors, coverage), rejection.miou_at(classes, coverage)
    named |= {f"accuracy_at_{share}": 1 - risk[:, i] for i, share in enumerate(RETAINED)}
    named |= {f"miou_at_{share}": miou[:, i] for i, share in enumerate(RETAINED)}
    return named | {
        "unseen_auroc": detection.auroc(novel),
        "unseen_ap": detection.average_precision(novel),
        "unseen_fpr95": detection.fpr_at_tpr(novel),
    }


BINNED = {
    "error_auroc": detection.auroc,
    "error_ap": detection.average_precision,
    "ause": rejection.ause,
    "aurc": rejection.aurc,
    "unseen_auroc": detection.auroc,
    "unseen_ap": detection.average_precision,
    "unseen_fpr95": detection.fpr_at_tpr,
}
"""Scores that depend on the order inside a bin."""


def exact_to(tally: Tally, task: Task) -> dict[str, float]:
    """A bound of the error that binning causes in each ranking score of all images.

    The score of the sorted pixels lies between those of the best and the worst order in the bins (`binning.extremes`).
    """
    bounds = {}
    for measure in task.measures:
        errors, novel = _both(tally[f"ranking/{measure}"])
        of = {"error": extremes(errors), "unseen": extremes(novel)}
        for name, score in BINNED.items():
            kind, counts = ("unseen", novel) if name.startswith("unseen") else ("error", errors)
            best, worst = of[kind]
            # AP counts the pixels of a bin as ties, which is not their worst order
            least = detection.least_precision(counts) if name.endswith("_ap") else score(worst)
            bounds[f"{name}.{measure}"] = float(np.abs(np.stack([score(best), least]) - score(counts)).max())
    return bounds


def _both(histogram: Ints) -> tuple[Ints, Ints]:  # R B 2 or 3 -> R B 2 each
    """(right, wrong), and (known, unseen)."""
    errors = histogram[..., :2]
    unseen = histogram[..., 2] if histogram.shape[-1] == 3 else np.zeros_like(histogram[..., 0])
    return errors, np.stack([errors.sum(axis=-1), unseen], axis=-1)


def needs(name: str) -> tuple[str, ...]:
    """The kinds of pixels that a score needs, of `board.KINDS`.

    >>> needs("unseen_auroc.variance"), needs("error_ap.variance"), needs("nll")
    (('unseen', 'known'), ('wrong', 'right'), ('known',))
    """
    kind = name.partition(".")[0]
    if kind.startswith("unseen"):
        return "unseen", "known"
    return ("wrong", "right") if kind in ("error_auroc", "error_ap", "normalised_aurc") else ("known",)


def averages_classes(name: str) -> bool:
    """Whether a score is a mean over classes, each of which its images may hold or not.

    >>> averages_classes("miou"), averages_classes("miou_at_90.variance"), averages_classes("accuracy")
    (True, True, False)
    """
    return name in ("miou", "dice") or name.startswith("miou_at_")


def why(name: str, tally: Tally, task: Task) -> str:
    """Why a score of all images is not defined.

    >>> empty = {"counts": np.zeros((1, 3, 2), dtype=np.int64)}
    >>> task = Task(classes=2, measures=(), unseen=False, thresholds={}, validation_accuracy=None)
    >>> why("miou", empty, task)
    'no pixel has a known label'
    """
    kind, _, measure = name.partition(".")
    counts = tally["counts"][0]
    right, known = int(counts[0].sum()), int(counts[1].sum())
    if kind.startswith("unseen"):
        if not task.unseen:
            return "no label id was named as unseen"
        return "no pixel is unseen" if tally[f"ranking/{measure}"][0, :, 2].sum() == 0 else "every pixel is unseen"
    if known == 0:
        return "no pixel has a known label"
    if kind.startswith("pavpu"):
        return "no threshold was given for this measure; choose one on validation images"
    if kind in ("normalised_pll", "normalised_brier"):
        return "no validation accuracy was given" if task.classes > 1 else "a single class leaves no uncertainty"
    return "every pixel is right" if right == known else "every pixel is wrong"


def curves(tally: Tally, task: Task) -> dict[str, tuple[Floats, Floats]]:  # R ... -> (R x), (R y) each
    """Reliability (mean p, share right) in both binnings, and risk against coverage for each measure and the oracle."""
    named = {
        "reliability": calibration.reliability_curve(tally["reliability"]),
        "reliability_adaptive": calibration.equal_mass(tally["confidence"]),
    }
    for name in task.measures:
        errors = tally[f"ranking/{name}"][..., :2]
        x = np.broadcast_to(CURVE, (len(errors), CURVE.size))
        named[f"risk_coverage.{name}"] = (x, rejection.risk_at(errors, CURVE))
        named["risk_coverage.oracle"] = (x, rejection.oracle_risk_at(errors, CURVE))
    return named


LIMITS = {"nll": (0.0, math.inf), "brier": (0.0, 2.0)}
UNLIMITED = (-math.inf, math.inf)


def limits(name: str) -> tuple[float, float]:
    """The range of a score, to which its interval is clipped.

    >>> limits("nll"), limits("ause.variance"), limits("normalised_pll")
    ((0.0, inf), (0.0, 1.0), (-inf, inf))
    """
    return UNLIMITED if name.startswith("normalised") else LIMITS.get(name, (0.0, 1.0))
