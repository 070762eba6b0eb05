"""What each method costs: processor seconds to a map, and before the first one, on the embedded default network.

Must not know how good a map is. Only this experiment's numbers depend on the machine and the moment.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segment.batch_norm.network import bn_network_of
from segment.draws.minibatches import DrawPlan, choices
from segment.experiments.cost.figures import LABELS, draw_costs
from segment.experiments.cost.timing import (
    MEMBERS,
    RATE,
    kept_numbers,
    methods_of,
    ratio_interval,
    step_seconds,
    timed,
)
from segment.experiments.regression.methods import seeded
from segment.experiments.regression.mnf_convolutions import flow_network
from segment.experiments.reporting import (
    Budget,
    Progress,
    Verdict,
    judged,
    judged_by,
    write_page,
    write_table,
)
from segment.experiments.segmentation.cases import bank_of, scenes_case
from segment.experiments.segmentation.scenes_training import BATCH, STEPS
from segment.files.writing import check_writable
from segment.images.prepare import prepare
from segment.methods.method import Method
from segment.networks.architectures.tiny import TinyUNet
from segment.runners.process import torch_threads
from segment.scenes import scene as scenes

SLACK = 1.1
"""A pass that costs at most this many plain ones counts as one."""


NEEDS = {
    "single pass": "nothing",
    "mcbn": "training images, for the bank",
    "mcdo": "dropout in the network, and training with it",
    "ensemble": f"{MEMBERS} trainings",
    "mnf": "other layers, and training",
}


@dataclass(frozen=True, kw_only=True)
class CostPlan:
    """draws: T; repeats: maps timed a method; steps: training steps timed, of the STEPS in a training."""

    draws: int = 32
    repeats: int = 21
    steps: int = 40


PLANS: Mapping[Budget, CostPlan] = {"paper": CostPlan(), "quick": CostPlan(draws=16, repeats=5, steps=4)}


def run(
    out: Path,
    *,
    budget: Budget,
    data: Path,
    seed: int = 0,
    progress: Progress | None = None,
    plan: CostPlan | None = None,
) -> list[Verdict]:
    """Write the table of seconds, the figure and the page; `data` is not read."""
    check_writable(out / "page.md")
    plan, say = plan or PLANS[budget], progress or (lambda _: None)
    case = scenes_case(data)
    network = case.network
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    with torch_threads(1):  # processor seconds equal the wall clock's on an idle machine
        say("cost: recording the bank")
        drawn = bn_network_of(network)
        drawing = DrawPlan(draws=plan.draws, batch=BATCH, seed=seed)
        for index in {index for pick in choices(drawing, case.train) for index in pick.images}:
            case.train_image(index)  # kept: a training has its images too
        start = time.process_time()
        bank = bank_of(case, drawn, drawing)
        recording = time.process_time() - start
        images = prepare(case.test_image(0).image, network.card.input)[None]
        flows = flow_network(TinyUNet(len(scenes.CLASSES)), seeded(seed, 7))
        methods = methods_of(network, bank, flows, plan.draws, seed)
        say("cost: maps")
        rounds = timed(methods, images, network, plan.repeats)
        seconds = {name: float(np.median(values)) for name, values in rounds.items()}
        say("cost: training steps")
        training = STEPS * step_seconds(TinyUNet(len(scenes.CLASSES)), network, plan.steps)
        flow_training = STEPS * step_seconds(flows, network, plan.steps)
    after = network.module.state_dict()
    unchanged = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    prepared = {
        "single pass": 0.0,
        "mcbn": recording,
        "mcdo": training,
        "ensemble": MEMBERS * training,
        "mnf": flow_training,
    }
    kept = kept_numbers(network, bank, flows)
    rows = _rows(methods, seconds, prepared, kept)
    table = write_table(out, "cost", rows, digits=3)
    draw_costs(out, rows)
    verdicts = _verdicts(rows, rounds, unchanged=unchanged)
    write_page(
        out,
        "What a map costs",
        _opening(plan, budget, seed),
        verdicts,
        {
            "Processor seconds": f"{table}\n![Processor seconds](cost.png)",
        },
    )
    return verdicts


def _rows(
    methods: Mapping[str, Method], seconds: Mapping[str, float], prepared: Mapping[str, float], kept: Mapping[str, int]
) -> list[dict[str, Any]]:
    single, plain = seconds["single pass"], seconds["ensemble"] / methods["ensemble"].draws
    return [
        {
            "method": name,
            "passes": method.draws,
            "seconds to a map": seconds[name],
            "single passes to a map": seconds[name] / single,
            "plain passes to a pass": seconds[name] / method.draws / plain,
            "seconds before the first map": prepared[name],
            "thousand numbers kept": kept[name] / 1000,
            "what it needs": NEEDS[name],
        }
        for name, method in methods.items()
    ]


def _verdicts(
    rows: Sequence[Mapping[str, Any]], rounds: Mapping[str, Sequence[float]], *, unchanged: bool
) -> list[Verdict]:
    """rounds: seconds to a map, by method; those of the ensemble are MEMBERS plain passes."""
    of = {row["method"]: row for row in rows}
    before = {name: row["seconds before the first map"] for name, row in of.items()}
    a_pass = {name: row["plain passes to a pass"] for name, row in of.items()}
    to_map = "; ".join(
        f"{LABELS[name]} {row['seconds to a map']:.3f} s with {row['passes']}" for name, row in of.items()
    )
    least = min(before[name] for name in ("mcdo", "ensemble", "mnf"))
    passes = of["mcbn"]["passes"]
    plain = tuple(bound * MEMBERS / passes for bound in ratio_interval(rounds["mcbn"], rounds["ensemble"]))
    rival = min(("mcdo", "mnf"), key=a_pass.__getitem__)
    against = ratio_interval(rounds["mcbn"], rounds[rival])
    return [
        Verdict(
            experiment="cost",
            claim="MCBN changes no weight of a trained network and needs no training",
            outcome=judged(holds=unchanged and before["mcbn"] < least),
            numbers=f"weights and buffers bit for bit the same: {'yes' if unchanged else 'no'}; before the first map "
            f"{before['mcbn']:.1f} s for the bank, against {before['mcdo']:.0f} s to train with dropout, "
            f"{before['ensemble']:.0f} s for an ensemble, {before['mnf']:.0f} s for MNF",
        ),
        Verdict(
            experiment="cost",
            claim="A pass of MCBN costs no more than a plain pass",
            outcome=judged_by(*plain, most=SLACK),
            numbers=f"{a_pass['mcbn']:.2f} plain passes, 95 % interval {plain[0]:.2f} to {plain[1]:.2f}, the moments "
            f"with it (at most {SLACK} counts as one)",
        ),
        Verdict(
            experiment="cost",
            claim="At as many passes MCBN costs no more than MC dropout and than MNF",
            outcome=judged_by(*against, most=1),
            numbers=f"plain passes to a pass: MCBN {a_pass['mcbn']:.2f}, MC dropout {a_pass['mcdo']:.2f}, MNF "
            f"{a_pass['mnf']:.2f}; MCBN over {LABELS[rival]}, 95 % interval {against[0]:.2f} to {against[1]:.2f}; "
            f"to a map, with how many passes: {to_map}",
        ),
    ]


def _opening(plan: CostPlan, budget: Budget, seed: int) -> str:
    height, width = scenes.SIZE
    return f"""
Budget `{budget}`, seed {seed}. The embedded default network (a U-Net) on one scene of {height} x {width}, float32;
processor seconds on one thread: what a clock shows there when nothing else runs; unlike all other numbers here they
change from run to run. Median of {plan.repeats} maps a method, the methods in turn. A map: all passes, mean, variance
and predictive entropy. A plain pass: a fifth of the ensemble's map, as a map of one pass carries the measures alone.
Training: {STEPS} steps of {BATCH} scenes, the median of {plan.steps} measured ones times
{STEPS}. MC dropout: rate {RATE} after each stage, whose time before the first map is a training, as a network without
dropout was not trained for it. MNF: every convolution replaced, without BN, as long a training as the plain one's.
"""
