"""Where a fast path turns out to differ from plain passes, every estimate that it made is made again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from labelled_scenes import written
from plain import noise, random_bank
from small_networks import network_of
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.errors import FastPathDiffers
from segment.estimation.estimate import ReadOut, estimate
from segment.estimation.estimator import Estimator
from segment.estimation.plan import EstimatePlan
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.mcbn import MCBN
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network
from segment.passes.passes import Passes
from segment.scenes.scene import TEST, VALIDATION

MEASURES = ("variance", "predictive_entropy")
MESSAGE = "0.2 at a pixel"


class Spoiled:
    """`Passes` whose fast way is off, which is noticed at the second draw of image `at`, counted from 1.

    Those that are asked to be plain round as before; `asked` holds them.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.images = 0
        self.asked: list[Passes] = []
        self.plain = False
        passed = Passes.__call__

        def spoiled(passes: Passes, images: Tensor) -> Iterator[Tensor]:
            if len(passes.bank) == 1:
                yield from passed(passes, images)
                return
            self.images += 1
            for number, output in enumerate(passed(passes, images)):
                if not self.plain and self.images == at and number == 1:
                    self.plain, passes.unverified = True, at - 1
                    raise FastPathDiffers(MESSAGE)
                yield output if self.plain else -output

        monkeypatch.setattr(Passes, "__call__", spoiled)
        monkeypatch.setattr(Passes, "take_plain", lambda passes: self.asked.append(passes))


@pytest.mark.parametrize("tile", ["off", 160])
def test_an_image_is_begun_anew_and_the_images_before_it_are_counted(
    tile: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_of()
    bank, images = random_bank(bn_network_of(network)), noise(1, 3, 200, 200, seed=7)
    method = MCBN(network, bank).method
    expected = estimate(method, images, head="softmax", measures=MEASURES).image(0)
    estimator = Estimator(network, {"": ReadOut(method=method, measures=MEASURES)}, EstimatePlan(tile=tile))
    assert estimator.tiler.geometry.halo is not None  # measured before anything is spoiled
    Spoiled(monkeypatch, at=3)
    made = [estimator(images)[""] for _ in range(3)]
    assert (estimator.to_redo, estimator.why) == (2, MESSAGE)
    assert made[-1].draws == len(bank)
    torch.testing.assert_close(made[-1].probability, expected.probability, rtol=0, atol=1e-5)
    if tile == "off":
        assert float((made[0].probability - expected.probability).abs().max()) > 0.01


def test_where_one_method_differs_all_are_plain_so_that_no_other_costs_all_images_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = network_of()
    banks, images = [random_bank(bn_network_of(network), seed=seed) for seed in (0, 1)], noise(1, 3, 64, 64, seed=7)
    read_outs = {str(n): ReadOut(method=MCBN(network, bank).method, measures=MEASURES) for n, bank in enumerate(banks)}
    estimator = Estimator(network, read_outs, EstimatePlan())
    spoiled = Spoiled(monkeypatch, at=3)
    for _ in range(2):
        estimator(images)
    assert spoiled.asked == [cast(Any, read_out.method).passes for read_out in read_outs.values()]


def test_a_caller_gets_plain_passes_and_the_images_to_estimate_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = network_of()
    bank, images = random_bank(bn_network_of(network)), noise(2, 3, 64, 64, seed=8)
    expected = MCBN(network, bank)(images)
    Spoiled(monkeypatch, at=2)
    model = MCBN(network, bank)
    with caplog.at_level(logging.WARNING):
        model(images)
        assert torch.equal(model(images).probability, expected.probability)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert "Make the last 1 estimates before this one again" in warning


def test_a_run_writes_the_spoiled_images_again_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_network("scenes")
    bank = random_bank(bn_network_of(network))
    images = str(written(tmp_path, TEST[:4]).images)
    plan = PredictPlan(precision="fp32")
    whole = predict(network, images, bank, tmp_path / "whole", plan)
    Spoiled(monkeypatch, at=3)
    with caplog.at_level(logging.WARNING):
        made = predict(network, images, bank, tmp_path / "made", plan)
    (warning,) = (record.getMessage() for record in caplog.records)
    assert MESSAGE in warning
    assert "the 2 images before" in warning
    assert (made.done, made.failed) == (4, {})
    for path in sorted(whole.folder.rglob("*")):
        if path.is_file() and path.name not in ("run.json", "manifest.jsonl"):
            assert path.read_bytes() == (made.folder / path.relative_to(whole.folder)).read_bytes(), path
    lines = [json.loads(line) for line in (made.folder / "manifest.jsonl").read_text().splitlines()]
    newest = {line["id"]: line for line in lines}
    for line in (json.loads(line) for line in (whole.folder / "manifest.jsonl").read_text().splitlines()):
        assert newest[line["id"]] | {"seconds": 0} == line | {"seconds": 0}


@pytest.mark.parametrize("at", [1, 4, 7])
def test_an_evaluation_counts_every_image_anew(
    at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_network("scenes")
    bank = random_bank(bn_network_of(network))
    data, validation = written(tmp_path, TEST[:4]), written(tmp_path / "validation", VALIDATION[:2])
    methods = MethodPlan(methods=("mcbn", "mcbn+temperature"), measures=MEASURES, precision="fp32")
    plan = EvaluatePlan(methods=methods)
    whole = evaluate_into(network, data, tmp_path / "whole", banks=[bank], plan=plan, validation=validation)
    spoiled = Spoiled(monkeypatch, at=at)
    with caplog.at_level(logging.WARNING):
        made = evaluate_into(network, data, tmp_path / "made", banks=[bank], plan=plan, validation=validation)
    assert spoiled.plain
    assert sum(MESSAGE in record.getMessage() for record in caplog.records) == 1
    assert made.validation.as_dict() == whole.validation.as_dict()
    for name, method in whole.scores["methods"].items():
        for score, entry in method["scores"].items():
            value = made.scores["methods"][name]["scores"][score]["value"]
            np.testing.assert_equal(value, entry["value"], err_msg=f"{name} {score}")
