"""The tables of docs/decisions.md, from what an evaluation measured.

Must not measure anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segment.files.text_tables import markdown
from segment.report.tables import number, verdict

Lines = list[str]


UNSEEN = ("unseen_auroc.predictive_entropy", "unseen_auroc.mutual_information")

RANKED = (
    "network",
    "method",
    "quality",
    "ranked by",
    "chosen because",
    "Spearman",
    "failure AUROC",
    "best in hindsight",
)


def rankings(networks: Mapping[str, Mapping[str, Any]]) -> Lines:
    """What ranks images by accuracy and by Dice, how well, and what would have; networks: name -> a `ranking.json`."""
    rows = []
    for name, content in networks.items():
        for method, of in content["methods"].items():
            for target, words in (("accuracy", "accuracy"), ("dice", "Dice")):
                best, column = of["best"][target], of["hindsight"][target]
                scores = of["columns"][best["column"]][target]
                cells = [number(scores[score], 3) for score in ("spearman", "failure_auroc")]
                hindsight = f"`{column}` {number(of['columns'][column][target]['spearman'], 3)}"
                rows.append([f"`{name}`", method, words, f"`{best['column']}`", best["why"], *cells, hindsight])
    return markdown(RANKED, rows)


def tuned(result: Mapping[str, Any]) -> Lines:
    """NLL and AUSE of every method of an evaluation with a tuned setting, with the paired differences to the best."""
    compared = [(_of_score(result, name), digits) for name, digits in (("nll", 4), ("ause of the best measure", 5))]
    rows = []
    for name, method in result["scores"]["methods"].items():
        cells = [cell for each, digits in compared for cell in _beside_best(each, name, digits)]
        rows.append([f"`{name}`", str(method["passes_per_image"]), *cells])
    return markdown(("method", "passes", "NLL", "best minus it", "AUSE", "best minus it"), rows)


def ensembles(result: Mapping[str, Any]) -> Lines:
    """A row a method of an evaluation with unseen objects: its scores, and its difference to the best in NLL."""
    nll = _of_score(result, "nll")
    rows = []
    for name, method in result["scores"]["methods"].items():
        scores = method["scores"]
        names = ("ece", "miou", "error_auroc.predictive_entropy", *UNSEEN)
        cells = [number(scores.get(score), 3) for score in names]
        rows.append([f"`{name}`", str(method["passes_per_image"]), *_beside_best(nll, name, 4), *cells])
    words = ("NLL", "best minus it", "ECE", "mIoU", "error AUROC", "unseen AUROC by entropy", "by mutual information")
    return markdown(("method", "passes", *words), rows)


def _of_score(result: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    compared: Mapping[str, Any] = next(each for each in result["comparisons"]["scores"] if each["score"] == name)
    return compared


def _beside_best(compared: Mapping[str, Any], name: str, digits: int) -> tuple[str, str]:
    """A method's value, and the difference of the best one to it in words."""
    value = compared["values"].get(name)
    apart = compared["differences"].get(name)
    words = "best" if name == compared["best"] else f"{number(apart, digits)}, {verdict(apart)}" if apart else "–"
    return ("–" if value is None else f"{value:.{digits}f}"), words


def compared_runs(measured: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> Lines:
    """A row a pair of runs and number: the difference or the AUROC, and the verdict."""
    rows = []
    for words, result in measured.items():
        for column, name in columns.items():
            test = result["columns"].get(column)
            if test is None:
                continue
            if result["paired"]:
                shown = f"difference {number(test['difference'], 4)}"
            else:
                shown = f"AUROC {number(test['auroc'], 3)}"
            p = "–" if test["holm_p"] is None else f"{test['holm_p']:.2g}"
            rows.append([words, name, shown, p, test["verdict"]])
    return markdown(("A and B", "number", "B against A", "p, Holm", ""), rows)


def one_pass(result: Mapping[str, Any]) -> Lines:
    """A row a method of an evaluation: NLL, ECE, accuracy, and its difference to the best in NLL."""
    nll = _of_score(result, "nll")
    rows = []
    for name, method in result["scores"]["methods"].items():
        scores = method["scores"]
        apart = nll["differences"].get(name)
        words = "best" if apart is None else f"{number(apart, 4)}, {verdict(apart)}"
        values = [number(scores[score], 3) for score in ("nll", "ece", "accuracy", "miou")]
        rows.append([name, str(method["passes_per_image"]), *values, words])
    return markdown(("method", "passes", "NLL", "ECE", "accuracy", "mIoU", "best minus it, NLL"), rows)
