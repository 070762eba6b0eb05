"""An object store that is smaller than what goes through it puts objects on the disk, and nothing else changes."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from console import contents
from heaping import PART, STORE, Heaping, small_ray
from plain import calibrated, random_bank, seeded
from processes import photographs
from torch import Tensor, nn

from segment.batch_norm.network import bn_network_of
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network
from segment.runners.on_ray import RayRunner
from segment.runners.quiet import QUIET

COUNT = 12


@pytest.fixture(scope="module")
def small_store() -> Iterator[Callable[[], int]]:
    """A Ray whose store others have filled for three quarters; how many objects are on the disk."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        ray.init("local", **small_ray(full=1.0))
        session: Any = import_module("ray._private.worker").global_worker.node.get_session_dir_path()
        made = [np.full(PART, number, np.uint8) for number in range(5)]
        held = [ray.put(each) for each in made]

        def on_disk() -> int:
            return len([path for path in Path(session).glob("ray_spilled_objects_*/*") if path.is_file()])

        assert on_disk() == 0
        yield on_disk
        assert all(np.array_equal(ray.get(one), each) for one, each in zip(held, made, strict=True))
        ray.shutdown()


@pytest.mark.slow
def test_outcomes_larger_than_the_store_come_back_whole_and_once(small_store: Callable[[], int]) -> None:
    worker: Any = Heaping()
    with RayRunner(actors=2) as runner:
        runner(worker, range(COUNT))
    here: Any = Heaping()
    here(range(COUNT))
    assert worker.digests == {unit: hashlib.sha256(made).hexdigest() for unit, made in here.heaps.made.items()}
    assert COUNT * PART > STORE
    assert small_store() > 0


class Wide(nn.Module):
    """A layer of so many channels that its draws fill a store; they shift the logits by a little."""

    def __init__(self, channels: int = 250_000) -> None:
        super().__init__()
        self.channels, self.head, self.norm = channels, nn.Conv2d(3, 4, 1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3), keepdim=True).expand(-1, self.channels, 1, 1)
        shift: Tensor = self.head(x) * (1 + self.norm(mean).mean(1, keepdim=True))
        return shift


def test_a_bank_larger_than_the_store_gives_the_bytes_of_a_run_here(
    small_store: Callable[[], int], tmp_path: Path
) -> None:
    network = load_network(calibrated(seeded(Wide), (32, 32)))
    bank = random_bank(bn_network_of(network), draws=48)
    assert sum(each.nbytes for of in (bank.mean, bank.var) for each in of.values()) > STORE
    images, plan = str(photographs(tmp_path / "images", 12, 32, 32)), PredictPlan(formats=("npz",))
    predict(network, images, bank, tmp_path / "here", plan)
    with RayRunner(actors=2) as runner:
        summary = predict(network, images, bank, tmp_path / "there", plan, runner=runner)
    assert (summary.done, dict(summary.failed)) == (12, {})
    here, there = (contents(tmp_path / name) for name in ("here", "there"))
    assert {name: there[name] == data for name, data in here.items() if name.endswith(".npz")} == {
        name: True for name in here if name.endswith(".npz")
    }
    assert small_store() > 0
