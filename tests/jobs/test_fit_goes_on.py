"""A fit that ends early keeps its draws, and the same call goes on with them to the same bits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plain import calibrated, seeded
from small_networks import Small

from segment.draws.bank import Bank, bank_fingerprint
from segment.errors import ImageUnreadable, WrongUse
from segment.jobs.fit import fit
from segment.jobs.progress import Progress, silent
from segment.jobs.recording.plan import FitPlan
from segment.networks.load import load_network

DRAWS = 6
DEFAULT = FitPlan(batch=2, draws=DRAWS, seed=1)
IMAGES = [np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8) for seed in range(5)]


class Ended(Exception):
    """What ends a fit early."""


def ends_after(count: int) -> Progress:
    def progress(stage: str, done: int, total: int, draws: int = 0) -> None:
        if stage == "recording draws" and done == count:
            raise Ended

    return progress


class Fit:
    """Fits of one network into one file. recorded: the number of draws at each step of the newest one."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.network = load_network(calibrated(seeded(Small), (16, 24)))
        self.recorded: list[int] = []

    @property
    def partial(self) -> Path:
        return self.output.with_suffix(".partial.safetensors")

    def __call__(self, progress: Progress = silent, *, output: bool = True, plan: FitPlan = DEFAULT) -> Bank:
        self.recorded = []

        def record(stage: str, done: int, total: int, draws: int = 0) -> None:
            if stage == "recording draws":
                self.recorded.append(done)
            progress(stage, done, total, draws)

        place = self.output if output else None
        return fit(self.network, IMAGES, place, plan, progress=record)[0]

    def end_after(self, count: int) -> None:
        with pytest.raises(Ended):
            self(ends_after(count))


@pytest.fixture
def fits(tmp_path: Path) -> Fit:
    return Fit(tmp_path / "bank.safetensors")


@pytest.fixture
def whole(tmp_path: Path) -> str:
    return bank_fingerprint(Fit(tmp_path / "whole.safetensors")())


def test_the_same_call_goes_on_to_the_same_bits(fits: Fit, whole: str, caplog: pytest.LogCaptureFixture) -> None:
    fits.end_after(2)
    assert "2 of 6 draws are kept" in caplog.text
    assert (fits.partial.exists(), fits.output.exists()) == (True, False)
    fits.end_after(5)
    assert fits.recorded == [2, 3, 4, 5]
    assert bank_fingerprint(fits()) == whole
    assert fits.recorded == [5, 6]
    assert (fits.partial.exists(), fits.output.exists()) == (False, True)


def test_of_a_refusal_that_would_come_again_nothing_is_kept(fits: Fit, caplog: pytest.LogCaptureFixture) -> None:
    def refused(stage: str, done: int, total: int, draws: int = 0) -> None:
        if stage == "recording draws" and done == 2:
            raise WrongUse("Statistics images must share one size.")

    with pytest.raises(WrongUse, match="one size"):
        fits(refused)
    assert "the same command goes on" not in caplog.text
    assert not fits.partial.exists()


def test_all_draws_that_were_recorded_are_kept_when_time_has_passed(
    fits: Fit, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segment.jobs.recording.worker.EVERY", 0)
    kept: list[bytes] = []

    def copied(stage: str, done: int, total: int, draws: int = 0) -> None:
        if done > 1 and fits.partial.exists():
            kept.append(fits.partial.read_bytes())

    fits(copied)
    for content in kept:  # as SIGKILL would have left each
        fits.output.unlink(missing_ok=True)
        fits.partial.write_bytes(content)
        assert bank_fingerprint(fits()) == whole
    assert len(kept) > DRAWS - 3


def test_a_whole_bank_of_the_same_name_is_no_part_of_one(fits: Fit, whole: str) -> None:
    fits()
    fits.output.rename(fits.partial)
    assert bank_fingerprint(fits()) == whole
    assert fits.recorded[0] == 0


OTHERS = (replace(DEFAULT, seed=2), replace(DEFAULT, draws=5), replace(DEFAULT, batch=3))


@pytest.mark.parametrize("other", OTHERS, ids=("seed", "draws", "batch"))
def test_another_call_begins_anew(fits: Fit, other: FitPlan) -> None:
    fits.end_after(3)
    made = fits(plan=other)
    assert fits.recorded[0] == 0
    assert bank_fingerprint(made) == bank_fingerprint(fits(plan=other, output=False))


def test_another_network_begins_anew(fits: Fit) -> None:
    fits.end_after(3)
    fits.network = load_network(calibrated(seeded(Small, 5), (16, 24)))
    fits()
    assert fits.recorded[0] == 0


@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-9], lambda content: b"", lambda content: content.replace(b"at_once", b"at_oncf")],
)
def test_a_damaged_file_is_recorded_anew(fits: Fit, whole: str, damage: Callable[[bytes], bytes]) -> None:
    fits.end_after(3)
    fits.partial.write_bytes(damage(fits.partial.read_bytes()))
    assert bank_fingerprint(fits()) == whole
    assert fits.recorded[0] == 0


def test_it_goes_on_as_it_began_whatever_memory_is_free_now(
    fits: Fit, whole: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits.end_after(3)
    monkeypatch.setattr("segment.jobs.recording.bank._parts", None)  # how images go through is not planned again
    assert bank_fingerprint(fits()) == whole


def test_a_fit_goes_on_where_draws_cannot_be_kept(
    fits: Fit, whole: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise WrongUse("No space left on device.")

    monkeypatch.setattr("segment.jobs.recording.worker.EVERY", 0)
    monkeypatch.setattr("segment.files.banks.unfinished.save_bank", full)
    with caplog.at_level(logging.INFO):
        assert bank_fingerprint(fits()) == whole
    assert "are not kept: No space left" in caplog.text


def test_an_error_of_an_image_keeps_the_draws_before_it(fits: Fit) -> None:
    def fails(stage: str, done: int, total: int, draws: int = 0) -> None:
        if done == 4:
            raise ImageUnreadable("Gone.")

    with pytest.raises(ImageUnreadable):
        fits(fails)
    fits()
    assert fits.recorded[0] == 4
