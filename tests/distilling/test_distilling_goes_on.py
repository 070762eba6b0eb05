"""A distilling that ends early keeps what refining has reached, and the same call goes on to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from plain import Toy, calibrated, seeded

from segment.distilling.refine import RefinePlan
from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import WrongUse
from segment.files.banks import load_bank
from segment.files.partial_banks import SUFFIX
from segment.jobs.distill import distill_bank
from segment.jobs.fit import fit_bank
from segment.networks.load import Network, load_network

STEPS, EVERY = 9, 2
IMAGES = [np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8) for seed in range(5)]


class Ended(Exception):
    """What ends a distilling early."""


class Distilling:
    """Calls with one output. refined: the steps of the newest one."""

    def __init__(self, network: Network, bank: Bank, output: Path) -> None:
        self.network, self.bank, self.output = network, bank, output
        self.refined: list[int] = []

    @property
    def partial(self) -> Path:
        return self.output.with_suffix(SUFFIX)

    def __call__(self, *, end_after: int | None = None, seed: int = 0) -> Bank:
        self.refined = []

        def told(stage: str, done: int, total: int, draws: int = 0) -> None:
            if stage == "refining":
                self.refined.append(done)
                if done == end_after:
                    raise Ended

        return distill_bank(
            self.network,
            self.bank,
            IMAGES,
            draws=3,
            views=4,
            held_out=2,
            steps=STEPS,
            seed=seed,
            output=self.output,
            progress=told,
        )

    def end_after(self, step: int) -> None:
        with pytest.raises(Ended):
            self(end_after=step)


@pytest.fixture(scope="module")
def fitted() -> tuple[Network, Bank]:
    network = load_network(calibrated(seeded(Toy), (32, 32)))
    return network, fit_bank(network, IMAGES, batch=2, draws=8)


@pytest.fixture
def distilling(fitted: tuple[Network, Bank], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distilling:
    monkeypatch.setattr("segment.jobs.distill.RefinePlan", partial(RefinePlan, every=EVERY, patience=9))
    return Distilling(*fitted, tmp_path / "small.safetensors")


@pytest.fixture
def whole(distilling: Distilling) -> str:
    made = bank_fingerprint(distilling())
    distilling.output.unlink()
    return made


def test_the_same_call_goes_on_to_the_same_bits(distilling: Distilling, whole: str) -> None:
    distilling.end_after(5)
    assert (distilling.partial.exists(), distilling.output.exists()) == (True, False)
    distilling.end_after(8)
    assert distilling.refined == [5, 6, 7, 8]  # what was reached at step 4 was kept
    made = distilling()
    assert distilling.refined == [7, 8, 9]
    assert bank_fingerprint(made) == whole == bank_fingerprint(load_bank(distilling.output))
    assert not distilling.partial.exists()


def test_nothing_is_kept_before_the_first_evaluation(distilling: Distilling, whole: str) -> None:
    distilling.end_after(1)
    assert not distilling.partial.exists()
    assert bank_fingerprint(distilling()) == whole


def test_another_call_begins_anew(distilling: Distilling) -> None:
    distilling.end_after(5)
    distilling(seed=1)
    assert distilling.refined[0] == 1


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-9], lambda content: b"", lambda content: content[:-1] + bytes([content[-1] ^ 1])],
)
def test_a_damaged_file_is_refined_anew(distilling: Distilling, whole: str, damage: Callable[[bytes], bytes]) -> None:
    distilling.end_after(5)
    distilling.partial.write_bytes(damage(distilling.partial.read_bytes()))
    assert bank_fingerprint(distilling()) == whole
    assert distilling.refined[0] == 1


def test_refining_goes_on_where_its_steps_cannot_be_kept(
    distilling: Distilling, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WrongUse("No space left on device.")

    monkeypatch.setattr("segment.files.partial_banks.fresh", full)
    assert bank_fingerprint(distilling()) == whole
