"""The simulation of a fleet is what can be computed by hand in the limits, and the same for the same seed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.sizing.model import Fleet, Head, Image, Store, bounds, core_hours
from benchmarks.sizing.scenarios import SERIAL, fleets, foretold, slower
from benchmarks.sizing.simulation import simulated

IMAGE = Image(decode=0.1, network=1.0, write=0.2, passes=4, read=1e6, written=3e6, writes=4)
ROOT = Path(__file__).parents[2]


def near(value: float, expected: float, error: float = 0.01) -> bool:
    return abs(value / expected - 1) <= error


@pytest.mark.parametrize("slowest", ["decode", "network", "write"])
def test_one_worker_with_cores_for_all_stages_is_as_fast_as_its_slowest_stage(slowest: str) -> None:
    seconds: dict[str, Any] = {name: 0.8 if name == slowest else 0.05 for name in ("decode", "network", "write")}
    image = Image(**seconds)
    run = simulated(400, image, Fleet(cores=16, threads=1, row=400))
    assert near(run.rate, 1 / 0.8)
    assert run.bottleneck == slowest


def test_threads_divide_the_time_of_the_stages_beside_the_network() -> None:
    image = Image(decode=0.8, network=0.1, write=0.1)
    assert near(simulated(400, image, Fleet(cores=16, threads=4, row=400)).rate, 4 / 0.8)


def test_one_worker_on_one_core_takes_all_stages_in_turn() -> None:
    run = simulated(160, IMAGE, Fleet())
    assert run.seconds == pytest.approx(160 * IMAGE.work)
    assert run.busy["processors"] == pytest.approx(1)


def test_the_network_waits_for_the_first_image_and_the_last_files_of_every_row() -> None:
    run = simulated(48, IMAGE, Fleet(cores=16, row=16), Store(latency=0.5))
    read, written = 0.5 + IMAGE.decode, IMAGE.write + IMAGE.writes * 0.5
    assert run.seconds == pytest.approx(3 * (read + 16 * IMAGE.network + written))


@pytest.mark.parametrize(
    ("store", "head", "part"),
    [
        (Store(bandwidth=1e8), Head(), "store bandwidth"),
        (Store(requests=100), Head(), "store requests"),
        (Store(), Head(image=0.05), "head node"),
    ],
)
def test_many_workers_are_as_fast_as_what_they_share(store: Store, head: Head, part: str) -> None:
    fleet = Fleet(workers=100, cores=4)
    run = simulated(100 * 96, IMAGE, fleet, store, head)
    assert near(run.rate, bounds(IMAGE, fleet, store, head)[part], 0.03)
    assert run.bottleneck == part
    assert run.busy[part] > 0.95


@settings(max_examples=20)
@given(
    workers=st.integers(1, 12),
    cores=st.integers(1, 4),
    each=st.integers(1, 3),
    requests=st.floats(1, 100),
    latency=st.floats(0, 1),
    head=st.floats(0, 0.3),
    failures=st.sampled_from([0.0, 60.0]),
    seed=st.integers(0, 99),
)
def test_every_image_is_done_once_no_faster_than_each_part_allows_and_littles_law_holds(
    workers: int, cores: int, each: int, requests: float, latency: float, head: float, failures: float, seed: int
) -> None:
    fleet = Fleet(workers=workers, each=each, cores=cores, failures=failures, row=4, start=2, spread=0.2)
    store, node = Store(requests=requests, latency=latency), Head(image=head)
    run = simulated(97, IMAGE, fleet, store, node, seed=seed)
    assert run.images == 97
    assert run.images / run.seconds <= min(bounds(IMAGE, fleet, store, node).values()) * 1.1  # seconds vary by .2
    if not failures:
        assert run.in_hand == pytest.approx(run.images / run.seconds * run.stay)
    assert run == simulated(97, IMAGE, fleet, store, node, seed=seed)


def test_few_rows_go_to_as_many_workers() -> None:
    assert simulated(36, IMAGE, Fleet(workers=2, row=18)).seconds == pytest.approx(18 * IMAGE.work)


def test_images_of_a_worker_that_fails_are_done_again() -> None:
    fleet = Fleet(workers=4, failures=20, start=10)
    run = simulated(640, IMAGE, fleet, seed=1)
    assert run.images == 640
    assert run.repeated > 0
    assert run.repeated % 16 == 0
    assert run.seconds > simulated(640, IMAGE, replace(fleet, failures=0)).seconds
    assert run != simulated(640, IMAGE, fleet, seed=2)


def test_what_ray_takes_of_a_core_is_missing_to_the_workers() -> None:
    run = simulated(320, IMAGE, Fleet(background=0.25))
    assert near(run.rate, 0.75 / IMAGE.work)


def test_one_worker_is_efficient_by_definition_and_the_head_s_own_time_is_no_worker_s() -> None:
    image = replace(IMAGE, passes=1)
    rows = fleets(image, Fleet(), Store(), Head(serial=0.02), workers=(1, 10, 101))
    assert rows[0]["efficiency"] == pytest.approx(1, rel=0.01)
    assert rows[0]["bottleneck"] == "network"
    assert rows[-1]["bottleneck"] == SERIAL
    assert rows[0]["core_hours"] >= core_hours(IMAGE)
    assert (rows[0]["read_gb"], rows[0]["written_gb"]) == (1000, 3000)


def test_runs_that_are_the_simulation_s_own_are_foretold_without_error() -> None:
    image = replace(IMAGE, read=0, written=0)
    start = {"work": 2 * IMAGE.work, "wall": 9.0}

    def part(fleet: Fleet, images: int, others: float) -> dict[str, float]:
        run = simulated(images, image, replace(fleet, cores=2, each=fleet.workers, background=others))
        wall = start["wall"] + run.seconds
        return {"work": 40 * IMAGE.work, "wall": wall, "others": others * wall, "ray": 0.0}

    measured = {
        "images": 40,
        "actors": 2,
        "here_starting": start,
        "ray_starting": start,
        "here": part(Fleet(row=40), 38, 0.0),
        "side_by_side": part(Fleet(workers=2, row=18), 36, 0.5),
        "ray": part(Fleet(workers=2, row=2), 38, 0.0),
        "seconds_an_image": {"here": IMAGE.work, "ray": IMAGE.work},
    }
    assert slower(measured, "ray") == pytest.approx(1)
    assert [row["error"] for row in foretold(measured, image, 2, Head())] == pytest.approx([0, 0, 0])
    measured["seconds_an_image"]["here"] *= 2  # type: ignore[index]
    errors = [row["error"] for row in foretold(measured, image, 2, Head())]
    assert errors == pytest.approx([0, errors[1], 0])
    assert 0.3 < errors[1] < 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: Image(decode=-1, network=1, write=0),
        lambda: Image(decode=0, network=0, write=0),
        lambda: Fleet(workers=0),
        lambda: Fleet(background=1),
        lambda: Store(requests=0),
        lambda: Head(serial=-1),
    ],
)
def test_figures_that_cannot_be_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        make()  # type: ignore[operator]


def test_the_example_of_the_page_runs() -> None:
    text = (ROOT / "docs" / "how-to" / "sizing.md").read_text(encoding="utf-8")
    block = text.split("```sh\npython -m benchmarks.sizing ", 1)[1].split("```", 1)[0].replace("\\\n", " ")
    command = [sys.executable, "-m", "benchmarks.sizing", *shlex.split(block)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") in text
    refused = subprocess.run([*command, "--passes", "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "one pass or more" in refused.stderr
