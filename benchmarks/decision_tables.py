"""The tables of docs/decisions.md, from what an evaluation measured.

Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segment.files.markdown import markdown
from segment.report.tables import number, verdict

Lines = list[str]


def rankings(ranking: Mapping[str, Any]) -> Lines:
    """What ranks images by accuracy and by Dice, and how well."""
    rows = []
    for target, words in (("accuracy", "accuracy"), ("dice", "Dice")):
        best, scores = ranking[target]["best"], ranking[target]["scores"]
        cells = [number(scores[name], 3) for name in ("spearman", "aurc", "failure_auroc")]
        rows.append([words, f"`{best['column']}`", best["why"], *cells])
    return markdown(("quality", "ranked by", "chosen because", "Spearman", "AURC", "failure AUROC"), rows)


def best_rankings(content: Mapping[str, Any], method: str) -> Lines:
    """The same of one method of a `ranking.json`."""
    of = content["methods"][method]
    chosen = {target: of["best"][target] for target in ("accuracy", "dice")}
    return rankings({t: {"best": best, "scores": of["columns"][best["column"]][t]} for t, best in chosen.items()})


def one_pass(result: Mapping[str, Any]) -> Lines:
    """A row a method of an evaluation: NLL, ECE, accuracy, and its difference to the best in NLL."""
    nll = next(each for each in result["comparisons"]["scores"] if each["score"] == "nll")
    rows = []
    for name, method in result["scores"]["methods"].items():
        scores = method["scores"]
        apart = nll["differences"].get(name)
        words = "best" if apart is None else f"{number(apart, 4)}, {verdict(apart)}"
        values = [number(scores[score], 3) for score in ("nll", "ece", "accuracy", "miou")]
        rows.append([name, str(method["passes_per_image"]), *values, words])
    return markdown(("method", "passes", "NLL", "ECE", "accuracy", "mIoU", "best minus it, NLL"), rows)
