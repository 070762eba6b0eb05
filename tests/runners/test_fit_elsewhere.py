"""A bank that other processes record has the bits of one that is recorded here, whatever the size of a mini-batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from console import training
from labelled_scenes import written
from pickling import Pickling
from plain import calibrated, seeded
from small_networks import Random

from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import ModelRefused, PredictionFailed
from segment.jobs.fit import fit
from segment.jobs.recording.plan import FitPlan
from segment.jobs.sweep import sweep
from segment.jobs.sweeping.grid import Grid
from segment.jobs.sweeping.states import SweepPlan
from segment.networks.load import Network, load_network
from segment.runners.on_ray import RayRunner
from segment.runners.runner import LOCAL, Runner
from segment.scenes.scene import TEST, TRAIN, scene


def bank_of(network: Network, runner: Runner, **more: Any) -> Bank:
    images = [scene(seed).image for seed in TRAIN[:6]]
    bank, _ = fit(network, images, None, FitPlan(**{"batch": 3, "draws": 5} | more), runner=runner)
    return bank


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_bank_recorded_elsewhere_has_the_same_bits(network: Network, precision: Any) -> None:
    here, there = (bank_of(network, runner, precision=precision) for runner in (LOCAL, Pickling(3)))
    assert bank_fingerprint(there) == bank_fingerprint(here)


def test_a_random_network_s_draws_are_seeded_by_their_numbers_elsewhere_too() -> None:
    network = load_network(calibrated(seeded(Random), (64, 64)))  # so that the images of a draw stay together
    here, there = (bank_of(network, runner, size=(32, 32)) for runner in (LOCAL, Pickling(2, units=2)))
    assert bank_fingerprint(there) == bank_fingerprint(here)


def test_a_bank_recorded_on_ray_has_the_same_bits(ray: Any, network: Network) -> None:
    with RayRunner(actors=2) as runner:
        assert bank_fingerprint(bank_of(network, runner)) == bank_fingerprint(bank_of(network, LOCAL))


def test_a_draw_that_ends_its_process_is_no_bank(network: Network) -> None:
    class Lossy(Pickling):
        def __call__(self, worker: Any, units: Any) -> None:
            worker.count_failed(units[1], "the process that did it ended")

    with pytest.raises((PredictionFailed, ModelRefused), match="Draw 1 is not recorded: the process"):
        bank_of(network, Lossy())


def test_a_sweep_elsewhere_has_the_rows_of_one_here(network: Network, tmp_path: Path) -> None:
    data = written(tmp_path / "test", TEST[:2])
    train = training(tmp_path / "train")
    plan = SweepPlan(grid=Grid(batches=(2,), draws=(1, 2)))
    rows = []
    for name, runner in (("here", LOCAL), ("there", Pickling())):
        sweep(network, data, str(train), tmp_path / name, plan, runner=runner)
        rows.append(json.loads((tmp_path / name / "scores.json").read_text()))
    assert without_seconds(rows[1]) == without_seconds(rows[0])


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_seconds(each) for key, each in value.items() if "seconds" not in key}
    return [without_seconds(each) for each in value] if isinstance(value, list) else value
