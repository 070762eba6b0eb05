"""Whether L2 below 1e-6 changes the BN networks of the large UCI sets: `python -m benchmarks.small_l2 DATA`.

On the first fold of the first split, from one start and with one order of the rows for all L2, which is how the search
compares them: the held-out RMSE in standardised units after so many epochs, the best of each candidate's looks.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from segment.experiments.regression.methods import folded, seeded
from segment.experiments.regression.search import race
from segment.experiments.regression.stack import Architecture, Stack
from segment.experiments.regression.stack_training import StackFit, Training
from segment.experiments.uci.data import random_split, read_table
from segment.experiments.uci.splits import PLANS, protocol_of

BATCH = 256
SETS = ("kin8nm", "power")


def errors_by_l2(data: Path, name: str) -> dict[float, float]:
    """The best held-out RMSE of each L2 of the whole grid."""
    plan, whole = protocol_of(PLANS["paper"], name), PLANS["paper"].protocol.l2
    table = read_table(data, name)
    train, _ = random_split(table.rows, 1)
    fold = folded(train, table.x, table.y, plan, 0).first(1)
    architecture = Architecture(features=table.x.shape[1], hidden=plan.hidden)
    generator = seeded(0)
    fit = StackFit(data=fold, sets=torch.zeros(len(whole), dtype=torch.long), batch=BATCH, l2=torch.tensor(whole))
    training = Training(Stack(architecture, 1, generator, copies=len(whole)), fit, generator)
    found = race(training, [0] * len(whole), 1, plan.race)
    return dict(zip(whole, (round(value, 5) for value in found.rmse.tolist()), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the folder that holds uci/")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    result = {name: errors_by_l2(data, name) for name in SETS}
    sys.stdout.write(json.dumps({name: {f"{l2:g}": rmse for l2, rmse in row.items()} for name, row in result.items()}))


if __name__ == "__main__":
    main()
