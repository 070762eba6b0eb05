"""Which numbers rank an evaluation's images by the quality of their masks, and a predictor fitted on validation images.

Must not know how an image was scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segment.errors import SegmentError
from segment.ranking.columns import TARGETS, Row, on_most_images, predicted, ranking_columns, uncertainty_of, values
from segment.ranking.predictor import Predictor, fit_predictor
from segment.ranking.quality import ranking_scores
from segment.report.results import Validation
from segment.scores.functional.image_level import spearman

NO_VALIDATION = "no validation images were given"
LEAST = 6
"""Validation images that a single number is chosen on, where no predictor can be fitted."""


def rank_images(
    rows: Mapping[str, Sequence[dict[str, Any]]],
    validated: Validation,
    fails_below: float | None = None,
    groups: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The content of `ranking.json`; adds what the predictors say to the rows, as `predicted_accuracy` and `_dice`.

    Args:
        rows: Method and bank to the rows of its images, changed in place.
        validated: What was scored on validation images; its rows are what predictors are fitted on.
        fails_below: The Dice below which a mask has failed; None: the lower quartile of the validation images' Dice,
            without them of the scored images'.
        groups: Id to group, over which intervals then are; None: over images.

    Returns:
        For each method the scores of every column that ranks, by accuracy and by Dice; the predictors or why there are
        none; the column that ranks best, of those that the most images have, chosen on validation images where there
        are any; and `hindsight`, the one that ranks these very images best: no choice of a single number does better.

    """
    content: dict[str, Any] = {}
    for name, own in rows.items():
        held_out = sorted(validated.per_image.get(name, ()), key=lambda row: str(row["id"]))
        predictors, why = _predictors(held_out)
        for target, predictor in predictors.items():
            for row, value in zip(own, predictor(own), strict=True):
                row[predicted(target)] = float(value)
        limits = {target: _limit(held_out or own, target) for target in TARGETS}
        if fails_below is not None:
            limits["dice"] = fails_below
        ids = [str(row["id"]) for row in own]
        columns = {
            column: {
                target: ranking_scores(ids, uncertainty_of(own, column), values(own, target), limits[target], groups)
                for target in TARGETS
            }
            for column in ranking_columns(own)
        }
        whole = {column: columns[column] for column in on_most_images(columns, [*own, *held_out])}
        content[name] = {
            "fails_below": limits,
            "best": {target: _best(target, predictors.get(target), whole, held_out) for target in TARGETS},
            "hindsight": {target: _largest(target, columns) for target in TARGETS},
            "predictors": {target: predictor.as_dict() for target, predictor in predictors.items()},
            "without_predictor": why,
            "columns": columns,
        }
    return {"methods": content}


def _predictors(held_out: Sequence[Row]) -> tuple[dict[str, Predictor], dict[str, str]]:
    fitted: dict[str, Predictor] = {}
    why: dict[str, str] = {}
    for target in TARGETS:
        if not held_out:
            why[target] = NO_VALIDATION
            continue
        try:
            fitted[target] = fit_predictor(held_out, target)
        except SegmentError as error:
            why[target] = str(error)
    return fitted, why


def _limit(rows: Sequence[Row], target: str) -> float:
    known = values(rows, target)
    known = known[np.isfinite(known)]
    return float(np.quantile(known, 0.25)) if known.size else 0.5


def _best(
    target: str, predictor: Predictor | None, columns: Mapping[str, Any], held_out: Sequence[Row]
) -> dict[str, str] | None:
    """The column that ranks best, and why it was taken; None where none ranks. columns: those to choose from."""
    if predictor is not None and predictor.better:
        rho = f"{predictor.spearman:.2f}, the best single number {predictor.single_spearman:.2f}"
        why = f"cross-validated on {predictor.images} validation images: Spearman {rho}"
        return {"column": predicted(target), "why": why}
    if predictor is not None and predictor.single in columns:
        rho = f"{predictor.single_spearman:.2f}"
        return {"column": predictor.single, "why": f"best on {predictor.images} validation images: Spearman {rho}"}
    if (single := _single(target, columns, held_out)) is not None:
        column, correlation, count = single
        return {"column": column, "why": f"best on {count} validation images: Spearman {correlation:.2f}"}
    name = _largest(target, columns)
    why = "best on these very images, so that its own correlation is too high"
    return None if name is None else {"column": name, "why": why}


def _single(target: str, columns: Mapping[str, Any], held_out: Sequence[Row]) -> tuple[str, float, int] | None:
    """The column with the largest rank correlation on validation images, that and their number; None for very few."""
    lack = 1 - values(held_out, target)
    correlations = {name: spearman(uncertainty_of(held_out, name), lack) for name in columns} if held_out else {}
    known = {name: (rho, count) for name, (rho, count) in correlations.items() if not np.isnan(rho) and count >= LEAST}
    if not known:
        return None
    name = max(known, key=lambda column: known[column][0])
    return name, *known[name]


def _largest(target: str, columns: Mapping[str, Any]) -> str | None:
    """The column with the largest rank correlation here; None where none ranks."""
    ranks = {name: of[target]["spearman"]["value"] for name, of in columns.items()}
    known = {name: rho for name, rho in ranks.items() if rho is not None}
    return max(known, key=lambda column: known[column]) if known else None
