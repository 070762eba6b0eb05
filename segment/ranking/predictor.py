"""A small predictor of a mask's quality from the numbers of its image, fitted on validation images.

Ridge regression by scikit-learn (the extra `ranking`), cross-validated; its use needs NumPy alone. Must not know files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from segment.errors import MissingExtra, WrongUse
from segment.ranking.columns import AGGREGATIONS, GROW_WITH_QUALITY, Row, ranking_columns, uncertainty_of, values
from segment.scores.functional.binning import Floats
from segment.scores.functional.image_level import spearman

LEAST_IMAGES = 20
"""Below this number of validation images nothing is fitted."""
FOLDS = 5
PENALTIES = np.logspace(-1, 4, 21)


@dataclass(frozen=True)
class Predictor:
    """Quality = intercept + sum of coefficients times (number - mean) / scale; a missing number counts as the mean.

    target: "accuracy" or "dice"; features: the columns. images: it was fitted on
    spearman: of its cross-validated predictions with the target; single: the column that ranks best alone, and its
    spearman on the same images
    """

    target: str
    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    coefficients: tuple[float, ...]
    intercept: float
    images: int
    spearman: float | None
    single: str
    single_spearman: float | None

    def __call__(self, rows: Sequence[Row]) -> Floats:  # -> N
        """The predicted quality of each row's image, within 0..1."""
        numbers = np.stack([values(rows, column) for column in self.features], axis=1)
        standard = (numbers - np.array(self.means)) / np.array(self.scales)
        standard = np.where(np.isfinite(standard), standard, 0.0)
        return np.clip(self.intercept + standard @ np.array(self.coefficients), 0, 1)

    @property
    def better(self) -> bool:
        """Whether it ranks the validation images at least as well as the best single number does."""
        return self.spearman is not None and self.spearman >= (self.single_spearman or 0.0)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(content: Mapping[str, Any]) -> Predictor:
        """What `as_dict` gave, read back from JSON."""
        lists = ("features", "means", "scales", "coefficients")
        values_of: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in content.items()}
        return Predictor(**values_of)


def fit_predictor(rows: Sequence[Row], target: str) -> Predictor:
    """Fit a predictor on the rows of validation images.

    Args:
        rows: Of labelled images that the network was not trained on, ordered so that neighbours (frames of a video) are
            neighbours: they are cross-validated in FOLDS blocks.
        target: The column of the quality.

    Returns:
        The predictor, with how well it and the best single column rank these images.

    Raises:
        WrongUse: Fewer than LEAST_IMAGES images have the target, all are alike, or no column ranks.
        MissingExtra: scikit-learn is not installed.

    """
    try:
        from sklearn.linear_model import RidgeCV
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise MissingExtra("A fitted ranking needs scikit-learn: pip install 'mcbn-segment[ranking]'.") from None
    rows = [row for row in rows if np.isfinite(values([row], target)[0])]
    y = values(rows, target)
    if len(rows) < LEAST_IMAGES:
        raise WrongUse(f"{len(rows)} validation images have a {target}; a predictor needs {LEAST_IMAGES} or more.")
    if np.ptp(y) == 0:
        raise WrongUse(f"Every validation image has the same {target}, so nothing can be learnt.")
    features = [column for column in ranking_columns(rows) if _usable(rows, column)]
    if not features:
        raise WrongUse("No number that ranks images differs between the validation images.")
    x = np.stack([values(rows, column) for column in features], axis=1)
    means = np.nanmean(x, axis=0)
    x = np.where(np.isfinite(x), x, means)
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES))
    held_out = cross_val_predict(model, x, y, cv=KFold(FOLDS, shuffle=False))
    model.fit(x, y)
    scaler, ridge = model[0], model[1]
    alone = {column: spearman(-uncertainty_of(rows, column), y)[0] for column in features}
    alone = {column: rho for column, rho in alone.items() if np.isfinite(rho)}
    single = max(alone, key=lambda column: alone[column])
    rho = spearman(held_out, y)[0]
    return Predictor(
        target,
        tuple(features),
        tuple(map(float, scaler.mean_)),
        tuple(map(float, scaler.scale_)),
        tuple(map(float, ridge.coef_)),
        float(ridge.intercept_),
        len(rows),
        float(rho) if np.isfinite(rho) else None,
        single,
        float(alone[single]),
    )


def _usable(rows: Sequence[Row], column: str) -> bool:
    kind = column.partition(".")[0]
    if kind not in AGGREGATIONS and column not in GROW_WITH_QUALITY[:3]:
        return False
    known = values(rows, column)
    known = known[np.isfinite(known)]
    return 2 * known.size > len(rows) and float(np.ptp(known)) > 0
