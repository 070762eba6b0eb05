"""A run to the images to review or label first: `segment select`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segment.errors import WrongUse, near
from segment.files.manifest import MANIFEST
from segment.files.runs import RECORD
from segment.files.writing import write_text
from segment.report.results import DICE_RANK
from segment.scores.functional.image_level import select as highest
from segment.uncertainty.measures import MEASURES


@dataclass(frozen=True)
class Selection:
    """The images from most to least uncertain. by: the column that ranks them; why: how that was chosen."""

    by: str
    why: str
    images: tuple[tuple[str, str, float], ...]  # id, source, value

    def csv(self) -> str:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["rank", "id", "source", self.by])
        writer.writerows([rank, *image] for rank, image in enumerate(self.images, start=1))
        return stream.getvalue()


def select(folder: str | Path, top: int = 50, *, by: str | None = None, method: str | None = None) -> Selection:
    """The `top` most uncertain images of a predict or an evaluate RUN.

    by: a column, as "mean.predictive_entropy"; None: in an evaluation the one that ranked images by their Dice best,
    else the mean of the run's heat measure. method: whose maps, in an evaluation; None: mcbn where it was run
    Errors: WrongUse for a folder that holds no run, or an unknown column or method.
    """
    folder = Path(folder)
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise WrongUse(f"{str(folder)!r} holds no run: no {MANIFEST}. Give what `segment predict` or `evaluate` wrote.")
    lines = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines() if line.strip()]
    sources = {str(line["id"]): str(line["source"]) for line in lines}
    if (folder / "per_image.csv").is_file():
        rows, chosen, why = _evaluated(folder, by, method)
    else:
        if method is not None:
            raise WrongUse("--method picks a method of an evaluation; this run has one only. Leave it out.")
        rows, chosen, why = _predicted(folder, lines, by)
    selected = highest(rows, chosen, top)
    return Selection(chosen, why, tuple((name, sources.get(name, ""), value) for name, value in selected))


def _predicted(
    folder: Path, lines: Sequence[Mapping[str, Any]], by: str | None
) -> tuple[list[dict[str, Any]], str, str]:
    newest = {line["id"]: line for line in lines}
    rows = []
    for name, line in newest.items():
        if line["status"] == "done":
            numbers = {
                f"{kind}.{measure}": value
                for measure in MEASURES
                if isinstance(line.get(measure), dict)
                for kind, value in line[measure].items()
            }
            rows.append({"id": name, **numbers})
    if not rows:
        raise WrongUse(f"No image of {str(folder)!r} is done, so there is none to choose from.")
    if by is not None:
        return rows, by, "asked for"
    settings = json.loads((folder / RECORD).read_text(encoding="utf-8")).get("settings", {})
    heat = settings.get("heat", "predictive_entropy")
    return rows, f"mean.{heat}", "the mean of the run's heat measure; an evaluation would show which ranks best"


def _evaluated(folder: Path, by: str | None, method: str | None) -> tuple[list[dict[str, Any]], str, str]:
    with (folder / "per_image.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    methods = list(dict.fromkeys(line["method"] for line in table))
    chosen = method or ("mcbn" if "mcbn" in methods else methods[0])
    if chosen not in methods:
        raise WrongUse(f"The evaluation has no method {chosen!r}.{near(chosen, methods)} It has {', '.join(methods)}.")
    rows = [_numbers(line) for line in table if line["method"] == chosen]
    if by is not None:
        return rows, by, f"asked for, of {chosen}"
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["methods"][chosen.partition("#")[0]]
    ranks = {
        name.removeprefix(DICE_RANK): entry["value"]
        for name, entry in scores["scores"].items()
        if name.startswith(DICE_RANK) and entry["value"] is not None
    }
    if not ranks:
        return rows, "mean.predictive_entropy", f"of {chosen}; too few images to find which column ranks them best"
    best = max(ranks, key=lambda name: ranks[name])
    return rows, best, f"of {chosen}, it ranks images by their Dice best (Spearman {ranks[best]:.2f})"


def _numbers(line: Mapping[str, str]) -> dict[str, Any]:
    return {key: value if key in ("id", "method") else float(value) for key, value in line.items() if value != ""}


def write_selection(selection: Selection, path: Path) -> None:
    write_text(path, selection.csv())
