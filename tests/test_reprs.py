"""What a person sees who types a public object's name: a line to ten, whatever is in it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from labelled_scenes import written

import segment
from segment.jobs.evaluate import evaluate_into
from segment.scenes.scene import TRAIN, VALIDATION, scene

LINES, CHARACTERS = 10, 1000


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """One of every public class."""
    top = tmp_path_factory.mktemp("objects")
    network = segment.load_network("scenes")
    pixels = [scene(seed).image for seed in TRAIN[:8]]
    bank = segment.fit_bank(network, pixels, batch=4, draws=2)
    mcbn = segment.MCBN(network, bank, precision="fp32")
    labels = written(top, VALIDATION[:24])
    methods = segment.MethodPlan(methods=("mcbn",), measures=("one_minus_max", "mutual_information"), precision="fp32")
    plan = segment.EvaluatePlan(methods=methods)

    evaluation = evaluate_into(network, labels, top / "scores", banks=[bank], plan=plan)
    sweep_plan = segment.SweepPlan(
        grid=segment.Grid(batches=(2,), draws=(1, 2), transforms=("plain",)), methods=methods
    )
    swept = segment.sweep(network, labels, str(labels.images), top / "sweep", sweep_plan)
    segment.predict(network, str(labels.images), bank, top / "run", segment.PredictPlan(precision="fp32"))
    asked = segment.TriagePlan(max_error=0.05)
    parts = [sweep_plan.grid, methods, segment.View(), segment.Listing(), segment.WatchPlan(), segment.RayRunner(2)]
    return [
        *parts,
        network, network.card, bank, mcbn, mcbn(pixels[0]), labels, plan, evaluation, sweep_plan, swept, asked,
        segment.PredictPlan(), segment.load_run(top / "run"), segment.calibrate_triage(top / "scores", asked),
        segment.UncertaintyScores(network.classes), segment.MCBNScores("network", network.classes),
    ]  # fmt: skip


def test_a_public_object_shows_itself_in_ten_lines_at_most(objects: list[Any]) -> None:
    public = {getattr(segment, name) for name in segment.__all__}
    classes = {one for one in public if inspect.isclass(one) and not issubclass(one, Exception)}
    assert {type(one) for one in objects} == classes, "a public class that is not tried here"
    for one in objects:
        lines = repr(one).splitlines()
        assert 1 <= len(lines) <= LINES, repr(one)
        assert len(repr(one)) <= CHARACTERS, repr(one)
        assert " object at 0x" not in repr(one), repr(one)
