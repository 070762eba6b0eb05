"""From counts to the named scores of one K-class problem: of all images, and of every bootstrap replicate alike.

A score that is not defined is nan here; `why` says the reason, and no nan leaves the room.
"""

from __future__ import annotations

import math

import numpy as np

from segment.scores.functional import calibration, confusion, detection, normalised, rejection
from segment.scores.functional.binning import SCALE, Floats, Ints, extremes, quotient
from segment.scores.functional.patches import SIZES, pavpu
from segment.scores.tally import Problem, Tally

RETAINED = (80, 90, 95)  # percent of the pixels, the surest ones
CURVE = np.linspace(0.01, 1, 100)  # coverages of the risk-coverage curve

Curve = tuple[Floats, Floats]


def scores(tally: Tally, problem: Problem) -> dict[str, Floats]:  # R ... -> R each
    """Every score by its name; R replicates side by side (R = 1 for the score of all images)."""
    counts = tally["counts"]
    accuracy = confusion.accuracy(counts)
    proper = quotient(tally["sums"] / SCALE, counts[:, 1].sum(axis=-1)[:, None])
    found = {
        "miou": confusion.mean_iou(counts),
        "accuracy": accuracy,
        "dice": confusion.mean_dice(counts),
        "nll": proper[:, 0],
        "brier": proper[:, 1],
        "ece": calibration.calibration_error(tally["reliability"]),
        "ece_adaptive": calibration.adaptive_calibration_error(tally["confidence"]),
    }
    found |= _normalised(accuracy, proper, problem)
    for name in problem.measures:
        ranked = _ranked(tally[f"ranking/{name}"], tally[f"classes/{name}"])
        agreed = pavpu(tally[f"patches/{name}"]) if name in problem.thresholds else np.full((len(counts), 3), np.nan)
        ranked |= {f"pavpu_{size}": agreed[:, i] for i, size in enumerate(SIZES)}
        found |= {f"{score}.{name}": value for score, value in ranked.items()}
    return found


def _normalised(accuracy: Floats, proper: Floats, problem: Problem) -> dict[str, Floats]:
    k, valid = problem.classes, problem.validation_accuracy
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
    found = {
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
    found |= {f"accuracy_at_{share}": 1 - risk[:, i] for i, share in enumerate(RETAINED)}
    found |= {f"miou_at_{share}": miou[:, i] for i, share in enumerate(RETAINED)}
    return found | {
        "unseen_auroc": detection.auroc(novel),
        "unseen_ap": detection.average_precision(novel),
        "unseen_fpr95": detection.fpr_at_tpr(novel),
    }


BINNED = {
    "error_auroc": detection.auroc, "error_ap": detection.average_precision, "ause": rejection.ause,
    "aurc": rejection.aurc, "unseen_auroc": detection.auroc, "unseen_ap": detection.average_precision,
    "unseen_fpr95": detection.fpr_at_tpr,
}  # fmt: skip
"""Scores that an order inside a bin would change."""


def exact_to(tally: Tally, problem: Problem) -> dict[str, float]:
    """How far each ranking score of all images may be from that of the sorted pixels, which no bins were made of.

    The score lies between those of the best and of the worst order inside the bins (`binning.extremes`).
    """
    found = {}
    for measure in problem.measures:
        errors, novel = _both(tally[f"ranking/{measure}"])
        of = {"error": extremes(errors), "unseen": extremes(novel)}
        for name, score in BINNED.items():
            kind, counts = ("unseen", novel) if name.startswith("unseen") else ("error", errors)
            best, worst = of[kind]
            least = detection.least_precision(counts) if name.endswith("_ap") else score(worst)  # ties hide AP's worst
            found[f"{name}.{measure}"] = float(np.abs(np.stack([score(best), least]) - score(counts)).max())
    return found


def _both(histogram: Ints) -> tuple[Ints, Ints]:  # R B 2 or 3 -> R B 2 each
    """(right, wrong), and (known, unseen)."""
    errors = histogram[..., :2]
    unseen = histogram[..., 2] if histogram.shape[-1] == 3 else np.zeros_like(histogram[..., 0])
    return errors, np.stack([errors.sum(axis=-1), unseen], axis=-1)


def why(name: str, tally: Tally, problem: Problem) -> str:
    """Why a score of all images is not defined.

    >>> nothing = {"counts": np.zeros((1, 3, 2), dtype=np.int64)}
    >>> problem = Problem(classes=2, measures=(), unseen=False, thresholds={}, validation_accuracy=None)
    >>> why("miou", nothing, problem)
    'no pixel has a known label'
    """
    kind, _, measure = name.partition(".")
    counts = tally["counts"][0]
    right, known = int(counts[0].sum()), int(counts[1].sum())
    if kind.startswith("unseen"):
        if not problem.unseen:
            return "no label id was named as unseen"
        return "no pixel is unseen" if tally[f"ranking/{measure}"][0, :, 2].sum() == 0 else "every pixel is unseen"
    if known == 0:
        return "no pixel has a known label"
    if kind.startswith("pavpu"):
        return "no threshold was given for this measure; choose one on validation images"
    if kind in ("normalised_pll", "normalised_brier"):
        return "no validation accuracy was given" if problem.classes > 1 else "one class leaves nothing to doubt"
    return "every pixel is right" if right == known else "every pixel is wrong"


def curves(tally: Tally, problem: Problem) -> dict[str, Curve]:  # R ... -> (R x), (R y) each
    """Reliability (mean p, share right) in both binnings, and risk against coverage for each measure and the oracle."""
    found = {
        "reliability": calibration.reliability_curve(tally["reliability"]),
        "reliability_adaptive": calibration.equal_mass(tally["confidence"]),
    }
    for name in problem.measures:
        errors = tally[f"ranking/{name}"][..., :2]
        x = np.broadcast_to(CURVE, (len(errors), CURVE.size))
        found[f"risk_coverage.{name}"] = (x, rejection.risk_at(errors, CURVE))
        found["risk_coverage.oracle"] = (x, rejection.oracle_risk_at(errors, CURVE))
    return found


LIMITS = {"nll": (0.0, math.inf), "brier": (0.0, 2.0)}
UNLIMITED = (-math.inf, math.inf)


def limits(name: str) -> tuple[float, float]:
    """The range of a score, which its interval does not leave.

    >>> limits("nll"), limits("ause.variance"), limits("normalised_pll")
    ((0.0, inf), (0.0, 1.0), (-inf, inf))
    """
    return UNLIMITED if name.startswith("normalised") else LIMITS.get(name, (0.0, 1.0))
