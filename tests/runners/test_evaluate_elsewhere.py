"""Images that other processes score count as if they were scored here: bit for bit, once each."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_scenes import bank_of_scenes, written
from pickling import Pickling
from torch import Tensor, nn

from segment.draws.bank import Bank
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.evaluation.counted import PackedCounts
from segment.jobs.evaluation.scoring import Scoring
from segment.jobs.labelled.images import Labels
from segment.networks.load import Network, load_network
from segment.report.results import Evaluation
from segment.report.run_files.scored_files import STATE
from segment.runners.on_ray import RayRunner
from segment.scenes.scene import TEST, UNSEEN, VALIDATION

QUICK = EvaluatePlan(
    methods=MethodPlan(measures=("predictive_entropy", "variance"), precision="fp32", insert_dropout=0.2),
    unseen=(UNSEEN,),
)


class EndsOnce(nn.Module):
    """The network within; the first process but the one that made it that passes an image ends."""

    def __init__(self, inner: nn.Module, marker: Path) -> None:
        super().__init__()
        self.inner, self.marker, self.maker = inner, str(marker), os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.maker and x.shape[2] == 64 and not Path(self.marker).exists():
            Path(self.marker).touch()
            os._exit(1)
        output: Tensor = self.inner(x)
        return output


@pytest.fixture(scope="module")
def bank(network: Network) -> Bank:
    return bank_of_scenes(network, draws=4)


@pytest.fixture
def data(tmp_path: Path) -> Labels:
    labels = written(tmp_path, TEST[:4], unseen=True)
    (Path(labels.images) / "broken.png").write_bytes(b"not a png")
    (tmp_path / "labels" / "broken.png").write_bytes(b"not a png")
    return labels


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """All files of an evaluation as JSON or arrays, without seconds."""
    assert evaluation.folder is not None
    read: dict[str, Any] = {}
    for path in sorted(evaluation.folder.glob("*")):
        if path.suffix == ".json" and path.name != "run.json":
            read[path.name] = json.loads(path.read_text())
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                read |= {f"{path.name}/{name}": archive[name] for name in archive.files if name != "progress"}
    for method in read["scores.json"]["methods"].values():
        method["seconds"] = 0
    lines = (evaluation.folder / "manifest.jsonl").read_text().splitlines()
    read["manifest"] = {line["id"]: {**line, "seconds": 0} for line in map(json.loads, lines)}
    read["failed"] = dict(evaluation.failed)
    return read


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, other[name], err_msg=name)
        else:
            assert value == other[name], name


def test_counts_of_methods_sent_through_pickles_are_those_of_one_process(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    validation = written(tmp_path / "validation", VALIDATION[:1])
    chosen = replace(QUICK.methods, methods=("mcbn", "mcbn+temperature", "dropout"))
    groups = {source.id: f"patient {number // 2}" for number, source in enumerate(data.sources(network))}
    plan = replace(QUICK, methods=chosen, batch=2, groups=groups)
    more: dict[str, Any] = {"banks": [bank], "plan": plan, "validation": validation}
    here = evaluate_into(network, data, tmp_path / "here", **more)
    there = evaluate_into(network, data, tmp_path / "there", **more, runner=Pickling(units=2))
    assert list(here.failed) == ["broken"]
    assert here.scores["groups"] == there.scores["groups"] > 1
    same(numbers(there), numbers(here))


def test_a_shifted_evaluation_that_goes_on_elsewhere_counts_the_rest(
    network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    chosen = replace(QUICK.methods, methods=("mcbn",), insert_dropout=None)
    more: dict[str, Any] = {"banks": [bank], "plan": replace(QUICK, methods=chosen, shift=("noise", 3))}
    whole = evaluate_into(network, data, tmp_path / "whole", **more)
    part = Labels(data.images, data.labels)
    first = tmp_path / "first"
    first.mkdir()
    hidden = [path.rename(first / path.name) for path in sorted(Path(data.images).iterdir())[:3]]
    run = tmp_path / "run"
    evaluate_into(network, part, run, **more)
    for path in hidden:
        path.rename(Path(data.images) / path.name)
    assert (run / STATE).exists()
    both = evaluate_into(network, part, run, **more, resume=True, runner=Pickling())
    same(numbers(both), numbers(whole))


def test_a_fast_path_that_is_wrong_elsewhere_is_given_up_here_too(
    network: Network, bank: Bank, data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, differs, ways = Scoring.take_part, ["other numbers"], list[str]()

    def once(scoring: Scoring) -> PackedCounts:
        ways.extend({read_out.method.passes.way for read_out in scoring.read_outs.values()})  # type: ignore[attr-defined]
        return PackedCounts(differs=differs.pop()) if differs else part(scoring)

    monkeypatch.setattr(Scoring, "take_part", once)
    plan = replace(QUICK, methods=replace(QUICK.methods, methods=("mcbn",), insert_dropout=None))
    there = evaluate_into(network, data, tmp_path / "there", banks=[bank], plan=plan, runner=Pickling(1, units=5))
    assert ways == ["fused", "plain"]
    assert there.scores["images"] == 4


def test_an_evaluation_on_ray_through_a_process_that_ends_counts_every_image_once(
    ray: Any, network: Network, bank: Bank, data: Labels, tmp_path: Path
) -> None:
    module = EndsOnce(network.module, tmp_path / "ended")
    ending = load_network(module, card=replace(network.card, training=None, weights=None, sha256=None))
    bank = bank_of_scenes(ending, draws=4)
    plan = replace(QUICK, methods=replace(QUICK.methods, methods=("mcbn", "deterministic"), insert_dropout=None))
    here = evaluate_into(ending, data, tmp_path / "here", banks=[bank], plan=plan)
    with RayRunner(actors=2) as runner:
        there = evaluate_into(ending, data, tmp_path / "there", banks=[bank], plan=plan, runner=runner)
    assert (tmp_path / "ended").exists()
    same(numbers(there), numbers(here))
