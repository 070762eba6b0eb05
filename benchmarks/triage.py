"""Does a triage keep its promise? Thresholds of many random splits of labelled images, each checked on the rest.

    python -m benchmarks.triage SCORES... [--splits 1000] [--calibration 101]
    python -m benchmarks.triage --scenes 2000 --calibration 500

SCORES: folders that `segment evaluate` wrote for images of one source, with their counts. --scenes: so many generated
scenes, which are counted here. Also calibrates on each sequence alone and checks the others, with the shift test.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segment.files.runs.image_counts import IMAGE_COUNTS, read_image_counts, write_image_counts
from segment.guarantees.calibrate import ValidationImages, calibrate_unit, loosest_level, losses_by_measure
from segment.guarantees.control import complement
from segment.guarantees.counts import ImageCounts
from segment.guarantees.groups import sequence_of
from segment.guarantees.losses import Losses
from segment.guarantees.outcome import outcome_of
from segment.guarantees.shift import shift_test
from segment.guarantees.triage import Guarantee, TriagePlan, Unit
from segment.jobs.fit import fit_bank
from segment.jobs.mcbn import MCBN
from segment.jobs.triage.calibration import EvaluationFolder
from segment.networks.load import load_network
from segment.scenes.scene import TEST, TRAIN, scene
from segment.scores.plan import ScorePlan

LIMITS = (0.02, 0.05, 0.08)
ASKED: tuple[tuple[Guarantee, float], ...] = (("expectation", 0.9), ("images", 0.9), ("images", 0.8))
SHIFT_MEASURE = "mutual_information"
DRAWS, BATCH, SCENES_OF_BANK = 8, 8, 64


@dataclass(frozen=True)
class Splits:
    """How images are split: so many times, so many of them to calibrate on."""

    count: int
    calibration: int
    seed: int = 0

    def __call__(self, images: int) -> list[NDArray[np.int64]]:
        """The calibrating images of each split; the others are the rest."""
        rng = np.random.default_rng(self.seed)
        return [rng.permutation(images)[: self.calibration] for _ in range(self.count)]


class Kept:
    """What one promise gives over splits."""

    def __init__(self, losses: Losses, plan: TriagePlan) -> None:
        self.plan = plan
        self._shares = losses.lost / losses.total[:, None]
        self._accepted = losses.accepted
        self._bad = losses.bad(plan.max_error, np.arange(len(losses.ids)))
        self._sums = [values.sum(axis=0) for values in (self._shares, self._accepted, self._bad)]
        self._found: list[tuple[float, float, float, float, float]] = []
        self._violated: list[bool] = []

    def add(self, chosen: NDArray[np.int64], part: Losses) -> None:
        """One split: its calibrating images, and their losses."""
        rest = len(self._shares) - len(chosen)
        values = (self._shares, self._accepted, self._bad)
        shares, accepted, bad = (
            (total - of[chosen].sum(axis=0)) / rest for total, of in zip(self._sums, values, strict=True)
        )
        most, allowed = self.plan.guarantee == "images", complement(self.plan.share)
        holds = bad <= allowed if most else shares <= self.plan.max_error
        best = float(accepted[np.flatnonzero(holds)[-1]]) if holds.any() else 0.0
        level = loosest_level(part, self.plan, np.arange(len(chosen)))
        if level is None:
            self._found.append((0.0, 0.0, best, 1.0, 0.0))
            return
        above = float(most and bad[level] > allowed)
        self._found.append((float(shares[level]), float(accepted[level]), best, 0.0, above))

    def add_drawn(self, part: Losses) -> None:
        """Images drawn with replacement, of which the pool is the whole population; counts a promise that it breaks."""
        level = loosest_level(part, self.plan, np.arange(len(part.ids)))
        bad = 0.0 if level is None else self._sums[2][level] / len(self._shares)
        self._violated.append(bool(bad > complement(self.plan.share)))

    def row(self) -> dict[str, float | int | str]:
        """Means over the splits.

        violated: of the guarantee `images`, the share of draws with replacement whose threshold leaves more bad images
        in the pool than allowed; rest_violated: of splits, in the rest, where a lucky split leaves the hard images
        """
        names = ("loss", "accepted", "oracle", "nothing_accepted", "rest_violated")
        means = dict(zip(names, np.mean(self._found, axis=0).tolist(), strict=True))
        row: dict[str, float | int | str] = {"guarantee": self.plan.guarantee, "limit": self.plan.max_error}
        if self.plan.guarantee == "images":
            return {**row, "share": self.plan.share, **means, "violated": float(np.mean(self._violated))}
        return row | {name: means[name] for name in names[:4]}


def rows_of(images: ValidationImages, splits: Splits) -> list[dict[str, Any]]:
    """Every guarantee, limit and measure."""
    ranking = [name for name in images.counts.plan.measures if name != SHIFT_MEASURE]
    places: list[tuple[Unit, str]] = [("pixel", name) for name in ranking]
    places.append(("segment", ranking[0]))
    rows = []
    for unit, measure in places:
        plans = [
            TriagePlan(unit=unit, max_error=limit, share=share, guarantee=guarantee)
            for guarantee, share in ASKED
            for limit in LIMITS
        ]
        losses = _occupied(losses_by_measure(images, plans[0], unit)(measure))
        promises = [Kept(losses, plan) for plan in plans]
        for chosen in splits(len(losses.ids)):
            part = losses.of(chosen)
            for promise in promises:
                promise.add(chosen, part)
        rng = np.random.default_rng(splits.seed)
        for _ in range(splits.count):
            part = losses.of(rng.integers(0, len(losses.ids), splits.calibration))
            for promise in promises:
                if promise.plan.guarantee == "images":
                    promise.add_drawn(part)
        rows += [{"unit": unit, "measure": measure, **promise.row()} for promise in promises]
    return rows


def of_folder(folder: Path, splits: Splits) -> dict[str, Any]:
    """The rows of an evaluation's first method, and its sequences against each other."""
    scores = EvaluationFolder.read(folder)
    method = next(iter(scores.counts))
    images = scores.images_of(method, None)
    source = scores.source(method)
    return {
        "model": source["model"],
        "method": method,
        "draws": source["draws"],
        "images": len(images.counts.ids),
        "rows": rows_of(images, splits),
        "sequences": sequences(scores, method),
    }


def _occupied(losses: Losses) -> Losses:
    """The same without the thresholds at which nothing changes."""
    whole = losses.accepted.sum(axis=0)
    kept = np.flatnonzero(np.diff(whole, prepend=0.0))
    parts = (losses.thresholds[kept], losses.lost[:, kept], losses.total)
    return Losses(losses.ids, *parts, losses.kept[:, kept], losses.accepted[:, kept])


def sequences(scores: EvaluationFolder, method: str) -> list[dict[str, Any]]:
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


def of_scenes(count: int, splits: Splits) -> dict[str, Any]:
    """The same of the shipped network on so many generated scenes."""
    images = ValidationImages(_counts_of_scenes(count), {}, {})
    return {"model": "scenes", "method": "mcbn", "draws": DRAWS, "images": count, "rows": rows_of(images, splits)}


def _counts_of_scenes(count: int) -> ImageCounts:
    """What `segment evaluate` would count; kept in outputs/ for another look at other splits."""
    folder = Path("outputs") / f"triage_{count}_scenes"
    if (folder / IMAGE_COUNTS).is_file():
        return read_image_counts(folder)["mcbn"]
    network = load_network("scenes")
    bank = fit_bank(network, [scene(seed).image for seed in TRAIN[:SCENES_OF_BANK]], batch=BATCH, draws=DRAWS)
    mcbn = MCBN(network, bank, precision="fp32")
    card = network.card
    counts = ImageCounts(
        ScorePlan(classes=network.class_names, head=card.head, measures=("one_minus_max",), void=card.void)
    )
    for number in range(count):
        drawn = scene(TEST[0] + number)
        result = mcbn(drawn.image)
        maps = {"one_minus_max": result.one_minus_max}
        counts.update(f"scene {number}", result.probability, maps, drawn.label, result.prediction)
    write_image_counts(folder / IMAGE_COUNTS, {"mcbn": counts})
    return counts


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", nargs="*", type=Path)
    parser.add_argument("--splits", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=101)
    parser.add_argument("--scenes", type=int, default=0, help="so many generated scenes")
    asked = parser.parse_args(arguments)
    splits = Splits(asked.splits, asked.calibration)
    results = [of_folder(folder, splits) for folder in asked.scores]
    results += [of_scenes(asked.scenes, splits)] if asked.scenes else []
    content = {"splits": splits.count, "calibration": splits.calibration, "networks": results}
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
