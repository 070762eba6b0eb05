"""An evaluation that goes on is of the same members, in the same precision, and counts no image twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from labelled_scenes import written

from segment.errors import WrongUse
from segment.jobs.evaluate import EvaluatePlan, Labels, evaluate
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.networks.load import Network, load_network
from segment.scenes.scene import TEST
from segment.scores.board import Board


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network("scenes")


@pytest.fixture
def data(tmp_path: Path) -> Labels:
    return written(tmp_path / "images", TEST[:3])


def plan(*methods: str, precision: str = "fp32", workers: int = 0) -> EvaluatePlan:
    how = MethodPlan(methods=methods, measures=("predictive_entropy",), precision=precision)
    return EvaluatePlan(methods=how, workers=workers)


def test_other_members_of_an_ensemble_are_refused(network: Network, data: Labels, tmp_path: Path) -> None:
    other = load_network("scenes")
    with torch.no_grad():
        next(other.module.parameters()).mul_(1.5)
    methods = plan("deterministic", "ensemble")
    evaluate(network, data, tmp_path / "run", plan=methods, members=[load_network("scenes")])
    for members in ([other], [load_network("scenes"), other]):
        with pytest.raises(WrongUse, match="ensemble"):
            evaluate(network, data, tmp_path / "run", plan=methods, members=members, resume=True)
    evaluate(network, data, tmp_path / "run", plan=methods, members=[load_network("scenes")], resume=True)


def test_the_precision_that_auto_took_stays(
    network: Network, data: Labels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = plan("deterministic", precision="auto")
    evaluate(network, data, tmp_path / "run", plan=auto)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["plan"]["precision"] = "bf16"  # as a processor that computes it would have taken
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    evaluate(network, data, tmp_path / "run", plan=auto, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["plan"]["precision"] == "bf16"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_update_that_was_interrupted_is_counted_once(
    network: Network,
    data: Labels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    workers: int,
) -> None:
    asked = plan("deterministic", "tta", workers=workers)
    whole = evaluate(network, data, tmp_path / "whole", plan=asked)
    real, calls = Board.add, [0]

    def torn(self: Board, *given: Any) -> None:
        real(self, *given)
        calls[0] += 1
        if calls[0] == 3:
            raise error

    monkeypatch.setattr(Board, "add", torn)
    with pytest.raises(error):
        evaluate(network, data, tmp_path / "run", plan=asked)
    monkeypatch.setattr(Board, "add", real)
    again = evaluate(network, data, tmp_path / "run", plan=asked, resume=True)
    assert (again.scores["images"], again.scores["pixels"]) == (whole.scores["images"], whole.scores["pixels"])
    for name, method in whole.scores["methods"].items():
        for score, entry in method["scores"].items():
            assert again.scores["methods"][name]["scores"][score]["value"] == entry["value"], f"{name} {score}"
