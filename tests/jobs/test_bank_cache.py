"""A bank of the very same network, images and plan is recorded once; of anything else it is recorded anew."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from console import segment
from processes import photographs

import segment.jobs.bank_cache as keeping
from segment.draws.bank import Bank
from segment.files.banks import load_bank
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


def test_every_thing_that_makes_a_bank_is_in_its_recipe(network: Network, images: Path) -> None:
    asked = recipe(network, images, batch=2, draws=2)
    assert asked == recipe(load_network("segment:tiny?classes=4"), images, batch=2, draws=2)
    assert asked != recipe(network, images, batch=3, draws=2)
    assert asked != recipe(load_network("segment:tiny?classes=5"), images, batch=2, draws=2)
    brighter = replace(network, card=replace(network.card, input=replace(network.card.input, scale=1.0)))
    assert asked != recipe(brighter, images, batch=2, draws=2)
    touched = next(images.iterdir())
    os.utime(touched, (1, 1))
    assert asked != recipe(network, images, batch=2, draws=2)


def test_code_that_a_bank_depends_on_is_in_its_recipe(
    network: Network, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe(network, images)
    monkeypatch.setattr(keeping, "_house", lambda: "another version")
    assert recipe(network, images) != asked


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
