"""A predict run on Ray leaves the files that one here leaves, byte by byte, whatever process is killed on its way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from compared_runs import without_times
from console import lines, photographs, segment
from plain import calibrated, random_bank, seeded
from processes import photographs as noise
from small_networks import Small
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.files.runs.manifest import SHARDS
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.networks.load import load_network
from segment.runners.on_ray import RayRunner


class Slow(Small):
    """Takes its time over each pass."""

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return super().forward(x)


def waited_for(condition: Callable[[], Any], seconds: float = 300) -> Any:
    end = time.monotonic() + seconds
    while not (seen := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return seen


def shard_lines(run: Path) -> int:
    return sum(text.count("\n") for path in (run / SHARDS).glob("*.jsonl") if (text := path.read_text()))


def test_a_run_on_ray_leaves_the_files_and_ends_with_the_code_of_one_here(ray: Any, tmp_path: Path, bank: Path) -> None:
    photos = photographs(tmp_path / "photos", 5)
    (photos / "broken.png").write_bytes(b"not a png")
    command = ("predict", "scenes", photos, "--bank", bank, "--batch", "2", "--json", "-o")
    here = segment(*command, tmp_path / "here")
    there = segment(*command, tmp_path / "there", "--runner", "ray", "--actors", 2)
    assert here.code == there.code == 1
    assert [line for line in there.err.splitlines() if "broken" in line] == [
        line.replace("here/", "there/") for line in here.err.splitlines() if "broken" in line
    ]
    assert {**there.json, "run": "", "seconds": 0} == {**here.json, "run": "", "seconds": 0}
    assert without_times(tmp_path / "there") == without_times(tmp_path / "here")
    assert list(lines(tmp_path / "there")) == list(lines(tmp_path / "here"))
    assert not (tmp_path / "there" / SHARDS).exists()
    again = segment(*command, tmp_path / "there", "--resume")
    assert again.code == 1
    assert without_times(tmp_path / "there") == without_times(tmp_path / "here")


def test_the_sheet_of_a_single_image_is_large_on_ray_too(ray: Any, tmp_path: Path, bank: Path) -> None:
    command = ("predict", "scenes", photographs(tmp_path / "photos", 1), "--bank", bank, "--format", "png", "-o")
    assert segment(*command, tmp_path / "here").code == 0
    assert segment(*command, tmp_path / "there", "--runner", "ray", "--actors", 1).code == 0
    assert without_times(tmp_path / "there") == without_times(tmp_path / "here")


def test_a_killed_actor_loses_no_image(ray: Any, tmp_path: Path) -> None:
    network = load_network(calibrated(seeded(Slow), (64, 64)))
    network = replace(network, card=replace(network.card, input=replace(network.card.input, stride=4)))
    used = random_bank(bn_network_of(network))
    images = noise(tmp_path / "images", 40, 64, 64)
    plan = PredictPlan(formats=("npz",))
    predict(network, str(images), used, tmp_path / "here", plan)
    killed: list[int] = []

    def kill() -> None:
        shard = waited_for(lambda: next((tmp_path / "there" / SHARDS).glob("*.jsonl"), None))
        killed.append(int(shard.stem.split("-")[-2]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with RayRunner(actors=2) as runner:
        summary = predict(network, str(images), used, tmp_path / "there", plan, runner=runner)
    killer.join()
    assert killed
    assert (summary.done, dict(summary.failed)) == (40, {})
    here, there = without_times(tmp_path / "here"), without_times(tmp_path / "there")
    assert there == here


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_killed_goes_on_where_it_was(
    sent: signal.Signals, ray: Any, tmp_path: Path, bank: Path
) -> None:
    photos = photographs(tmp_path / "photos", 8)
    command = ["predict", "scenes", str(photos), "--bank", str(bank), "--precision", "fp32", "-o"]
    assert segment(*command, tmp_path / "here").code == 0
    run = tmp_path / "there"
    address = ray.get_runtime_context().gcs_address
    driver = subprocess.Popen(
        [sys.executable, "-m", "segment", *command, str(run), "--runner", "ray", "--ray-address", address],
        stderr=subprocess.PIPE,
        text=True,
    )
    waited_for(lambda: shard_lines(run))
    driver.send_signal(sent)
    err = driver.communicate()[1]
    assert driver.returncode == (143 if sent == signal.SIGTERM else -sent)
    if sent == signal.SIGTERM:
        assert err.splitlines()[-1].startswith("Error: Terminated. What is done is kept: run it again to go on")
        assert lines(run)
    else:
        assert shard_lines(run)
    assert segment(*command, run).code == 2  # it holds a run
    assert segment(*command, run, "--resume").code == 0
    assert without_times(run) == without_times(tmp_path / "here")


def test_options_of_ray_are_refused_without_it(tmp_path: Path, bank: Path) -> None:
    photos = photographs(tmp_path / "photos", 1)
    command = ("predict", "scenes", photos, "--bank", bank, "-o", tmp_path / "run")
    assert "--actors 2 is for --runner ray" in segment(*command, "--actors", 2).error
    assert "Near: 'ray'" in segment(*command, "--runner", "rey").error
    watching = ("predict", "scenes", "--watch", photos, "--bank", bank, "-o", tmp_path / "run")
    assert "watched by --runner local" in segment(*watching, "--runner", "ray").error
    assert not (tmp_path / "run").exists()
