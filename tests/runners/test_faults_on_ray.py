"""Machines that go away and processes that are killed at random, again and again: nothing is lost, nothing twice."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from console import contents, lines
from counting import Counting, Unit
from plain import calibrated, random_bank, seeded
from processes import photographs
from small_networks import Small
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.files.runs.manifest import SHARDS
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network
from segment.runners.on_ray import RayRunner
from segment.runners.quiet import QUIET


class Unhurried(Small):
    """Takes its time over each pass."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.03)
        return super().forward(x)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores and two machines of one core each, all of them processes on this machine."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray.cluster_utils import Cluster

        small: dict[str, Any] = {"object_store_memory": 80 * 2**20}
        made: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
        for _ in range(2):
            made.add_node(num_cpus=1, **small)
        ray.init(address=made.address, log_to_driver=False)
        yield made
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def machine(cluster: Any) -> Any:
    """A machine more, which a test may remove."""
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    return node


def later(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_machine_that_goes_away_loses_no_unit(cluster: Any, machine: Any, tmp_path: Path) -> None:
    units: list[Unit] = [("wait", f"{number:03}") for number in range(100)]
    worker = Counting(tmp_path)
    with RayRunner(actors=3) as runner:
        assert runner.processes == 1

        def remove() -> None:
            while len(worker.counts.units) < 20:
                time.sleep(0.05)
            cluster.remove_node(machine, allow_graceful=False)

        removing = later(remove)
        runner(worker, units)
        removing.join()
    assert dict(worker.counts.units) == dict.fromkeys((name for _, name in units), 1)
    assert worker.failed == {}


@pytest.mark.slow
def test_twenty_random_kills_and_a_machine_removed_in_a_run_of_500_images(
    cluster: Any, machine: Any, tmp_path: Path
) -> None:
    network = load_network(calibrated(seeded(Unhurried), (64, 64)))
    network = replace(network, card=replace(network.card, input=replace(network.card.input, stride=4)))
    bank = random_bank(bn_network_of(network))
    images = photographs(tmp_path / "images", 500, 64, 64)
    plan = PredictPlan(formats=("npz",))
    predict(network, str(images), bank, tmp_path / "here", plan)
    run, killed, generator, over = tmp_path / "there", list[int](), random.Random(0), threading.Event()

    def disturb() -> None:
        removed = False
        while len(killed) < 20 and not over.is_set():
            time.sleep(generator.uniform(0.2, 1.5))
            alive = [int(shard.stem.split("-")[-2]) for shard in (run / SHARDS).glob("*.jsonl")]
            alive = [number for number in alive if number not in killed and Path(f"/proc/{number}").exists()]
            if alive:
                killed.append(generator.choice(alive))
                os.kill(killed[-1], signal.SIGKILL)
            if len(killed) == 10 and not removed:
                removed = True
                cluster.remove_node(machine, allow_graceful=False)

    disturbing = later(disturb)
    with RayRunner(actors=3) as runner:
        summary = predict(network, str(images), bank, run, plan, runner=runner)
    over.set()
    disturbing.join()
    assert len(killed) == 20
    assert (summary.done, dict(summary.failed)) == (500, {})
    assert len((run / "manifest.jsonl").read_text().splitlines()) == len(lines(run)) == 500
    here, there = contents(tmp_path / "here"), contents(run)
    names = {name for name in {*here, *there} if name.endswith(".npz")}
    assert len(names) == 500
    assert [name for name in names if here.get(name) != there.get(name)] == []
