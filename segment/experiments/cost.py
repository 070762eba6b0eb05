"""What each method costs: processor seconds to a map, and before the first one, on the embedded default network.

Must not know how good a map is. Only this experiment's numbers depend on the machine and the moment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from segment.draws.bank import Bank
from segment.draws.minibatches import DrawPlan, choices
from segment.estimation.estimate import estimate
from segment.experiments.regression.methods import seeded
from segment.experiments.regression.mnf_convolutions import FlowConvolution, flow_network
from segment.experiments.reporting import (
    COLOURS,
    INK,
    MUTED,
    Budget,
    Progress,
    Verdict,
    judged,
    judged_by,
    new_figure,
    styled,
    write_figure,
    write_page,
    write_table,
)
from segment.experiments.segmentation.cases import bank_of, scenes_case
from segment.experiments.segmentation.scenes_training import BATCH, STEPS
from segment.files.writing import check_writable
from segment.images.prepare import prepare
from segment.methods.deterministic import Plain, deterministic
from segment.methods.dropout import Dropout, inserted
from segment.methods.ensemble import Ensemble
from segment.methods.mcbn import mcbn
from segment.methods.method import Method
from segment.networks.architectures.tiny import TinyUNet
from segment.networks.load import Network
from segment.passes.passes import PassPlan
from segment.scenes import scene as scenes
from segment.tracing.bn_network import drawable

MEASURES = ("variance", "predictive_entropy")
USUAL = PassPlan(channels_last=True, fuse=True)
"""As `segment predict` runs."""
UNSHARED = PassPlan(channels_last=True, share=False)
"""Dropout makes what comes before a BN layer differ between passes."""
RATE = 0.1
MEMBERS = 5
REPLICATES = 1000
SLACK = 1.1
"""A pass that costs at most this many plain ones counts as one."""
LABELS = {
    "single pass": "single pass",
    "mcbn": "MCBN",
    "mcdo": "MC dropout",
    "ensemble": f"ensemble of {MEMBERS}",
    "mnf": "MNF",
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
    with one_thread():
        say("cost: recording the bank")
        drawn = drawable(network)
        drawing = DrawPlan(draws=plan.draws, batch=BATCH, seed=seed)
        for index in {index for pick in choices(drawing, case.train) for index in pick.images}:
            case.train_image(index)  # kept: a training has its images too
        start = time.process_time()
        bank = bank_of(case, drawn, drawing)
        recording = time.process_time() - start
        images = prepare(case.test_image(0).image, network.card.input)[None]
        flows = flow_network(TinyUNet(len(scenes.CLASSES)), seeded(seed, 7))
        methods = methods_of(network, bank, flows, plan, seed)
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
    _figure(out, rows)
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


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, so that processor seconds are what a clock shows on an idle machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def methods_of(network: Network, bank: Bank, flows: nn.Module, plan: CostPlan, seed: int) -> dict[str, Method]:
    """The single pass as anybody runs it, and each method as the engine runs it."""
    drawn = drawable(network)
    dropout = inserted(drawn.calls, network.module, RATE)
    single = Plain(network.module, network, PassPlan(channels_last=True))
    one_flow = Plain(flows, flows, PassPlan())
    return {
        "single pass": single,
        "mcbn": mcbn(drawn, bank, USUAL),
        "mcdo": Dropout(deterministic(drawn, plan=UNSHARED), draws=plan.draws, seed=seed, insert=dropout),
        "ensemble": Ensemble((single,) * MEMBERS),  # its members differ in their weights only, which cost the same
        "mnf": Ensemble((one_flow,) * plan.draws, name="mnf"),
    }


def timed(methods: Mapping[str, Method], images: Tensor, network: Network, repeats: int) -> dict[str, list[float]]:
    """Processor seconds to one map, the methods in turn; the first round, which sets things up, is left out."""
    spent: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats + 1):
        for name, method in methods.items():
            start = time.process_time()
            estimate(method, images, head=network.card.head, measures=MEASURES)
            spent[name].append(time.process_time() - start)
    return {name: values[1:] for name, values in spent.items()}


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """The 95 % bootstrap interval over rounds of a ratio of medians; both were timed in the same rounds.

    >>> ratio_interval([2.0, 2.0], [1.0, 1.0])
    (2.0, 2.0)
    """
    rounds = np.random.default_rng(0).integers(len(above), size=(REPLICATES, len(above)))
    ratios = np.median(np.asarray(above)[rounds], axis=1) / np.median(np.asarray(below)[rounds], axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def step_seconds(module: nn.Module, network: Network, steps: int) -> float:
    """Median processor seconds of one training step on a mini-batch of scenes; the module is trained by it.

    The loss is the mean cross-entropy and, for MNF, the divergence over the number of training pixels.
    """
    shown = [scenes.scene(number) for number in scenes.TRAIN[:BATCH]]
    x = torch.stack([prepare(one.image, network.card.input) for one in shown])
    labels = torch.from_numpy(np.stack([one.label for one in shown])).long()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)
    flows = [part for part in module.modules() if isinstance(part, FlowConvolution)]
    pixels = len(scenes.TRAIN) * labels[0].numel()
    spent = []
    module.train()
    for _ in range(steps + 1):
        start = time.process_time()
        loss = functional.cross_entropy(module(x), labels)
        for flow in flows:
            loss = loss + flow.divergence / pixels
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        spent.append(time.process_time() - start)
    module.eval()
    return float(np.median(spent[1:]))


def kept_numbers(network: Network, bank: Bank, flows: nn.Module) -> dict[str, int]:
    """How many numbers a method keeps: weights, and for MCBN the bank."""
    weights = sum(parameter.numel() for parameter in network.module.parameters())
    drawn = sum(mean.numel() + bank.var[name].numel() for name, mean in bank.mean.items())
    flowing = sum(parameter.numel() for parameter in flows.parameters())
    return {
        "single pass": weights,
        "mcbn": weights + drawn,
        "mcdo": weights,
        "ensemble": MEMBERS * weights,
        "mnf": flowing,
    }


NEEDS = {
    "single pass": "nothing",
    "mcbn": "training images, for the bank",
    "mcdo": "dropout in the network, and training with it",
    "ensemble": f"{MEMBERS} trainings",
    "mnf": "other layers, and training",
}


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


def _figure(out: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    figure = new_figure(8.6, 2.9)
    panels: Any = figure.subplots(1, 2, sharey=True)
    colours = [COLOURS.get(row["method"], MUTED) for row in rows]
    height = list(range(len(rows)))
    names = [f"{LABELS[row['method']]}\n{row['passes']} {'passes' if row['passes'] > 1 else 'pass'}" for row in rows]
    for axes, key, title in zip(
        panels,
        ("seconds to a map", "seconds before the first map"),
        ("Seconds to a map", "Seconds before the first map"),
        strict=True,
    ):
        styled(axes)
        values = [row[key] for row in rows]
        low = min(value for value in values if value > 0)
        start = 10 ** math.floor(math.log10(low / 1.5))
        axes.barh(height, [max(value, start) - start for value in values], left=start, color=colours, height=0.62)
        for at, value in zip(height, values, strict=True):
            text = f" {value:,.0f} s" if value >= 100 else f" {value:.2g} s" if value else " none"
            axes.text(max(value, start), at, text, va="center", color=INK, fontsize=8.5)
        axes.set_xscale("log")
        axes.set_xlim(start, 6 * max(values))
        axes.set_title(title, loc="left", color=INK, fontsize=10)
        axes.grid(visible=False, axis="y")
        axes.minorticks_off()
    panels[0].set_yticks(height, names)
    panels[0].invert_yaxis()
    write_figure(figure, out, "cost")


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
