"""How far the ranking scores of histograms are from scikit-learn's over the sorted pixels: a search for the worst case.

    python -m benchmarks.binning

All uncertainty lies within a share `width` of one value. The value, the share of errors and the quality of their
ranking are drawn at random, many times; the largest difference of each score is kept.
Needs scikit-learn (the extra `dev`).
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from segment.scores.functional import detection
from segment.scores.functional.binning import BINS, FINE, bin_of

WIDTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)


def of_bins(values: NDArray[np.float32], wrong: NDArray[np.bool_]) -> dict[str, float]:
    counts = np.bincount(bin_of(values) * np.int64(2) + wrong, minlength=2 * BINS).reshape(1, BINS, 2)
    scores = {"auroc": detection.auroc, "ap": detection.average_precision, "fpr95": detection.fpr_at_tpr}
    return {name: float(score(counts)[0]) for name, score in scores.items()}


def of_pixels(values: NDArray[np.float32], wrong: NDArray[np.bool_]) -> dict[str, float]:
    fpr, tpr, _ = roc_curve(wrong, values, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(wrong, values)),
        "ap": float(average_precision_score(wrong, values)),
        "fpr95": float(fpr[(tpr >= 0.95).argmax()]),
    }


def worst_case(width: float, *, trials: int, pixels: int, seed: int = 0) -> dict[str, float]:
    """The largest difference of each score over random data sets whose uncertainty lies within `width` of a value."""
    rng = np.random.default_rng(seed)
    worst = {"auroc": 0.0, "ap": 0.0, "fpr95": 0.0}
    for _ in range(trials):
        wrong = rng.random(pixels) < rng.choice([0.01, 0.1, 0.5])
        wrong[:2] = [True, False]
        place = rng.normal(size=pixels) + rng.uniform(0, 4) * wrong
        place = (place - place.min()) / (place.max() - place.min())
        values = (2.0 ** rng.uniform(-1, 1) * (1 - width * (1 - place))).astype(np.float32)
        got, want = of_bins(values, wrong), of_pixels(values, wrong)
        worst = {name: max(value, abs(got[name] - want[name])) for name, value in worst.items()}
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--pixels", type=int, default=60_000)
    arguments = parser.parse_args()
    rows = [{"width": width, **worst_case(width, trials=arguments.trials, pixels=arguments.pixels)} for width in WIDTHS]
    sys.stdout.write(json.dumps({"bins an octave": 2**FINE, **vars(arguments), "worst": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
