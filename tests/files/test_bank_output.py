"""A bank is not written over another one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from console import segment
from plain import Toy, calibrated, seeded
from processes import photographs

from segment.distilling.distill import DistillPlan
from segment.draws.bank import bank_fingerprint
from segment.errors import WrongUse
from segment.files.banks.bank_file import load_bank, save_bank
from segment.files.banks.cache import BankCache
from segment.files.reading import as_json_values
from segment.jobs.distill import check_output, distill_bank
from segment.jobs.fit import fit
from segment.jobs.recording.plan import FitPlan
from segment.networks.load import Network, load_network


@pytest.fixture
def network() -> Network:
    return load_network(calibrated(seeded(Toy), (64, 64)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return photographs(tmp_path / "images", 4, 64, 64)


def test_a_fit_of_other_settings_leaves_the_bank_that_is_there(network: Network, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "bank.safetensors"
    bank, _ = fit(network, str(images), output, FitPlan(batch=2, draws=2))
    before = output.read_bytes()
    with pytest.raises(
        WrongUse, match=r"another bank already, of fingerprint .*draws is 2 there, 3 asked.*cannot be resumed"
    ) as e:
        fit(network, str(images), output, FitPlan(batch=2, draws=3))
    assert bank_fingerprint(bank)[:12] in str(e.value)
    next(iter(sorted(images.iterdir()))).unlink()
    with pytest.raises(WrongUse, match="its statistics images are others"):
        fit(network, str(images), output, FitPlan(batch=2, draws=2))
    assert output.read_bytes() == before


@pytest.mark.parametrize("job", ["fit", "distill"])
def test_a_bank_that_another_command_wrote_meanwhile_stays(
    network: Network, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    output, module = tmp_path / "bank.safetensors", importlib.import_module(f"segment.jobs.{job}")
    name = "_recorded" if job == "fit" else "distill"
    real, cache = getattr(module, name), BankCache(tmp_path / "cache")
    whole, _ = fit(network, str(images), None, FitPlan(batch=2, draws=4))

    def meanwhile(*given: Any, **named: Any) -> Any:
        made = real(*given, **named)
        save_bank(whole, output)
        return made

    monkeypatch.setattr(module, name, meanwhile)
    asked, few = FitPlan(batch=2, draws=3), dict[str, Any](views=4, held_out=2, steps=2)
    jobs: dict[str, Callable[[], Any]] = {
        "fit": lambda: fit(network, str(images), output, asked, cache=cache),
        "distill": lambda: distill_bank(network, whole, str(images), draws=2, output=output, **few),
    }
    with pytest.raises(WrongUse, match="is another bank already"):
        jobs[job]()
    assert bank_fingerprint(load_bank(output)) == bank_fingerprint(whole)
    if job == "fit":  # the draws are not lost
        bank, found = fit(network, str(images), tmp_path / "other.safetensors", asked, cache=cache)
        assert found is not None
        assert len(bank) == 3


def test_the_same_fit_may_be_asked_again(network: Network, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "bank.safetensors"
    first, _ = fit(network, str(images), output, FitPlan(batch=2, draws=2))
    again, _ = fit(network, str(images), output, FitPlan(batch=2, draws=2))  # without a cache: recorded anew
    assert bank_fingerprint(first) == bank_fingerprint(again) == bank_fingerprint(load_bank(output))


def test_weights_are_not_overwritten_and_a_damaged_bank_is(network: Network, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "bank.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, output)
    with pytest.raises(WrongUse, match="is no bank, perhaps weights"):
        fit(network, str(images), output, FitPlan(batch=2, draws=2))
    output.write_bytes(output.read_bytes()[:20])
    fit(network, str(images), output, FitPlan(batch=2, draws=2))
    assert len(load_bank(output)) == 2


def test_a_distilled_bank_does_not_replace_another(network: Network, images: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.safetensors", tmp_path / "small.safetensors"
    bank, _ = fit(network, str(images), whole, FitPlan(batch=2, draws=4))
    few: dict[str, Any] = {"views": 4, "held_out": 2, "steps": 2}
    with pytest.raises(WrongUse, match="distilled is False there, True asked"):
        distill_bank(network, bank, str(images), draws=2, output=whole, **few)
    small = distill_bank(network, bank, str(images), draws=2, output=output, **few)
    distill_bank(network, bank, str(images), draws=2, output=output, **few)
    with pytest.raises(WrongUse, match="draws is 2 there, 3 asked"):
        distill_bank(network, bank, str(images), draws=3, output=output, **few)
    assert bank_fingerprint(load_bank(output)) == bank_fingerprint(small)
    save_bank(replace(bank, provenance=dict(bank.provenance)), output)
    done = segment("fit", "scenes", "--images", images, "--draws", "4", "--batch", "2", "--distill", "2", "-o", output)
    assert done.code == 2
    assert "another bank already" in done.err
    assert not (tmp_path / "small.all.safetensors").exists()  # before anything is recorded


def test_a_distilled_bank_of_as_many_draws_is_compared_before_the_bank_behind_it_is_recorded(
    network: Network, images: Path, tmp_path: Path
) -> None:
    output, plan = tmp_path / "small.safetensors", FitPlan(batch=2, draws=4)
    check_output(output, network, str(images), plan, 2)  # nothing is there
    bank, _ = fit(network, str(images), tmp_path / "small.all.safetensors", plan)
    small = distill_bank(network, bank, str(images), draws=2, views=4, held_out=2, steps=2)
    asked = {"views": 128, "held_out": 16, "plan": as_json_values(asdict(DistillPlan(draws=2)))}
    distillation = small.provenance["distillation"] | asked  # as the command distils, which takes long
    save_bank(replace(small, provenance={**small.provenance, "distillation": distillation}), output)
    check_output(output, network, str(images), plan, 2)
    for other, words in ((replace(plan, seed=1), "seed is 0"), (replace(plan, batch=3), "batch is 2")):
        with pytest.raises(WrongUse, match=f"another bank already, .*{words} there"):
            check_output(output, network, str(images), other, 2)
    with pytest.raises(WrongUse, match="bank_draws is 4 there, 3 asked"):
        check_output(output, network, str(images), replace(plan, draws=3), 2)
    with pytest.raises(WrongUse, match="it is of another network"):
        check_output(output, load_network(calibrated(seeded(Toy, seed=1), (64, 64))), str(images), plan, 2)
    next(iter(sorted(images.iterdir()))).unlink()
    with pytest.raises(WrongUse, match="its statistics images are others"):
        check_output(output, network, str(images), plan, 2)
