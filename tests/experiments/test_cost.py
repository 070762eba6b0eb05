"""The cost experiment: the methods that are timed do what their names say, and nothing of the caller's is changed."""

from __future__ import annotations

import csv
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segment.batch_norm.network import bn_network_of
from segment.draws.minibatches import DrawPlan
from segment.experiments.cost import experiment as cost
from segment.experiments.cost.experiment import CostPlan
from segment.experiments.cost.figures import LABELS
from segment.experiments.cost.timing import methods_of, timed
from segment.experiments.regression.mnf_convolutions import FlowConvolution, flow_network
from segment.experiments.segmentation.cases import bank_of, scenes_case
from segment.images.prepare import prepare
from segment.methods.method import Method
from segment.networks.architectures.tiny import TinyUNet

SMALL = CostPlan(draws=3, repeats=1, steps=1)


@pytest.fixture(scope="module")
def methods_and_image() -> tuple[dict[str, Method], Tensor]:
    case = scenes_case(Path())
    bank = bank_of(case, bn_network_of(case.network), DrawPlan(draws=3, batch=2, seed=0))
    flows = flow_network(TinyUNet(6), torch.Generator().manual_seed(0)).eval()
    methods = methods_of(case.network, bank, flows, SMALL.draws, seed=0)
    return methods, prepare(case.test_image(0).image, case.network.card.input)[None]


def test_the_experiment_leaves_a_table_a_figure_and_verdicts(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    verdicts = cost.run(tmp_path, budget="quick", data=tmp_path, plan=SMALL)
    assert torch.get_num_threads() == threads
    assert {"cost.csv", "cost.png", "cost.svg", "page.md", "verdicts.csv"} <= {path.name for path in tmp_path.iterdir()}
    with (tmp_path / "cost.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == list(LABELS)
    assert float(rows["ensemble"]["seconds before the first map"]) == pytest.approx(
        5 * float(rows["mcdo"]["seconds before the first map"])
    )
    assert all(float(row["seconds to a map"]) > 0 for row in rows.values())
    assert "bit for bit the same: yes" in verdicts[0].numbers


def test_every_random_method_makes_passes_that_differ(
    methods_and_image: tuple[dict[str, Method], Tensor],
) -> None:
    methods, image = methods_and_image
    for name in ("mcbn", "mcdo", "mnf"):
        (weight, first), (_, second), (_, _) = methods[name](image)
        assert weight == pytest.approx(1 / 3), name
        if name != "mnf":  # an untrained head gives zeros whatever comes before it
            assert not torch.equal(first, second), name
    assert [methods[name].draws for name in LABELS] == [1, 3, 3, 5, 3]


def test_a_flow_convolution_is_the_size_of_the_one_it_replaces_and_differs_between_calls() -> None:
    generator = torch.Generator().manual_seed(1)
    plain = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    flow = FlowConvolution(plain, generator)
    x = torch.randn(2, 3, 10, 12, generator=generator)
    first, second = flow(x), flow(x)
    assert first.shape == plain(x).shape
    assert not torch.equal(first, second)
    assert flow.divergence > 0


def test_the_flow_network_has_no_plain_convolution_and_no_normalisation_left() -> None:
    network = flow_network(TinyUNet(6), torch.Generator().manual_seed(0))
    kinds = [type(module) for module in network.modules()]
    assert kinds.count(FlowConvolution) == 15
    assert not {nn.Conv2d, nn.BatchNorm2d} & set(kinds)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 6, 32, 32)


def test_the_first_round_is_left_out(
    methods_and_image: tuple[dict[str, Method], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    methods, image = methods_and_image
    ticks = iter([0, 100, 0, 1, 0, 2, 0, 30])
    monkeypatch.setattr(time, "process_time", lambda: float(next(ticks)))
    seconds = timed({"single pass": methods["single pass"]}, image, scenes_case(Path()).network, 3)
    assert seconds == {"single pass": [1.0, 2.0, 30.0]}


def rows_of(seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    return [
        {
            "method": name,
            "passes": 5,
            "seconds to a map": sum(values) / len(values),
            "plain passes to a pass": values[0] / seconds["ensemble"][0],
            "seconds before the first map": 0.0,
        }
        for name, values in seconds.items()
    ]


@pytest.mark.parametrize(
    ("mcbn", "plain", "rival"),
    [
        ([1.00, 1.01, 1.02, 1.01, 1.00], "reproduced", "reproduced"),
        ([1.0, 1.4, 1.0, 1.4, 1.2], "inconclusive", "inconclusive"),
        ([1.50, 1.51, 1.52, 1.51, 1.50], "not reproduced", "not reproduced"),
    ],
)
def test_a_cost_is_judged_by_the_interval_of_its_ratio(mcbn: list[float], plain: str, rival: str) -> None:
    seconds = {"single pass": [1.0] * 5, "mcbn": mcbn, "mcdo": [1.2] * 5, "ensemble": [1.0] * 5, "mnf": [3.0] * 5}
    verdicts = cost._verdicts(rows_of(seconds), seconds, unchanged=True)
    assert [verdict.outcome for verdict in verdicts[1:]] == [plain, rival]
