"""A bank of the very same network, images and plan is recorded once; of anything else it is recorded anew."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from console import segment
from processes import photographs

from segment.draws.bank import Bank
from segment.draws.minibatches import DrawPlan
from segment.files.banks import load_bank
from segment.files.writing import write_png
from segment.images.read import read_image
from segment.jobs.bank_cache import KEPT, folder, recipe, recorded_once
from segment.jobs.fit import fit_bank
from segment.networks.load import Network, load_network


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return photographs(tmp_path / "images", 3, 64, 64)


@pytest.fixture
def network() -> Network:
    return load_network("segment:tiny?classes=4")


class Recorder:
    """Records a bank, and counts how often."""

    def __init__(self, network: Network, images: Path) -> None:
        self.network, self.images, self.times = network, images, 0

    def __call__(self) -> Bank:
        self.times += 1
        return fit_bank(self.network, str(self.images), batch=2, draws=2)


def test_a_bank_is_recorded_once_and_found_in_its_file_or_in_the_cache(
    network: Network, images: Path, tmp_path: Path
) -> None:
    record, asked = Recorder(network, images), recipe(network, images, batch=2, draws=2)
    first, found = recorded_once(tmp_path / "a.safetensors", asked, record)
    assert found is None
    again, found = recorded_once(tmp_path / "a.safetensors", asked, record)
    assert found == tmp_path / "a.safetensors"
    other, found = recorded_once(tmp_path / "b.safetensors", asked, record)
    assert found == folder() / f"{asked}.safetensors"
    assert record.times == 1
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    for name in first.layers:
        assert torch.equal(first.mean[name], again.mean[name])
        assert torch.equal(first.var[name], other.var[name])


def darkened(network: Network, images: Path) -> Network:
    for path in images.iterdir():
        write_png(path, read_image(path) // 2)
    return network


PLAN = DrawPlan(batch=2, draws=2, seed=0)
CHANGES: dict[str, Callable[[Network, Path], tuple[Network, DrawPlan]]] = {
    "mini-batch": lambda network, images: (network, replace(PLAN, batch=3)),
    "seed": lambda network, images: (network, replace(PLAN, seed=5)),
    "weights": lambda network, images: (scaled(network), PLAN),
    "scale of the input": lambda network, images: (brighter(network), PLAN),
    "pixels": lambda network, images: (darkened(network, images), PLAN),
}


def scaled(network: Network) -> Network:
    other = load_network("segment:tiny?classes=4")
    with torch.no_grad():
        for name, value in network.module.state_dict().items():
            other.module.state_dict()[name].copy_(value * (2.0 if value.ndim == 4 else 1.0))
    return other


def brighter(network: Network) -> Network:
    return replace(network, card=replace(network.card, input=replace(network.card.input, scale=1.0)))


@pytest.mark.parametrize("what", CHANGES)
def test_a_bank_of_anything_else_is_recorded_anew_and_is_another_bank(
    what: str, network: Network, images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"

    def fitted(network: Network, plan: DrawPlan) -> Bank:
        return fit_bank(network, str(images), batch=plan.batch, draws=plan.draws, seed=plan.seed)

    first, _ = recorded_once(path, recipe(network, images, **asdict(PLAN)), lambda: fitted(network, PLAN))
    other, changed = CHANGES[what](network, images)
    times = 0

    def record() -> Bank:
        nonlocal times
        times += 1
        return fitted(other, changed)

    for _ in range(2):  # asked twice, recorded once
        bank, _ = recorded_once(path, recipe(other, images, **asdict(changed)), record)
    assert times == 1
    wanted = fitted(other, changed)
    for name in wanted.layers:
        assert torch.equal(bank.mean[name], wanted.mean[name])
    assert not all(torch.equal(first.mean[name], wanted.mean[name]) for name in wanted.layers)


FORWARD = """
from segment.networks.architectures.tiny import TinyUNet


class Edited(TinyUNet):
    def forward(self, x):
        return super().forward({factor} * x)
"""


def test_a_bank_is_recorded_anew_after_an_edit_of_the_networks_own_code(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    banks, weights, times = [], load_network("segment:tiny?classes=4").module.state_dict(), 0
    for factor in (1, 3, 3):
        file = tmp_path / "edited_network.py"
        if factor != 1 and times == 1:
            file.unlink()
            shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        if not file.exists():
            file.write_text(FORWARD.format(factor=factor))
            importlib.invalidate_caches()
            sys.modules.pop("edited_network", None)
        module = importlib.import_module("edited_network").Edited(4)
        module.load_state_dict(weights)
        network = load_network(module.eval())

        def record(network: Network = network) -> Bank:
            nonlocal times
            times += 1
            return fit_bank(network, str(images), batch=2, draws=2)

        banks.append(
            recorded_once(tmp_path / "a.safetensors", recipe(network, images, batch=2, draws=2), record)[0]
        )  # fmt: skip
    assert times == 2
    first = next(iter(banks[0].layers))
    torch.testing.assert_close(banks[1].mean[first], 3 * banks[0].mean[first])
    assert torch.equal(banks[2].mean[first], banks[1].mean[first])


def test_a_damaged_or_another_bank_is_recorded_anew(network: Network, images: Path, tmp_path: Path) -> None:
    record, asked = Recorder(network, images), recipe(network, images, batch=2, draws=2)
    recorded_once(tmp_path / "a.safetensors", asked, record)
    for path in (tmp_path / "a.safetensors", folder() / f"{asked}.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    recorded_once(tmp_path / "a.safetensors", asked, record)
    recorded_once(tmp_path / "a.safetensors", "another recipe", record)
    assert record.times == 3
    assert load_bank(tmp_path / "a.safetensors").provenance["recipe"] == "another recipe"


def test_a_cache_that_cannot_be_written_costs_nothing_but_the_next_time(
    network: Network, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("SEGMENT_CACHE", str(tmp_path / "taken"))
    record = Recorder(network, images)
    _, found = recorded_once(tmp_path / "a.safetensors", "recipe", record)
    assert found is None
    assert len(load_bank(tmp_path / "a.safetensors")) == 2


def test_the_cache_holds_so_many_banks_and_lets_the_oldest_go(network: Network, images: Path, tmp_path: Path) -> None:
    folder().mkdir(parents=True)
    for number in range(KEPT):
        (folder() / f"{number}.safetensors").touch()
        os.utime(folder() / f"{number}.safetensors", (1000 + number, 1000 + number))
    recorded_once(tmp_path / "a.safetensors", "recipe", Recorder(network, images))
    left = {path.stem for path in folder().iterdir()}
    assert len(left) == KEPT
    assert "0" not in left
    assert {"1", "recipe"} <= left


def test_fit_says_that_a_bank_was_recorded_before_and_records_anew_when_asked(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(name: str, *more: Any) -> str:
        ended = segment("fit", "segment:tiny?classes=4", "--images", images, "--batch", 2, "--draws", 2,
                        "-o", tmp_path / f"{name}.safetensors", *more)  # fmt: skip
        assert ended.code == 0, ended.err
        return " ".join(ended.out.split())

    assert "recorded of the very same" not in fit("a")
    assert "it was there already" in fit("a")
    assert "copied from" in fit("b")
    assert "recorded of the very same" not in fit("c", "--no-cache")
    assert "recorded of the very same" not in fit("a", "--seed", 1)
