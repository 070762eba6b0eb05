"""The tables of the UCI experiment: scores by set and method, by split, over all sets, and what was chosen.

Must not know how a method is trained, nor what is claimed of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segment.experiments.regression.methods import METHODS
from segment.experiments.regression.predictive import Array, better_by_splits
from segment.experiments.reporting import Row, standard_error, with_error
from segment.experiments.uci.splits import SplitResult

Results = Mapping[str, Sequence[SplitResult]]


@dataclass(frozen=True)
class Columns:
    """One method on one set: a score for each split."""

    rmse: Array
    pll: Array
    crps: Array
    normalised_pll: Array
    normalised_crps: Array
    pll_gain: Array
    crps_gain: Array


def columns_of(splits: Sequence[SplitResult], method: str) -> Columns:
    """Scores by split; gains over the constant are positive where the method is better."""
    scores = [split.methods[method].scores for split in splits]
    return Columns(
        rmse=np.array([score.rmse for score in scores]),
        pll=np.array([score.pll for score in scores]),
        crps=np.array([score.crps for score in scores]),
        normalised_pll=np.array([score.normalised_pll for score in scores]),
        normalised_crps=np.array([score.normalised_crps for score in scores]),
        pll_gain=np.array([score.pll - score.pll_constant for score in scores]),
        crps_gain=np.array([score.crps_constant - score.crps for score in scores]),
    )


def overlap(splits: Sequence[SplitResult]) -> float:
    return len(splits[0].rows) / splits[0].train_rows


def score_rows(results: Results) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    numbers: list[dict[str, Any]] = []
    shown: list[dict[str, Any]] = []
    for name, splits in results.items():
        columns = {method: columns_of(splits, method) for method in METHODS}
        ranks = {
            "PLL": _ranks({method: -float(columns[method].pll.mean()) for method in METHODS}),
            "CRPS": _ranks({method: float(columns[method].crps.mean()) for method in METHODS}),
        }
        for method, column in columns.items():
            p_pll, p_crps = (
                None if method == "trained statistics" else better_by_splits(gain, test_to_train=overlap(splits))
                for gain in (column.pll_gain, column.crps_gain)
            )
            row: dict[str, Any] = {"set": name, "method": method, "splits": len(splits)}
            text: dict[str, Any] = {"set": name, "method": method}
            for label in ("rmse", "pll", "crps", "normalised_pll", "normalised_crps"):
                values = getattr(column, label)
                row[label] = float(values.mean())
                row[f"{label}_se"] = standard_error(values) if len(values) > 1 else None
                heading = label.replace("_", " ").replace("pll", "PLL").replace("crps", "CRPS").replace("rmse", "RMSE")
                text[heading] = with_error(values.tolist(), digits=2 if "normalised" in label else 3)
            row |= {
                "p_pll": p_pll,
                "p_crps": p_crps,
                "t_test_pll": _t_test(column.normalised_pll),
                "t_test_crps": _t_test(column.normalised_crps),
                "rank_pll": ranks["PLL"][method],
                "rank_crps": ranks["CRPS"][method],
            }
            text |= {
                "p PLL": p_pll,
                "p CRPS": p_crps,
                "rank PLL": ranks["PLL"][method],
                "rank CRPS": ranks["CRPS"][method],
            }
            numbers.append(row)
            shown.append(text)
    return numbers, shown


def _t_test(values: Array) -> float | None:
    """p-value of the paper's one-sample t-test that a normalised score is above 0; None where no value differs from 0.

    It takes splits as independent.
    """
    return better_by_splits(values, test_to_train=0.0) if values.any() else None


def _ranks(losses: Mapping[str, float]) -> dict[str, int]:
    return {method: 1 + sum(other < loss for other in losses.values()) for method, loss in losses.items()}


def split_rows(results: Results) -> list[Row]:
    rows: list[Row] = []
    for name, splits in results.items():
        for split in splits:
            for method, scored in split.methods.items():
                scores = scored.scores
                rows.append(
                    {
                        "set": name,
                        "split": split.split,
                        "method": method,
                        "rmse": scores.rmse,
                        "pll": scores.pll,
                        "pll_constant": scores.pll_constant,
                        "pll_optimal": scores.pll_optimal,
                        "crps": scores.crps,
                        "crps_constant": scores.crps_constant,
                        "crps_optimal": scores.crps_optimal,
                        "normalised_pll": scores.normalised_pll,
                        "normalised_crps": scores.normalised_crps,
                        "tau": scored.precision,
                        "tau_constant": scored.constant,
                        "choice": " ".join(f"{key}={value:g}" for key, value in scored.choice.items()),
                    }
                )
    return rows


def summary_rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    table: list[Row] = []
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        table.append(
            {
                "method": method,
                **{
                    f"mean {label}": float(np.mean([row[key] for row in own]))
                    for label, key in (
                        ("rank PLL", "rank_pll"),
                        ("rank CRPS", "rank_crps"),
                        ("normalised PLL", "normalised_pll"),
                        ("normalised CRPS", "normalised_crps"),
                    )
                },
                "sets above the constant in CRPS": sum(row["normalised_crps"] > 0 for row in own),
                "with p < 0.05": sum(row["p_crps"] is not None and row["p_crps"] < 0.05 for row in own),
            }
        )
    return table


def choice_rows(results: Results) -> list[Row]:
    rows: list[Row] = []
    for name, splits in results.items():
        for method in ("mcbn", "mcdo", "mnf"):
            for split in splits:
                choice = split.methods[method].choice
                rows.append(
                    {
                        "set": name,
                        "method": method,
                        "split": split.split,
                        **{
                            key: f"{choice[key]:g}" if key in choice else "–"
                            for key in ("batch", "dropout", "l2", "precision", "epochs")
                        },
                        "CV RMSE (standardised)": choice["cv_rmse"],
                        "tau": split.methods[method].precision,
                        "tau of the constant": split.methods[method].constant,
                    }
                )
    return rows
