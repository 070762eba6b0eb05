"""An evaluation as a page of Markdown: tables and how they were made, written by the command and by nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segment.errors import WrongUse
from segment.files.writing import write_text
from segment.jobs.comparing import COLUMNS, WINNERS, number, table, winners
from segment.jobs.evaluate import Evaluation
from segment.jobs.sweep import Sweep
from segment.jobs.swept import CLEAN

HEADING = """# Results

Written by `segment evaluate --report` and `segment sweep --report`; a section is replaced when its command runs again.
Intervals are the middle 95 % of a bootstrap over images; ± is the standard deviation over banks, where several were
given. *s/image* is wall time of the passes and their moments, all methods of a section on the same machine.
"""

CERTAIN = (
    "*by* is the best method's score minus the next one's, paired over images. *certain*: the interval leaves out 0, "
    "and with several banks the difference exceeds twice its deviation over them."
)


def told(found: Evaluation, *, banks: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """The section of one evaluation. banks: their provenance."""
    record = found.record
    lines = [f"## {title or record['settings']['model']}", "", _made(found, banks), ""]
    lines += markdown(COLUMNS, table(found.scores))
    lines += ["", "Error AUROC and AUSE are by the measure that does best in each, which is named.", ""]
    if found.comparisons:
        lines += ["### Who wins", ""]
        lines += markdown(WINNERS, winners(found.comparisons))
        lines += ["", CERTAIN, ""]
    lines += [f"- {name}: {note}." for name, note in found.notes.items()]
    if found.validation.temperatures:
        told_ = ", ".join(f"{name} {value:.3f}" for name, value in found.validation.temperatures.items())
        lines.append(f"- Temperatures fitted on {found.validation.images} validation images: {told_}.")
    if found.failed:
        lines.append(f"- {len(found.failed)} images failed: {', '.join(sorted(found.failed)[:5])}.")
    return "\n".join(lines).rstrip() + "\n"


def told_sweep(found: Sweep, model: str) -> str:
    """The section of one sweep: every row, best NLL first."""
    columns = ("setting", "shift", "s/image", "NLL", "mIoU", "accuracy", "ECE", "error AUROC, entropy",
               "error AUROC, variance")  # fmt: skip
    names = ("nll", "miou", "accuracy", "ece", "error_auroc.predictive_entropy", "error_auroc.variance")
    rows = []
    for row in sorted(found.rows, key=lambda r: (r.condition, r.severity, r.found["scores"]["nll"]["value"] or 0.0)):
        cells = [number(row.found["scores"].get(name)) for name in names]
        shift = "" if row.condition == CLEAN else f"{row.condition} {row.severity}"
        rows.append([row.name, shift, f"{row.found['seconds']:.2f}", *cells])
    images = found.rows[0].found["images"]
    return (
        "\n".join([f"## Sweep of {model}", "", f"{images} images; best NLL first.", "", *markdown(columns, rows)])
        + "\n"
    )


def _made(found: Evaluation, banks: Sequence[Mapping[str, Any]]) -> str:
    record = found.record
    plan, timings = record["plan"], record["timings"]
    parts = [f"{found.scores['images']} images, {found.scores['pixels']:,} labelled pixels"]
    for bank in banks:
        drawn = f"bank of {bank.get('draws')} draws of M = {bank.get('batch')}, seed {bank.get('seed')}"
        parts.append(drawn + (", training pipeline" if bank.get("pipeline") else ", plain images"))
    if record["settings"]["draws"]:
        parts.append(f"T = {record['settings']['draws']}")
    parts.append(f"{plan['precision']} on {plan['device']}, {plan['threads']} threads")
    parts.append(f"scoring took {timings['scoring_seconds'] / timings['passes_seconds']:.1%} of the passes' time")
    parts.append(f"torch {record['versions'].get('torch', '?')}")
    return "; ".join(parts) + "."


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table.

    >>> markdown(["a"], [["1"]])
    ['| a |', '| --- |', '| 1 |']
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]


def put(path: Path, name: str, section: str) -> None:
    """The section into the page, in place of the one of that name, at the end where there is none."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    try:
        page = path.read_text(encoding="utf-8") if path.exists() else HEADING
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUse(f"--report {str(path)!r} cannot be read: {error}.") from None
    block = f"{begin}\n{section}{end}\n"
    head, found, rest = page.partition(begin)
    if not found:
        write_text(path, page.rstrip("\n") + f"\n\n{block}")
        return
    _, closed, tail = rest.partition(f"{end}\n")
    if not closed:
        raise WrongUse(f"--report {str(path)!r}: the section {name!r} has no end; remove it by hand.")
    write_text(path, head + block + tail)
