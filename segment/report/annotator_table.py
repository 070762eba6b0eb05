"""Scores against several annotators → the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segment.report.tables import compact

ANNOTATOR_COLUMNS = ("method", "mIoU ↑, mean", "mIoU ↑, each", "NLL ↓, mean", "disagreement AUROC ↑")


def annotator_rows(scores: Mapping[str, Any]) -> list[list[str]]:
    """A row for each method: means with intervals, and the measure that ranks disagreement best."""
    rows = []
    for name, method in scores["methods"].items():
        aurocs = {key.partition(".")[2]: entry for key, entry in method["disagreement"].items() if "_auroc." in key}
        defined = [key for key, entry in aurocs.items() if entry["value"] is not None]
        best = max(defined, key=lambda key: aurocs[key]["value"], default="")
        each = "\n".join(compact({"value": scores["miou"]["value"]}) for scores in method["each"])
        mean = method["mean"]
        auroc = f"{compact(aurocs.get(best))}\n{best}"
        rows.append([name, compact(mean["miou"]), each, compact(mean["nll"]), auroc])
    return rows
