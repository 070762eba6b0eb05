"""The rows of a sweep as sweep.csv, and the best of them as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from segment.files.text_tables import csv_text
from segment.report.results import CLEAN, Row
from segment.report.sweep_words import best_and_plain, condition_name, shown_names
from segment.report.tables import compact_column, heading

SHOWN = (
    "nll",
    "brier",
    "miou",
    "accuracy",
    "ece",
    "error_auroc.predictive_entropy",
    "error_auroc.mutual_information",
    "error_auroc.variance",
    "ause.predictive_entropy",
    "ause.variance",
)
"""Columns of sweep.csv, each with its interval and its spread over banks."""


def sweep_csv(rows: Sequence[Row]) -> str:
    """CSV: one line a row, the axes first, then passes, seconds, and each score with its interval and bank_sd.

    bank: the name of one that was given; how it was recorded is no axis of the sweep, and left empty
    """
    axes = ("condition", "severity", "method", "T", "M", "transform", "layers", "alpha", "adapted", "bank", "seconds")
    ends = ("value", "low", "high", "bank_sd")
    columns = [*axes, *(name if end == "value" else f"{name}.{end}" for name in SHOWN for end in ends)]
    lines = []
    for row in rows:
        s = row.setting
        batch, bank = (None, None) if s is None else (s.batch, s.file or None)
        recorded = (None,) * 4 if s is None or s.file else (s.transform, s.layers, s.alpha, s.adapted)
        drawn = (row.draws, batch, *recorded, bank)
        axis_values = (row.condition, row.severity, row.method, *drawn, row.result["seconds"])
        entries = [row.result["scores"].get(name, {}) for name in SHOWN]
        lines.append([*axis_values, *(entry.get(end) for entry in entries for end in ends)])
    return csv_text(columns, lines)


MOST = 10
"""Settings of a condition in the terminal, beside the deterministic one."""

SCORES = ("nll", "miou", "ece", "error_auroc.predictive_entropy")
COLUMNS = ("setting", "shift", "s/image", *map(heading, SCORES))


def best_rows(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[int]]:
    """Columns and cells of the ten best settings by NLL, and of the deterministic ones, condition by condition.

    Args:
        rows: settings with their scores, in any order.

    Returns:
        The names of the columns, `shift` only where a corruption was applied, a row of cells a setting, and the
        number of the last row of each condition. Error AUROC is that of the predictive entropy.

    """
    chosen: list[Row] = []
    ends = []
    conditions = list(dict.fromkeys((row.condition, row.severity) for row in rows))
    for condition in conditions:
        same = [row for row in rows if (row.condition, row.severity) == condition]
        chosen += best_and_plain(same, MOST)
        ends.append(len(chosen) - 1)
    _, names = shown_names(rows)
    columns = [[names[row.name] for row in chosen]]
    columns += [[condition_name(row) for row in chosen]] if conditions != [(CLEAN, 0)] else []
    columns.append([f"{row.result['seconds']:.2f}" for row in chosen])
    columns += [compact_column(row.result["scores"].get(score) for row in chosen) for score in SCORES]
    heads = [name for name in COLUMNS if name != "shift" or conditions != [(CLEAN, 0)]]
    return heads, [list(cells) for cells in zip(*columns, strict=True)], ends
