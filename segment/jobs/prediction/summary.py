"""How a predict run ended: what the command line prints of it, from its manifest."""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segment.errors import first_of
from segment.estimation.tiling.blending import blending_sentence, worst_of
from segment.files.runs.manifest import LABEL
from segment.files.runs.run import Run
from segment.jobs.prediction.plan import Execution
from segment.ranking.columns import ranks_none

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a run ended: its folder, images done and failed (id -> why), seconds, draws at most and on average.

    uncertain: the three images with the largest mean of the measure `heat`, and that mean; none where all are equal,
    as `equal` says in a sentence
    tiling: a sentence on how far blended tiles are from exact ones; "" where there are none
    missed: images that took all draws under --draws auto and did not reach its tolerance
    triaged: what triaged.json holds; None where no triage was asked for
    """

    folder: Path
    done: int
    failed: Mapping[str, str]
    seconds: float
    precision: str
    draws: int
    mean_draws: float
    heat: str
    uncertain: Mapping[str, float]
    tiling: str = ""
    equal: str = ""
    triaged: Mapping[str, Any] | None = None
    missed: int = 0


def _warn_of_left_out(lines: Mapping[str, Mapping[str, Any]]) -> None:
    """One warning for each thing that was asked for and is missing, with the first image and its reason."""
    noted: dict[str, list[str]] = {}
    for id, line in lines.items():
        for name in line.get("notes", {}):
            noted.setdefault(name, []).append(id)
    for name, ids in noted.items():
        why = lines[ids[0]]["notes"][name]
        named = first_of(map(repr, ids))
        if name == LABEL:
            log.warning("The labels of %d of %d images are not shown (%s): %s", len(ids), len(lines), named, why)
        else:
            log.warning("%s is left out of %d of %d images (%s): %s", name, len(ids), len(lines), named, why)


def summary_of(run: Run, seconds: float, execution: Execution, heat: str) -> Summary:
    entries = run.entries()
    lines = {source.id: entries[source.id] for source in run.sources if source.id in entries}
    if len(lines) < len(run.sources):
        log.warning("%d images are left; --resume does them.", len(run.sources) - len(lines))
    _warn_of_left_out(lines)
    failed = {id: str(line["error"]) for id, line in lines.items() if line["status"] == "failed"}
    draws = [line["draws"] for id, line in lines.items() if id not in failed]
    mean = sum(draws) / len(draws) if draws else 0.0
    done = len(lines) - len(failed)
    means = {id: line[heat]["mean"] for id, line in lines.items() if id not in failed and heat in line}
    equal = ranks_none(heat, list(means.values()), mean)
    uncertain = {} if equal else dict(heapq.nlargest(3, means.items(), key=lambda item: item[1]))
    limit = math.inf if execution.stop is None else execution.stop.tolerance
    missed = sum(line.get("reached_error", 0.0) > limit for id, line in lines.items() if id not in failed)
    worst = worst_of([lines[id]["blending"] for id in lines if id not in failed and "blending" in lines[id]])
    if worst is not None:
        run.note(blending=worst)
    return Summary(
        folder=run.place,
        done=done,
        failed=failed,
        seconds=seconds,
        precision=execution.precision,
        draws=execution.draws,
        mean_draws=mean,
        heat=heat,
        uncertain=uncertain,
        tiling="" if worst is None else blending_sentence(worst),
        equal=equal,
        missed=missed,
    )
