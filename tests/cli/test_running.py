"""Several GPUs of a machine by their names: a process of Ray each, and no other GPU; contradictions are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from console import fitted, photographs, segment, training

from segment.cli.running import VISIBLE, PlaceOptions, WorkPlace, gpus_of, see_alone, visible_gpus
from segment.errors import WrongUse
from segment.runners import on_ray


def placed(device: str, runner: str = "", address: str = "", actors: int | None = None) -> WorkPlace:
    return PlaceOptions(device=device, runner=runner, ray_address=address, actors=actors).work_place()


@pytest.mark.parametrize("runner", ["", "ray"])
def test_several_gpus_are_ray_on_this_machine_over_these_alone(runner: str) -> None:
    assert placed("cuda:2,cuda:0", runner) == WorkPlace("ray", "cuda:0", "local", gpus=(2, 0))


def test_one_device_stays_in_this_process_unless_ray_is_asked_for() -> None:
    assert placed("cuda:1") == WorkPlace("local", "cuda:1")
    assert placed("auto", "local") == WorkPlace("local", "auto")
    assert placed("cuda:1", "ray") == WorkPlace("ray", "cuda:0", "local", gpus=(1,))
    assert placed("cuda", "ray", "auto", 3) == WorkPlace("ray", "cuda", "auto", 3)


@pytest.mark.parametrize(
    ("device", "more", "message"),
    [
        ("cuda:0,cuda:0", {}, "names cuda:0 twice. Several processes on a GPU: --actor-gpus .5"),
        ("cuda:0,cpu", {}, "'cpu' is no GPU by its number"),
        ("cuda:0,", {}, "'' is no GPU by its number"),
        ("cuda:0,cuda:1", {"runner": "local"}, "leave --runner local out"),
        ("cuda:0,cuda:1", {"address": "auto"}, "names GPUs of this machine, --ray-address auto a cluster"),
        ("cuda:1", {"runner": "ray", "address": "head:6379"}, "take --device cuda for its GPUs"),
        ("cuda:0,cuda:1", {"actors": 1}, "--actors 1 leaves GPUs of --device cuda:0,cuda:1 without work: give 2"),
        ("cuda:0", {"actors": 2}, "--actors 2 is for --runner ray"),
        ("cpu", {"runner": "rey"}, "Near: 'ray'"),
    ],
)
def test_options_that_contradict_the_devices_are_refused(device: str, more: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        placed(device, **more)


@pytest.mark.parametrize(
    ("count", "message"),
    [
        (0, "cuda:0 is not here: torch sees no GPU; take --device cpu"),
        (1, "cuda:2 is not here: there is cuda:0 alone"),
        (2, "cuda:2 is not here: there are 2, from cuda:0 to cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(count: int, message: str) -> None:
    with pytest.raises(WrongUse, match=message):
        visible_gpus((0, 2), count, None)


@pytest.mark.parametrize(("before", "after"), [("", "2,0"), ("5,6,GPU-7", "GPU-7,5")])
def test_numbers_are_those_of_the_gpus_that_this_process_may_see(
    before: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, before)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    see_alone(())
    assert os.environ[VISIBLE] == before
    see_alone(gpus_of("cuda:2,cuda:0"))
    assert os.environ[VISIBLE] == after


@pytest.mark.parametrize("command", ["predict", "fit", "evaluate", "sweep"])
def test_commands_open_ray_for_several_gpus(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Runner:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            seen.append((arguments, named, os.environ[VISIBLE]))
            raise WrongUse("It was opened.")

    def load(model: Any, **named: Any) -> Any:
        seen.append(named["device"])
        return loaded(model, **named | {"device": "cpu"})

    from segment.networks import load as module

    loaded = module.load_network
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "train"))
    photos = photographs(tmp_path / "photos", 1)
    monkeypatch.setattr(on_ray, "RayRunner", Runner)
    monkeypatch.setattr(module, "load_network", load)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv(VISIBLE, "")
    rest: dict[str, list[Any]] = {
        "predict": [photos, "--bank", bank, "-o", tmp_path / "run"],
        "fit": ["--images", photos, "--no-cache", "-o", tmp_path / "other.safetensors"],
        "evaluate": ["--images", photos, "--labels", photos, "--bank", bank, "-o", tmp_path / "run"],
        "sweep": ["--images", photos, "--labels", photos, "--train", photos, "-o", tmp_path / "run"],
    }
    ended = segment(command, "scenes", *rest[command], "--device", "cuda:1,cuda:0")
    assert "It was opened." in ended.err
    assert seen == ["cuda:0", ((None, "local"), {"gpus": None, "device": "cpu"}, "1,0")]
    assert "cuda:7 is not here" in segment(command, "scenes", *rest[command], "--device", "cuda:0,cuda:7").err
    assert not (tmp_path / "run").exists()
