"""A command that is killed at any moment goes on to what an undisturbed one leaves; two never share a folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from console import DRAWS, fitted, photographs, segment, training

from benchmarks.kills import KINDS, kill_commands
from segment.files.runs.lock import lock_folder

FULL = {"kill": 100, **dict.fromkeys(KINDS[1:], 20)}


def check(folder: Path, names: tuple[str, ...], counts: dict[str, int], *, images: int, seed: int) -> None:
    outcomes = kill_commands(folder, names, counts, images=images, seed=seed)
    for name, kinds in outcomes.items():
        for kind, outcome in kinds.items():
            assert outcome.kills >= counts[kind]
            assert outcome.different == [], f"{name} after {kind}, seed {seed}"
            codes = {"kill": {"0", "-9"}, "term": {"0", "143"}, "interrupt": {"0", "130"}, "full": {"0", "2"}}[kind]
            assert set(outcome.ends) <= codes, f"{name} after {kind}, seed {seed}: {outcome.ends}"


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_killed_prediction_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    seed = int.from_bytes(os.urandom(2), "big")
    check(tmp_path, ("predict",), {"kill": 3, "term": 1, "interrupt": 1, "full": 1}, images=10, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["predict", "evaluate", "sweep", "fit"])
def test_every_command_killed_a_hundred_times_ends_in_the_same_bytes(tmp_path: Path, name: str) -> None:
    seed = int.from_bytes(os.urandom(2), "big")
    check(tmp_path, (name,), FULL, images=200, seed=seed)


def test_a_second_process_on_a_run_is_refused_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    bank = fitted(tmp_path / "bank.safetensors", training(tmp_path / "train"))
    photos, run = photographs(tmp_path / "photos", 2), tmp_path / "run"
    words = ("predict", "scenes", photos, "--bank", bank, "-o", run, "--draws", DRAWS, "--precision", "fp32")
    lock = lock_folder(run)
    refused = segment(*words)
    assert refused.code == 2
    assert "Another process is writing" in refused.err
    assert not (run / "manifest.jsonl").exists()
    lock.release()
    assert segment(*words).code == 0
    assert segment(*words, "--resume").code == 0  # the folder is free again, though its lock's file is there
