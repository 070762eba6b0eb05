"""Scores against each of several annotators, their mean, and how well uncertainty ranks the pixels where they differ.

Must not know a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segment.estimation.estimate import Estimate
from segment.jobs.labelled.labels import Labelled
from segment.scores import arrays, summary
from segment.scores.board import mean_of
from segment.scores.plan import OUTSIDE, ScorePlan
from segment.scores.scoreboard import Scoreboard

DIFFERS = OUTSIDE + 1
"""The id of a pixel that annotators label differently."""

DIFFERENCES = "differences"
RENAMED = {"unseen_auroc": "disagreement_auroc", "unseen_ap": "disagreement_ap"}
"""Ranking the pixels where annotators differ before the others is what scores of unseen objects measure."""


def further_boards(boards: Mapping[str, Scoreboard], annotators: int) -> dict[str, Scoreboard]:
    """For each method's board one against every further annotator, and one of the pixels where any two differ.

    annotators: how many there are beside the first
    """
    further: dict[str, Scoreboard] = {}
    for name, board in boards.items() if annotators else ():
        further |= {f"{name}/{number}": Scoreboard(board.plan) for number in range(2, annotators + 2)}
        further[f"{name}/{DIFFERENCES}"] = Scoreboard(replace(board.plan, unseen=(DIFFERS,)))
    return further


def check_others(item: Labelled, estimate: Estimate[Tensor], plan: ScorePlan) -> None:
    """Errors: ImageUnreadable where a further annotator's label map cannot be scored."""
    for label in item.others:
        arrays.checked(item.source.id, plan, estimate.probability, estimate.maps, label, estimate.prediction)


def count_others(
    further: Mapping[str, Scoreboard], name: str, item: Labelled, estimate: Estimate[Tensor], group: str | None = None
) -> int:
    """Count one image on the further boards of a method; the number of pixels where annotators differ.

    group: of the image, as `Scoreboard.update` takes it
    """
    if not item.others:
        return 0
    common = common_label((item.label, *item.others), further[f"{name}/2"].plan)
    labels = {str(number): label for number, label in enumerate(item.others, 2)} | {DIFFERENCES: common}
    for end, label in labels.items():
        board = further[f"{name}/{end}"]
        board.update(item.source.id, estimate.probability, estimate.maps, label, estimate.prediction, group)
    return int((common == DIFFERS).sum())


def common_label(labels: Sequence[NDArray[np.int64]], plan: ScorePlan) -> NDArray[np.int64]:  # H W each -> H W
    """The label where all agree, DIFFERS where two differ, OUTSIDE where one of them has left the pixel out.

    >>> plan = ScorePlan(classes=("a", "b"), void=255)
    >>> common_label([np.array([0, 1, 1]), np.array([0, 0, 255])], plan).tolist() == [0, DIFFERS, OUTSIDE]
    True
    """
    ids = [OUTSIDE, *plan.unseen, *([] if plan.void is None else [plan.void])]
    left_out = np.isin(np.stack(labels), ids).any(axis=0)
    differs = np.any([label != labels[0] for label in labels[1:]], axis=0)
    return np.where(left_out, OUTSIDE, np.where(differs, DIFFERS, labels[0]))


def annotator_scores(
    boards: Mapping[str, Scoreboard], further: Mapping[str, Scoreboard], pixels: Mapping[str, int]
) -> dict[str, Any]:
    """What `annotators.json` holds.

    Args:
        boards: of each read-out, against the first annotator.
        further: `further_boards`, with the same images.
        pixels: `all` and `differ`.

    Returns:
        `annotators`, how many; `differ`, the share of the pixels; and of each method its scores against `each`
        annotator, their `mean` (with an interval), and `disagreement`: AUROC and AP of each measure, as a
        ranking of the pixels where annotators differ before those where all agree.

    """
    methods, count = {}, 0
    for name, board in boards.items():
        each = [board]
        while (key := f"{name}/{len(each) + 1}") in further:
            each.append(further[key])
        count = len(each)
        disagreement = further[f"{name}/{DIFFERENCES}"].compute()["scores"]
        means = mean_of([annotator.estimates() for annotator in each])
        methods[name] = {
            "each": [annotator.compute()["scores"] for annotator in each],
            "mean": {
                score: mean.entry(summary.limits(score), board.units, board.over) for score, mean in means.items()
            },
            "disagreement": {
                f"{RENAMED[kind]}.{measure}": entry
                for score, entry in disagreement.items()
                for kind, _, measure in [score.partition(".")]
                if kind in RENAMED
            },
        }
    return {"annotators": count, "differ": pixels["differ"] / max(pixels["all"], 1), "methods": methods}
