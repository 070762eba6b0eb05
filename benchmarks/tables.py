"""Figures and tables of README.md and docs/ from docs/measured/*.json: `python -m benchmarks.tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, a figure in a sentence between `<!-- value: NAME -->`
and `<!-- -->`; both are written anew by this script, and a test fails where a document differs from what it writes.
`python -m benchmarks.measure` writes the JSON. Must not measure anything.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segment.files.markdown import markdown
from segment.files.writing import write_text
from segment.report.comparison import best_entry
from segment.report.tables import COLUMNS, counted, table, verdict

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MEASURED = ROOT / "docs" / "measured"
TABLE = re.compile(r"(<!-- table: ([\w.]+) -->\n).*?(<!-- end -->)", re.DOTALL)
VALUE = re.compile(r"(<!-- value: ([\w.]+) -->).*?(<!-- -->)", re.DOTALL)

Lines = list[str]
EVALUATED = {"unet": "evaluate_unet_lite0", "enet": "evaluate_enet"}


def measured(name: str) -> dict[str, Any]:
    """What a command measured, and how. Error: FileNotFoundError where no command has written it."""
    found: dict[str, Any] = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))
    return found


def made(name: str) -> str:
    """Where a table's numbers come from, in one line."""
    found = measured(name)
    machine = found["machine"]
    return (
        f"`{found['command']}`, {found['date']}, torch {found['versions']['torch']}, {machine['cores']} cores of "
        f"{machine['processor']}: `docs/measured/{name}.json`."
    )


def short(value: float, digits: int = 3) -> str:
    """A figure as the documents write it.

    >>> short(0.1239), short(-0.5), short(12.0, 1)
    ('.124', '-.500', '12.0')
    """
    return re.sub(r"^(-?)0\.", r"\1.", f"{value:.{digits}f}")


def demo() -> Lines:
    result = measured("demo")["result"]
    columns = [result["title"], *result["columns"][1:-1], f"{result['columns'][-1]} (95 %)"]
    return markdown(columns, result["rows"])


def camvid(evaluated: Sequence[str]) -> Lines:
    """A row a method, of the networks whose evaluation is at hand."""
    columns = (
        "CamVid test images, M = 8, T = 16",
        "images",
        "mIoU",
        "accuracy",
        "NLL, nats",
        "ECE",
        "error AUROC, best",
    )
    rows = []
    for name in evaluated:
        found = measured(name)["result"]
        model = found["run"]["settings"]["model"]
        for method, entry in found["scores"]["methods"].items():
            scores = entry["scores"]
            best = best_entry("error_auroc", scores)
            names = ("miou", "accuracy", "nll", "ece", best)
            values = [short(scores[score]["value"]) if score else "none" for score in names]
            rows.append([f"`{model}`, {method}", str(found["scores"]["images"]), *values])
    return markdown(columns, rows)


def evaluation(name: str) -> Lines:
    """All scores of one evaluation with their intervals, and what MCBN gains."""
    found = measured(name)["result"]
    lines = [f"{counted(found['scores'])}; {made(name)}", "", *markdown(COLUMNS, table(found["scores"]))]
    rows = []
    for gain in found["comparisons"]["gains"]:
        for score in ("nll", "miou", "error_auroc of the best measure"):
            entry = gain["differences"].get(score)
            if entry is not None and entry["value"] is not None:
                span = f"{short(entry['value'], 4)} ({short(entry['low'], 4)} to {short(entry['high'], 4)})"
                rows.append([f"{gain['method']} over {gain['rival']}", score.replace("_", " "), span, verdict(entry)])
    return [*lines, "", *markdown(("gain", "score", "difference (95 %)", "significant"), rows)]


def binning() -> Lines:
    rows = [
        [f"{100 * row['width']:g} %", *(short(row[score], 5) for score in ("auroc", "ap", "fpr95"))]
        for row in measured("binning")["result"]["worst"]
    ]
    return [*markdown(("all doubt within", "AUROC", "AP", "FPR95"), rows), "", made("binning")]


def against_trained() -> Lines:
    rows = []
    for name in ("fit_unet_lite0", "fit_enet"):
        result = measured(name)["result"]
        found = result["reference"]
        worst = ", ".join(f"`{layer}` {short(found['layers'][layer]['variance_ratio'], 2)}" for layer in found["worst"])
        ends = f"{short(found['low'], 2)} to {short(found['high'], 2)}"
        rows.append(
            [f"`{result['network']}`", short(found["variance_ratio"], 2), ends, short(found["mean_shift"], 2), worst]
        )
    columns = ("bank", "variance ratio, median", "5 to 95 %", "mean shift, sd", "worst layers")
    return [*markdown(columns, rows), "", made("fit_unet_lite0")]


def audit(name: str) -> str:
    return f"{100 * measured(name)['result']['audit']['cpu']['bf16']['variance_error']:.1f} %"


TABLES: Mapping[str, Callable[[], Lines]] = {
    "demo": demo,
    "camvid": partial(camvid, tuple(EVALUATED.values())),
    "evaluate.unet": partial(evaluation, EVALUATED["unet"]),
    "evaluate.enet": partial(evaluation, EVALUATED["enet"]),
    "binning": binning,
    "against_trained": against_trained,
}
VALUES: Mapping[str, Callable[[], str]] = {
    "audit.unet": partial(audit, "fit_unet_lite0"),
    "audit.enet": partial(audit, "fit_enet"),
}


def written(text: str) -> str:
    """A document with its tables and figures as the measurements have them. Error: KeyError for a name not known."""
    text = TABLE.sub(lambda found: found[1] + "".join(f"{line}\n" for line in TABLES[found[2]]()) + found[3], text)
    return VALUE.sub(lambda found: found[1] + VALUES[found[2]]() + found[3], text)


def main() -> None:
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        if written(text) != text:
            write_text(document, written(text))
            sys.stdout.write(f"{document.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
