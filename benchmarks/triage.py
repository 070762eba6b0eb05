"""Does a triage keep its promise? Thresholds of many random splits of labelled images, each checked on the rest.

    python -m benchmarks.triage SCORES... [--splits 1000] [--calibration 101]
    python -m benchmarks.triage --scenes 2000 -o outputs/triage_scenes --calibration 500

SCORES: folders that `segment evaluate` wrote for images of one source, with their counts. With --scenes, so many
generated scenes are evaluated first. Also calibrates on each sequence alone and checks the others, with the shift test.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.files.writing import write_png
from segment.guarantees.calibrate import calibrate_unit, level_of, losses_by_measure
from segment.guarantees.groups import sequence_of
from segment.guarantees.losses import Losses
from segment.guarantees.outcome import outcome_of
from segment.guarantees.shift import shift_test
from segment.guarantees.triage import TriagePlan
from segment.jobs.triage.calibration import Scores
from segment.scenes.scene import TEST, TRAIN, scene

LIMITS = (0.02, 0.05, 0.08)
ASKED = (("expectation", 0.9), ("images", 0.9), ("images", 0.8))
SHIFT_MEASURE = "mutual_information"
DRAWS, BATCH = 8, 8


@dataclass(frozen=True)
class Splits:
    """How images are split: so many times, so many of them to calibrate on."""

    count: int
    calibration: int
    seed: int = 0

    def __call__(self, images: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Pairs of calibrating images and the rest."""
        rng = np.random.default_rng(self.seed)
        orders = (rng.permutation(images) for _ in range(self.count))
        return [(order[: self.calibration], order[self.calibration :]) for order in orders]


def kept_promise(losses: Losses, plan: TriagePlan, splits: Splits) -> dict[str, float | int | str]:
    """What a guarantee gives over splits: loss and share accepted on the rest, and how often it was violated.

    pool_violated: of the guarantee `images`, the share of splits whose threshold leaves more bad images in the whole
    pool than allowed; rest_violated: in the rest, which a lucky split makes worse than the pool
    """
    images = len(losses.ids)
    each, shares = np.arange(splits.calibration), losses.lost / losses.total[:, None]
    bad = losses.bad(plan.max_error, np.arange(images))
    allowed = 1 - plan.share
    loss, accepted, oracle, pool, rest_bad, none = [], [], [], 0, 0, 0
    for chosen, rest in splits(images):
        level = level_of(losses.of(chosen), plan, each)
        of_rest = bad[rest].mean(axis=0) <= allowed if plan.guarantee == "images" else None
        holds = shares[rest].mean(axis=0) <= plan.max_error if of_rest is None else np.cumprod(of_rest).astype(bool)
        oracle.append(float(losses.accepted[rest, np.flatnonzero(holds)[-1]].mean()))
        if level is None:
            none += 1
            loss.append(0.0)
            accepted.append(0.0)
            continue
        loss.append(float(shares[rest, level].mean()))
        accepted.append(float(losses.accepted[rest, level].mean()))
        pool += bool(bad[:, level].mean() > allowed)
        rest_bad += bool(bad[rest, level].mean() > allowed)
    row: dict[str, float | int | str] = {"guarantee": plan.guarantee, "limit": plan.max_error}
    row |= {"loss": float(np.mean(loss)), "accepted": float(np.mean(accepted)), "oracle": float(np.mean(oracle))}
    row |= {"nothing_accepted": none / splits.count}
    if plan.guarantee == "images":
        row |= {"share": plan.share, "pool_violated": pool / splits.count, "rest_violated": rest_bad / splits.count}
    return row


def of_folder(folder: Path, splits: Splits) -> dict[str, Any]:
    """Every guarantee, limit and measure of an evaluation's first method, and its sequences against each other."""
    scores = Scores.read(folder)
    method = next(iter(scores.counts))
    images = scores.images_of(method, None)
    rows = []
    for unit in ("pixel", "segment"):
        plan = TriagePlan(unit="pixel" if unit == "pixel" else "segment")
        of_measure = losses_by_measure(images, plan, plan.unit)
        for measure in images.counts.plan.measures if unit == "pixel" else images.counts.plan.measures[:1]:
            losses = _occupied(of_measure(measure))
            for guarantee, share in ASKED:
                for limit in LIMITS:
                    asked = replace(plan, max_error=limit, share=share)
                    asked = replace(asked, guarantee="images" if guarantee == "images" else "expectation")
                    rows.append({"unit": unit, "measure": measure, **kept_promise(losses, asked, splits)})
    source = scores.source(method)
    return {
        "model": source["model"],
        "method": method,
        "draws": source["draws"],
        "images": len(images.counts.ids),
        "rows": rows,
        "sequences": sequences(scores, method),
    }


def _occupied(losses: Losses) -> Losses:
    """The same without the thresholds at which nothing changes."""
    whole = losses.accepted.sum(axis=0)
    kept = np.flatnonzero(np.diff(whole, prepend=0.0))
    parts = (losses.thresholds[kept], losses.lost[:, kept], losses.total)
    return Losses(losses.ids, *parts, losses.kept[:, kept], losses.accepted[:, kept])


def sequences(scores: Scores, method: str) -> list[dict[str, Any]]:
    """Calibrated on one sequence, used on another: the loss there, and what the shift test says."""
    counts = scores.counts[method]
    names = sorted({sequence_of(i) for i in counts.ids})
    parts = {
        name: scores.images_of(method, None).of([i for i in counts.ids if sequence_of(i) == name]) for name in names
    }
    rows = []
    for first in names:
        for limit in LIMITS:
            plan = TriagePlan(max_error=limit, measure="one_minus_max")
            if len(parts[first].counts.ids) < plan.needed:
                continue
            decision = calibrate_unit(parts[first], plan, "pixel")
            for second in names:
                if second == first:
                    continue
                outcome = outcome_of(parts[second], plan, decision)
                values = [np.array(list(parts[n].means[SHIFT_MEASURE].values())) for n in (first, second)]
                test = shift_test(*values)
                rows.append(
                    {
                        "calibrated": first,
                        "used": second,
                        "limit": limit,
                        "loss": outcome.loss,
                        "accepted": outcome.accepted,
                        "auroc": test.auroc,
                        "p": test.p,
                        "shifted": test.shifted,
                    }
                )
    return rows


def evaluate_scenes(count: int, folder: Path) -> Path:
    """Scores of the shipped network on so many generated scenes, made and written first."""
    from segment.jobs.evaluate import EvaluatePlan, Labels, evaluate
    from segment.jobs.evaluation.compared_methods import MethodPlan
    from segment.jobs.fit import fit_bank
    from segment.networks.load import load_network

    network = load_network("scenes")
    bank = fit_bank(network, [scene(seed).image for seed in TRAIN], batch=BATCH, draws=DRAWS)
    for number in range(count):
        seed = TEST[0] + number
        if not (folder / "labels" / f"{seed}.png").exists():
            drawn = scene(seed)
            write_png(folder / "images" / f"{seed}.png", drawn.image)
            write_png(folder / "labels" / f"{seed}.png", drawn.label)
    measures = ("one_minus_max", "mutual_information")
    methods = MethodPlan(methods=("mcbn",), measures=measures, precision="fp32")
    evaluate(
        network,
        Labels(folder / "images", folder / "labels"),
        folder / "scores",
        banks=[bank],
        plan=EvaluatePlan(methods=methods),
        resume=(folder / "scores" / "manifest.jsonl").exists(),
    )
    return folder / "scores"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", nargs="*", type=Path)
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=101)
    parser.add_argument("--scenes", type=int, default=0, help="so many generated scenes are evaluated first")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/triage_scenes"), help="their folder")
    asked = parser.parse_args(arguments)
    splits = Splits(asked.splits, asked.calibration)
    folders = [*asked.scores, *([evaluate_scenes(asked.scenes, asked.output)] if asked.scenes else [])]
    results = [of_folder(folder, splits) for folder in folders]
    content = {"splits": splits.count, "calibration": splits.calibration, "networks": results}
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
