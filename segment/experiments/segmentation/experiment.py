"""What the size of a statistics mini-batch does to masks and their uncertainty: the paper's visual experiment, with
the numbers behind the pictures.

Must not know a network's insides.
"""  # noqa: D205 (one sentence)

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segment.batch_norm.layers import BatchNormNetwork
from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.draws.minibatches import DrawPlan, choices
from segment.estimation.estimate import Estimate, estimate
from segment.experiments.reporting import (
    Budget,
    Outcome,
    Progress,
    Row,
    Verdict,
    judged_by,
    judged_by_all,
    write_page,
    write_table,
)
from segment.experiments.segmentation.cases import CASES, Case, LabelledImage, bank_of, batches, recorded
from segment.experiments.segmentation.figures import draw_pictures, draw_scores
from segment.files.writing import check_writable
from segment.images.prepare import normalise, pad
from segment.methods.deterministic import deterministic
from segment.methods.mcbn import mcbn
from segment.methods.method import Method
from segment.passes.passes import FAST, PassPlan
from segment.scores.plan import ScorePlan
from segment.scores.scoreboard import Scoreboard, paired_differences

MEASURES = ("variance", "predictive_entropy", "mutual_information")
JUDGED = {"nll": ("PLL", -1, 1), "error_auroc.variance": ("error AUROC", 1, 1), "ause.variance": ("AUSE", 1, -1)}
"""The scores that decide a verdict: label, sign in the table, and whether it should rise (1) or fall (-1)."""
TRAINED, INSIDE = "trained statistics", "test image inside"
INSIDE_BATCH = 8
FEWEST = 10
"""Images for a verdict: intervals over fewer are too narrow."""
PLAIN = PassPlan(channels_last=True, share=False)  # a bank for one image: to check a faster way costs more


@dataclass(frozen=True, kw_only=True)
class Effort:
    """batches: each M, rising; draws: T, from 2 up; images: test images, evenly over the set."""

    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    draws: int = 16
    images: int = 30


@dataclass(frozen=True, kw_only=True)
class SegmentationPlan:
    """cases: which networks and images, and with how much effort."""

    cases: Mapping[str, Effort] = field(
        default_factory=lambda: {
            "scenes": Effort(draws=32, images=100),
            "camvid-enet": Effort(),
            "camvid-unet": Effort(),
        }
    )


PLANS: Mapping[Budget, SegmentationPlan] = {
    "paper": SegmentationPlan(),
    "quick": SegmentationPlan(
        cases={
            "scenes": Effort(draws=8, images=16),
            "camvid-enet": Effort(batches=(1, 4, 16), draws=4, images=3),
            "camvid-unet": Effort(batches=(1, 4, 16), draws=4, images=3),
        }
    ),
}


@dataclass(frozen=True, kw_only=True)
class CaseScores:
    """Scores by method ("M = 8", ...), and each method's estimate of the first image."""

    boards: Mapping[str, Scoreboard]
    shown: LabelledImage
    estimates: Mapping[str, Estimate[Tensor]]


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: SegmentationPlan | None = None,
) -> list[Verdict]:
    """Write a picture for each network, the scores by M as table and figure, and the page."""
    check_writable(out / "page.md")
    plan, say = plan or PLANS[budget], progress or (lambda _: None)
    rows: list[dict[str, Any]] = []
    verdicts: list[Verdict] = []
    pictures = []
    lines: dict[str, list[dict[str, Any]]] = {}
    cases = {name: CASES[name](data) for name in plan.cases}  # a missing file is named before the first one is measured
    for name, effort in plan.cases.items():
        case = cases.pop(name)  # with its images, which are kept as long as it is
        case_scores = scored(case, effort, seed, lambda message, name=name: say(f"segmentation, {name}: {message}"))  # type: ignore[misc]
        lines[case.title] = rows_of(name, case_scores)
        rows += lines[case.title]
        verdicts += _verdicts(case, effort, case_scores)
        draw_pictures(
            out,
            f"segmentation_{name}",
            case.network,
            case_scores.shown.image,
            case_scores.shown.label,
            case_scores.estimates,
        )
        pictures.append(f"{case.title}, one image\n\n![{case.title}](segmentation_{name}.png)")
    table = write_table(out, "segmentation", rows, shown=_shown(rows))
    draw_scores(out, lines)
    write_page(
        out,
        "Segmentation: the size of a mini-batch",
        _opening(plan, budget, seed),
        verdicts,
        {
            "Scores by M": f"{table}\n![Scores by M](segmentation.png)",
            "Mask and variance by M": "\n\n".join(pictures),
        },
    )
    return verdicts


def scored(case: Case, effort: Effort, seed: int, say: Callable[[str], None]) -> CaseScores:
    """Every M, the trained statistics, and the original demonstration's way, on the same images."""
    drawn, card = bn_network_of(case.network), case.network.card
    methods: dict[str, Method] = {}
    for batch in effort.batches:
        say(f"{effort.draws} draws of M = {batch}")
        bank = bank_of(case, drawn, DrawPlan(draws=effort.draws, batch=batch, seed=seed))
        methods[f"M = {batch}"] = mcbn(drawn, bank, FAST, card.input)
    methods[TRAINED] = deterministic(drawn, plan=PLAIN, spec=card.input)
    score_plan = ScorePlan(classes=card.classes, measures=MEASURES, void=card.void, unseen=card.unseen)
    boards = {name: Scoreboard(score_plan) for name in (*methods, INSIDE)}
    picks = np.linspace(0, case.test - 1, effort.images).round().astype(int).tolist()
    for number, index in enumerate(picks):
        say(f"image {number + 1} of {len(picks)}")
        labelled = case.test_image(index)
        images = normalise(labelled.image, card.input)[None]
        held = DrawPlan(draws=effort.draws, batch=INSIDE_BATCH - 1, seed=seed)
        within = bank_with_the_image(case, drawn, pad(images, card.input), held)
        ways = {**methods, INSIDE: mcbn(drawn, within, PLAIN, card.input)}
        estimates = {
            name: estimate(method, images, head=card.head, measures=MEASURES).image(0) for name, method in ways.items()
        }
        for name, made in estimates.items():
            boards[name].update(labelled.id, made.probability, made.maps, labelled.label, made.prediction)
        if number == 0:
            case_scores = CaseScores(boards=boards, shown=labelled, estimates=estimates)
    return case_scores


def bank_with_the_image(case: Case, drawn: BatchNormNetwork, images: Tensor, plan: DrawPlan) -> Bank:
    """The way of the authors' SegNet demonstration: the test image is one of the mini-batch, beside plain others.

    For comparison only: the map then depends on what else is in the batch, and on the test image itself.
    """
    others = batches(case, choices(plan, case.train), lambda index, _: case.train_image(index))
    return recorded(drawn, (torch.cat([images, batch]) for batch in others))


def rows_of(case: str, case_scores: CaseScores) -> list[dict[str, Any]]:
    """One row a method: each score with its interval, None where it is not defined."""
    rows = []
    for name, board in case_scores.boards.items():
        scores = board.compute()["scores"]
        row: dict[str, Any] = {"case": case, "method": name, "images": board.images}
        for score in ("nll", "miou", *(f"{kind}.{m}" for m in MEASURES for kind in ("error_auroc", "ause"))):
            if name == TRAINED and score.endswith(("variance", "mutual_information")):
                scores[score] = {"value": None, "low": None, "high": None}  # one pass has no spread to rank by
            row |= {
                score: scores[score]["value"],
                f"{score} low": scores[score]["low"],
                f"{score} high": scores[score]["high"],
            }
        rows.append(row)
    return rows


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    def cell(row: Mapping[str, Any], score: str, sign: float = 1) -> str:
        if row[score] is None:
            return "–"
        if row[f"{score} low"] is None:
            return f"{sign * row[score]:.3f}"
        ends = sorted((sign * row[f"{score} low"], sign * row[f"{score} high"]))
        return f"{sign * row[score]:.3f} ({ends[0]:.3f} to {ends[1]:.3f})"

    return [
        {
            "case": row["case"],
            "method": row["method"],
            "mIoU": cell(row, "miou"),
            "PLL": cell(row, "nll", -1),
            "error AUROC, variance": cell(row, "error_auroc.variance"),
            "error AUROC, entropy": cell(row, "error_auroc.predictive_entropy"),
            "AUSE, variance": cell(row, "ause.variance"),
            "AUSE, entropy": cell(row, "ause.predictive_entropy"),
        }
        for row in rows
    ]


def _verdicts(case: Case, effort: Effort, case_scores: CaseScores) -> list[Verdict]:
    largest, smallest = effort.batches[-1], effort.batches[0]
    usual = min(effort.batches, key=lambda batch: abs(np.log2(batch / case.usual)))
    verdicts = [_larger(case, case_scores, smallest, largest, "Larger mini-batches give better uncertainty")]
    if smallest < usual < largest:
        claim = f"Mini-batches larger than in training (M = {case.usual}) are better still"
        verdicts.append(_larger(case, case_scores, usual, largest, claim))
    return [*verdicts, _errors_are_uncertain(case, case_scores.boards[f"M = {usual}"], usual)]


def _errors_are_uncertain(case: Case, board: Scoreboard, batch: int) -> Verdict:
    """By the error AUROC of the variance, which is 1/2 where it says nothing of errors."""
    score = board.compute()["scores"]["error_auroc.variance"]
    value, low, high = (math.nan if score[part] is None else score[part] for part in ("value", "low", "high"))
    return Verdict(
        experiment="segmentation",
        claim=f"Pixels that are wrong have a larger variance: {case.title}",
        outcome=judged_by(low, high, least=0.5) if board.images >= FEWEST else "not testable here",
        numbers=f"error AUROC at M = {batch}: {value:.3f} ({low:.3f} to {high:.3f}); {board.images} images",
    )


def _larger(case: Case, case_scores: CaseScores, small: int, large: int, claim: str) -> Verdict:
    """By the 95 % intervals of the judged scores, which must not contradict one another."""
    images = case_scores.boards[f"M = {small}"].images
    differences = paired_differences(case_scores.boards[f"M = {small}"], case_scores.boards[f"M = {large}"])
    outcomes: list[Outcome] = []
    parts = []
    for score, (label, sign, wanted) in JUDGED.items():
        entry = differences[score]
        if entry["value"] is None or entry["low"] is None:
            parts.append(f"{label} not defined")
            continue
        low, high = sorted((sign * entry["low"], sign * entry["high"]))
        outcomes.append(judged_by(low, high, least=0) if wanted > 0 else judged_by(low, high, most=0))
        parts.append(f"{label} {sign * entry['value']:+.4f} ({low:+.4f} to {high:+.4f})")
    better, worse = outcomes.count("reproduced"), outcomes.count("not reproduced")
    return Verdict(
        experiment="segmentation",
        claim=f"{claim}: {case.title}",
        outcome=judged_by_all(outcomes) if images >= FEWEST else "not testable here",
        numbers=f"from M = {small} to {large}: {'; '.join(parts)}; better in {better} of "
        f"{len(JUDGED)} scores with 95 % confidence, worse in {worse}; {images} images, "
        f"{FEWEST} or more for a verdict (AUROC should rise, AUSE fall)",
    )


def _opening(plan: SegmentationPlan, budget: Budget, seed: int) -> str:
    efforts = "; ".join(
        f"{name}: M = {', '.join(map(str, effort.batches))}, T = {effort.draws}, {effort.images} test images"
        for name, effort in plan.cases.items()
    )
    return f"""
Budget `{budget}`, seed {seed}. {efforts}. The mini-batches look as in each network's training; of one draw, a smaller
M holds the first images of a larger one. "{INSIDE}" is the way of the authors' demonstration, for comparison only: the
test image is one of M = {INSIDE_BATCH}, the others are plain training images, so that its map depends on them and on
itself. Variance: of each class's probability, averaged over classes; drawn on one logarithmic scale. PLL: mean
log-likelihood, nats a pixel. Intervals: 95 %, Poisson bootstrap over images; differences are paired.
"""
