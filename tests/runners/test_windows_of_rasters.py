"""A large raster by the windows of several workers leaves the bytes of one worker, whatever ends on its way."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from compared_runs import without_places, without_times
from console import contents
from pickling import Pickling
from plain import calibrated, random_bank, seeded
from processes import photographs
from s3_server import s3_server
from small_networks import Small
from torch import Tensor

from segment.batch_norm.network import bn_network_of
from segment.draws.bank import Bank
from segment.errors import ImageUnreadable
from segment.estimation.estimator import Estimator
from segment.files.runs.delivery import Delivery
from segment.files.runs.manifest import MANIFEST, SHARDS
from segment.files.runs.places import WINDOWS
from segment.files.runs.window_groups import GroupFiles
from segment.files.writing import write_bytes, write_png
from segment.images import windowed
from segment.images.formats import raster_windows
from segment.jobs.evaluate import EvaluatePlan, evaluate_into
from segment.jobs.evaluation.compared_methods import MethodPlan
from segment.jobs.labelled.images import Labels
from segment.jobs.predict import predict
from segment.jobs.prediction.plan import PredictPlan
from segment.jobs.prediction.window_worker import Unit
from segment.networks.load import Network, load_network
from segment.runners.on_ray import RayRunner
from segment.runners.runner import LOCAL

LIMIT = 100_000
"""Bytes of pixels from which a raster is large here."""

SIZE = (228, 180)
FOUL = 2.0
"""Channels of a normalised pixel that a network does not take: white."""


class Marked(Small):
    """Rasters are large from fewer bytes on in every process that it is sent to; it does not take foul pixels.

    ended: a file that the first process makes which ends at a foul pixel, where it is no other's
    """

    ended: str = ""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        windowed.LARGEST = LIMIT

    def forward(self, x: Tensor) -> Tensor:
        if bool((x == FOUL).all(dim=1).any()):
            if not self.ended:
                raise ValueError("a foul pixel")
            if not Path(self.ended).exists():
                Path(self.ended).touch()
                os._exit(1)
        return super().forward(x)


@pytest.fixture(autouse=True)
def _large_from_fewer_bytes_and_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(windowed, "LARGEST", LIMIT)


def made(**attributes: str) -> tuple[Network, Bank]:
    module = calibrated(seeded(Marked), (64, 64))
    for name, value in attributes.items():
        setattr(module, name, value)
    network = load_network(module)
    spec = replace(network.card.input, stride=4, mean=(0.5,) * 3, std=(0.25,) * 3)
    network = replace(network, card=replace(network.card, input=spec))
    return network, random_bank(bn_network_of(network), 4)


@pytest.fixture
def network() -> tuple[Network, Bank]:
    return made()


def scene(path: Path, seed: int = 0, *, foul: bool = False) -> None:
    """A raster with a corner without data; foul: and a white pixel."""
    pixels = np.random.default_rng(seed).integers(1, 200, (3, *SIZE)).astype(np.uint8)
    pixels[:, :20, :50] = 0
    if foul:
        pixels[:, 190, 30] = 255
    shape = {"driver": "GTiff", "height": SIZE[0], "width": SIZE[1], "count": 3, "dtype": "uint8", "nodata": 0}
    place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(path, "w", crs="EPSG:32632", transform=place, **shape) as file:
        file.write(pixels)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two large rasters and two small photographs."""
    folder = photographs(tmp_path / "images", 2, 64, 64)
    scene(folder / "a.tif")
    scene(folder / "z.tif", seed=1)
    return folder


PLAN = PredictPlan(tile=160, formats=("npz",), precision="fp32")


class Counted(Pickling):
    """Counts the units of windows that are done; ends after some of them."""

    def __init__(self, end: int | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.done, self._end = list[Unit](), end

    def __call__(self, worker: Any, units: Sequence[Any]) -> None:
        mine = [unit for unit in units if isinstance(unit, Unit)]
        if self._end is not None and mine:
            super().__call__(worker, mine[: self._end])
            raise KeyboardInterrupt
        super().__call__(worker, units)
        self.done += mine

    @property
    def groups(self) -> int:
        return sum(unit.number is not None for unit in self.done)


@pytest.mark.parametrize(
    "more",
    [
        {"formats": ("png", "npz", "tif", "geojson"), "border": 5, "maps": ("prediction", "variance", "probability")},
        {"formats": ("npz", "tif"), "masked": True},
        {"tile_mode": "blended", "tile": 128},
        {"draws": "auto", "tolerance": 0.01},
    ],
    ids=["exact", "masked", "blended", "draws auto"],
)
def test_windows_in_any_order_leave_the_files_of_one_worker(
    network: tuple[Network, Bank], images: Path, tmp_path: Path, more: dict[str, Any]
) -> None:
    model, bank = network
    masked = "masked" in more
    if "draws" in more:
        bank = random_bank(bn_network_of(model), 16)
    masks = tmp_path / "masks"
    if masked:
        for path in images.iterdir():
            size = (64, 64) if path.suffix == ".png" else SIZE
            write_png(masks / f"{path.stem}.png", np.tri(*size, dtype=np.uint8) * 255)
    plan, given = replace(PLAN, **{name: more[name] for name in more if name != "masked"}), masks if masked else None
    predict(model, images, bank, tmp_path / "here", plan, masks=given)
    runner = Counted(workers=3, seed=len(more))
    summary = predict(model, images, bank, tmp_path / "there", plan, masks=given, runner=runner)
    assert (summary.done, dict(summary.failed)) == (4, {})
    assert without_times(tmp_path / "there") == without_times(tmp_path / "here")
    assert runner.groups >= 6, "each raster by several groups"
    assert not (tmp_path / "there" / WINDOWS).exists()


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_that_goes_on_makes_the_groups_that_are_missing(
    network: tuple[Network, Bank], images: Path, tmp_path: Path, workers: int
) -> None:
    run = tmp_path / "there"
    for rest in photographs(tmp_path / "photographs", 1, 64, 64), images / "z.tif":
        assert rest.exists()
    predict(*network_and(network, images), tmp_path / "here", PLAN)
    first = Counted(end=2, workers=2)
    with pytest.raises(KeyboardInterrupt):
        predict(*network_and(network, images), run, PLAN, runner=first)
    whole = {name: data for name, data in contents(run / WINDOWS).items() if name.endswith(".group")}
    assert len(whole) == 2
    again = Counted(workers=workers)
    groups = len((GroupFiles(run, "a").plan() or {})["groups"])
    predict(*network_and(network, images), run, PLAN, runner=again, resume=True)
    assert sum(unit.number is not None and unit.raster.source.id == "a" for unit in again.done) == groups - 2
    assert without_times(run) == without_times(tmp_path / "here")
    assert not (run / WINDOWS).exists()


def network_and(network: tuple[Network, Bank], images: Path) -> tuple[Network, Path, Bank]:
    return network[0], images, network[1]


def test_one_worker_goes_on_by_windows_and_an_image_that_changed_begins_again(
    network: tuple[Network, Bank], images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "there"
    with pytest.raises(KeyboardInterrupt):
        predict(*network_and(network, images), run, PLAN, runner=Counted(end=2))
    scene(images / "a.tif", seed=2)
    predict(*network_and(network, images), tmp_path / "here", PLAN)
    caplog.set_level(logging.INFO, "segment")
    predict(*network_and(network, images), run, PLAN, resume=True, runner=LOCAL)
    assert without_times(run) == without_times(tmp_path / "here")
    messages = [record.getMessage() for record in caplog.records if "is whole" in record.getMessage()]
    assert [message.split(":")[0] for message in messages] == ["a"], "the other was not begun"
    assert not (run / WINDOWS).exists()


def test_rasters_and_a_run_on_a_store_leave_the_bytes_of_those_here(
    network: tuple[Network, Bank], images: Path, tmp_path: Path
) -> None:
    model, bank = network
    predict(model, images, bank, tmp_path / "here", PLAN)
    with s3_server() as server:
        for path in images.iterdir():
            server.put("bucket", f"images/{path.name}", path.read_bytes())
        with pytest.raises(KeyboardInterrupt):
            predict(model, "s3://bucket/images", bank, "s3://bucket/run", PLAN, runner=Counted(end=2, workers=2))
        assert len([name for name in server.files("bucket", f"run/{WINDOWS}/") if name.endswith(".group")]) == 2
        again = Counted(workers=3)
        summary = predict(model, "s3://bucket/images", bank, "s3://bucket/run", PLAN, runner=again, resume=True)
        assert (summary.done, dict(summary.failed)) == (4, {})
        there = server.files("bucket", "run/")
    assert again.groups
    assert without_places(there, hashes=False) == without_places(tmp_path / "here", hashes=False)


def test_lines_on_a_store_outlive_a_second_ctrl_c(
    network: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    class Ended(Pickling):
        def __call__(self, worker: Any, units: Sequence[Any]) -> None:
            super().__call__(worker, units[:2])
            patched.setattr(Delivery, "bring", interrupt)  # the second one, while the lines are brought
            raise KeyboardInterrupt

    images = photographs(tmp_path / "images", 4, 64, 64)
    with s3_server() as server:
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            predict(network[0], images, network[1], "s3://bucket/run", PLAN, runner=Ended())
        assert len([name for name in server.files("bucket", "run/") if name.startswith(SHARDS)]) == 2
        begun = len(server.requests)
        predict(network[0], images, network[1], "s3://bucket/run", PLAN, resume=True)
        written = {path for method, path in server.requests[begun:] if method == "PUT" and path.endswith(".npz")}
        assert written == {"/bucket/run/002/maps.npz", "/bucket/run/003/maps.npz"}
        assert not [name for name in server.files("bucket", "run/") if name.startswith(SHARDS)]


def test_hidden_folders_of_a_run_that_was_removed_are_not_taken_for_those_of_the_next(
    network: tuple[Network, Bank], images: Path, tmp_path: Path
) -> None:
    model, bank = network
    predict(model, images, bank, tmp_path / "here", PLAN)
    other = random_bank(bn_network_of(model), 4, seed=1)
    predict(model, images, other, tmp_path / "other", PLAN)

    def kill(run: str | Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            predict(model, images, other, run, PLAN, runner=Counted(end=2))

    shard = f"{SHARDS}/host-1-a.jsonl", (tmp_path / "other" / MANIFEST).read_bytes()
    run = tmp_path / "there"
    kill(run)
    (run / SHARDS).mkdir()
    (run / shard[0]).write_bytes(shard[1])
    subprocess.run(["/bin/sh", "-c", "rm -rf *"], cwd=run, check=True)
    assert {path.name for path in run.iterdir()} >= {WINDOWS, SHARDS}
    predict(model, images, bank, run, PLAN, resume=True)
    assert without_times(run) == without_times(tmp_path / "here")
    assert not {WINDOWS, SHARDS} & {path.name for path in run.iterdir()}
    with s3_server() as server:
        kill("s3://bucket/run")
        server.put("bucket", f"run/{shard[0]}", shard[1])
        for name in [name for name in server.files("bucket", "run/") if not name.startswith(".")]:
            server.client().delete_object(Bucket="bucket", Key=f"run/{name}")
        predict(model, images, bank, "s3://bucket/run", PLAN)
        assert without_times(server.files("bucket", "run/")) == without_times(tmp_path / "here")


def test_a_raster_that_is_replaced_between_its_windows_is_no_result(
    network: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene(tmp_path / "images" / "a.tif")
    scene(tmp_path / "other" / "a.tif", seed=5)
    raster, other = tmp_path / "images" / "a.tif", (tmp_path / "other" / "a.tif").read_bytes()
    write_png(tmp_path / "labels" / "a.png", np.zeros(SIZE, np.uint8))
    read, reads = raster_windows.window_of, list[Path]()

    def replaced_at(number: int, replace: Callable[[], object]) -> None:
        reads.clear()

        def window_of(path: Path, *spans: Any) -> Any:
            reads.append(path)
            if len(reads) == number:
                replace()
            return read(path, *spans)

        monkeypatch.setattr(windowed, "window_of", window_of)

    replaced_at(4, partial(write_bytes, raster, other))
    here = predict(*network_and(network, raster.parent), tmp_path / "here", PLAN)
    assert "was changed while its windows were estimated" in here.failed["a"]
    assert not (tmp_path / "here" / "a").exists()
    assert predict(*network_and(network, raster.parent), tmp_path / "here", PLAN, resume=True).done == 1
    scene(raster)
    with s3_server() as server:
        server.put("bucket", "images/a.tif", raster.read_bytes())
        replaced_at(4, partial(server.put, "bucket", "images/a.tif", other))
        there = predict(network[0], "s3://bucket/images", network[1], tmp_path / "there", PLAN)
    assert "was changed" in there.failed["a"]
    replaced_at(3, partial(write_bytes, raster, other))
    labels, plan = Labels(raster.parent, tmp_path / "labels"), EvaluatePlan(methods=MethodPlan(measures=("variance",)))
    with pytest.raises(ImageUnreadable, match="was changed while its windows"):
        evaluate_into(network[0], labels, tmp_path / "scores", banks=[network[1]], plan=plan)


def test_a_window_that_fails_makes_its_image_a_failed_line_and_the_rest_is_kept(
    network: tuple[Network, Bank], images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "there"
    scene(images / "a.tif", foul=True)
    here = predict(*network_and(network, images), tmp_path / "here", PLAN)
    there = predict(*network_and(network, images), run, PLAN, runner=Counted(workers=2))
    assert list(there.failed) == ["a"]
    assert "a foul pixel, in the window of rows 32 to 191, columns 0 to 159" in there.failed["a"]
    assert there.failed == here.failed
    kept = [name for name in contents(run / WINDOWS) if name.endswith(".group")]
    assert kept, "what is whole of it stays"
    assert without_times(run)["lines"] == without_times(tmp_path / "here")["lines"]
    again = Counted(workers=2)
    predict(*network_and(network, images), run, PLAN, runner=again, resume=True)
    groups = len((GroupFiles(run, "a").plan() or {})["groups"])
    assert again.groups == groups - len(kept) < groups


def test_a_window_whose_process_always_ends_is_told(
    network: tuple[Network, Bank], images: Path, tmp_path: Path
) -> None:
    class Lossy(Pickling):
        def __call__(self, worker: Any, units: Sequence[Any]) -> None:
            lost = [
                unit for unit in units if isinstance(unit, Unit) and (unit.raster.source.id, unit.number) == ("a", 1)
            ]
            super().__call__(worker, [unit for unit in units if unit not in lost])
            for unit in lost:
                worker.count_failed(unit, "the process that did it ended, each time it was tried")

    summary = predict(*network_and(network, images), tmp_path / "run", PLAN, runner=Lossy())
    assert summary.done == 3
    assert summary.failed["a"].startswith("228 x 180 image: the process that did it ended, each time it was tried, in ")


def test_windows_of_a_process_that_ends_are_made_by_others_on_ray(ray: Any, tmp_path: Path) -> None:
    images, ended = tmp_path / "images", tmp_path / "ended"
    model, bank = made(ended=str(ended))
    scene(images / "a.tif", foul=True)
    ended.touch()
    predict(model, images, bank, tmp_path / "here", PLAN)
    ended.unlink()
    with RayRunner(actors=2) as runner:
        summary = predict(model, images, bank, tmp_path / "there", PLAN, runner=runner)
    assert ended.exists()
    assert (summary.done, dict(summary.failed)) == (1, {})
    assert without_times(tmp_path / "there") == without_times(tmp_path / "here")
    assert not (tmp_path / "there" / WINDOWS).exists()


def test_groups_before_one_whose_fast_passes_were_wrong_are_estimated_again(
    network: tuple[Network, Bank], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, made = Estimator.group, list[Any]()

    def group(estimator: Estimator, *arguments: Any) -> Any:
        made.append(arguments[2])
        if len(made) == 3:  # as if the third had found it
            estimator.to_redo, estimator.why = 2, "other numbers"
        return plain(estimator, *arguments)

    monkeypatch.setattr(Estimator, "group", group)
    predict(*network_and(network, images), tmp_path / "there", PLAN, runner=Pickling(1))
    assert made[3:5] == made[:2]
    predict(*network_and(network, images), tmp_path / "here", PLAN)
    assert without_times(tmp_path / "there") == without_times(tmp_path / "here")
