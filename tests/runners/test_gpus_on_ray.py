"""Processes of Ray see a GPU each of those that are visible to the command: with Ray's own account, and no GPU."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from segment.cli.running import VISIBLE
from segment.runners.on_ray import RayRunner
from segment.runners.process import memory_for
from segment.runners.quiet import QUIET


@dataclass
class Seen:
    """How many units were done with which GPUs in sight."""

    gpus: Counter[str] = field(default_factory=Counter)

    def merge(self, other: Seen) -> None:
        self.gpus += other.gpus


class Looking:
    """Notes what its process sees."""

    units_per_call = 1

    def __init__(self) -> None:
        self.seen = Seen()

    def __call__(self, units: Sequence[int]) -> None:
        time.sleep(0.1)
        self.seen.gpus[os.environ.get("CUDA_VISIBLE_DEVICES", "")] += len(units)

    def factory(self, units: Sequence[int]) -> Callable[[], Looking]:
        return Looking

    def take_part(self) -> Seen:
        part, self.seen = self.seen, Seen()
        return part

    def merge(self, part: Seen) -> None:
        self.seen.merge(part)

    def count_failed(self, unit: int, why: str) -> None:
        raise AssertionError(why)


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    """A Ray that takes two GPUs for granted, the fourth and the sixth of a machine."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = "4,6"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        small: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_dashboard": False, "log_to_driver": False}
        ray.init("local", num_cpus=2, num_gpus=2, **small)
        yield
        ray.shutdown()
    if before is None:
        del os.environ[VISIBLE]
    else:
        os.environ[VISIBLE] = before


def test_each_process_sees_one_gpu_of_those_that_the_command_may_take(two_gpus: None) -> None:
    worker: Any = Looking()
    with RayRunner(device="cuda") as runner:
        assert runner.actors == 2
        runner(worker, range(20))
    assert set(worker.seen.gpus) == {"4", "6"}
    assert sum(worker.seen.gpus.values()) == 20


def test_processes_share_the_memory_of_a_gpu_only_where_they_share_the_gpu(two_gpus: None) -> None:
    cuda = torch.device("cuda")
    with RayRunner(device="cuda") as runner:
        assert runner.processes == 1
        assert memory_for(runner, None, cuda) is None  # each has what is free of its own
    for actors, gpus in (None, 0.5), (3, None):  # of three, two share a GPU
        with RayRunner(actors, gpus=gpus, device="cuda") as runner:
            assert runner.processes == 2
